"""What kinds of places a person goes to at a time like this: given to the candidates, also to those never visited.

Most of what tells where in an unknown block somebody will go is what he goes for at this hour elsewhere. The body could
learn to carry that from the past to the candidates' scores; counting it costs less data.
"""

from torch import Tensor, nn
from torch.nn import functional

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.memory import NUM_TIME_RELATIONS, TimeRelations
from spacetime_gr.modules.typed_heads import NEVER, full_precision
from spacetime_gr.modules.zero_start import ZeroLinear

MIN_SHARE = 0.01  # added to each share: a category that is not in the past is not ruled out


class Habits(nn.Module):
    """Scores of categories: a weight times the log of their shares in the past, as a softmax over visits weighs it.

    Visits are weighed by how long ago they were, in time and in visits, and by the time of day; as one at the start.
    """

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        self.relation = ZeroLinear(config.hidden_size, NUM_TIME_RELATIONS)
        self.weight = ZeroLinear(config.hidden_size, 1)

    def forward(
        self, hidden: Tensor, category: Tensor, num_categories: int, visible: Tensor, relations: TimeRelations
    ) -> Tensor:
        """Scores to add to those of a request's candidates by their category, (batch, queries, num_categories + 1).

        Args:
            hidden: states of the requests' u tokens, shape (batch, queries, hidden_size).
            category: of the memories, 0 unknown, shape (batch, slots).
            num_categories: how many there are beside the unknown one.
            visible: which memories each request may know, shape (batch, queries, slots).
            relations: from `memory.relate_times`.
        """
        bias = self.relation(hidden)
        elapsed, clock, recency = (bias.gather(-1, kind) for kind in relations)
        scores = full_precision(elapsed + clock + recency).masked_fill(~visible, NEVER)
        weights = functional.softmax(scores, dim=-1)
        shares = weights.new_zeros(*hidden.shape[:2], num_categories + 1)
        shares = shares.scatter_add(2, category.unsqueeze(1).expand_as(weights), weights.masked_fill(~visible, 0.0))
        return self.weight(hidden) * (shares + MIN_SHARE).log().to(hidden.dtype)
