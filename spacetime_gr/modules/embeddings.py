"""Side information of an action, added to the embeddings of its tokens."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.places import coarse_cells
from spacetime_gr.modules.zero_start import ZeroEmbedding, ZeroLinear
from spacetime_gr.vocabulary import CELL_BITS, FINE_CELL_BITS, HOURS, HOURS_PER_WEEK


def contexts_read(input_ids: Tensor, config: SpacetimeGRConfig) -> Tensor:
    """Tokens as the embedding reads them: u tokens without the mode or the hour, where the configuration says so.

    Mode and hour share one id. Without the hour it is that of the mode at an unknown time (the blind setting's),
    without the mode that of the first mode. So rows of one tokenizer serve models with and without.

    Args:
        input_ids: any shape.
    """
    if config.use_mode and config.use_hour:
        return input_ids
    vocabulary = config.vocabulary
    is_context = (input_ids >= vocabulary.context_start) & (input_ids < vocabulary.block_start)
    context = input_ids - vocabulary.context_start
    hour = context % HOURS if config.use_hour else HOURS_PER_WEEK
    mode = context // HOURS if config.use_mode else 0
    return torch.where(is_context, vocabulary.context_start + mode * HOURS + hour, input_ids)


class SideEmbeddings(nn.Module):
    """Embeds the side inputs that stand beside `input_ids`; index 0 of each means 'nothing here' and adds nothing.

    At u: hashed user, block in which the person stands (through the blocks' own embeddings and a projection, so that it
    shares what is learnt of them), time since the last action, distance from the last place. At the inner token:
    category, position in the block at two resolutions, and a projection of the place's own vector. What the
    configuration switches off has no weights and is not read.
    """

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        width = config.hidden_size

        def table(size: int, used: bool, kind: type[nn.Embedding] = nn.Embedding) -> nn.Embedding | None:
            return kind(size, width, padding_idx=0) if used else None

        self.num_user_buckets = config.num_user_buckets
        self.user = table(config.num_user_buckets + 1, config.num_user_buckets > 0)
        self.user_block = nn.Linear(width, width, bias=False) if config.use_user_block else None
        self.gap = table(config.num_gap_buckets, config.use_gap)
        self.category = table(config.num_categories + 1, config.use_category)
        self.cell = table((1 << CELL_BITS) + 1, config.use_position)
        self.distance = table(config.num_distance_buckets, config.use_distance, ZeroEmbedding)
        self.fine_cell = table((1 << FINE_CELL_BITS) + 1, config.use_fine_position, ZeroEmbedding)
        size = config.poi_embedding_size
        self.poi = ZeroLinear(size, width, bias=False) if size else None

    def forward(
        self,
        embed: Callable[[Tensor], Tensor],
        user_hash: Tensor | None = None,
        user_block: Tensor | None = None,
        gap: Tensor | None = None,
        distance: Tensor | None = None,
        category: Tensor | None = None,
        cell: Tensor | None = None,
        poi_vector: Tensor | None = None,
    ) -> Tensor | float:
        """Sum of the given side inputs' embeddings, shape (batch, length, hidden_size); 0.0 when none is given.

        Args:
            embed: embeds block tokens.
            poi_vector: shape (batch, length, poi_embedding_size), zero where there is none.
            Others: shape (batch, length).
        """
        total: Tensor | float = 0.0
        if user_hash is not None and self.user is not None:
            bucket = torch.where(user_hash > 0, user_hash % self.num_user_buckets + 1, 0)
            total = total + self.user(bucket)
        if user_block is not None and self.user_block is not None:
            standing = self.user_block(embed(user_block))
            total = total + standing * (user_block != 0).unsqueeze(-1).to(standing.dtype)
        looked_up = (
            (self.gap, gap),
            (self.category, category),
            (self.cell, None if cell is None else coarse_cells(cell)),
            (self.distance, distance),
            (self.fine_cell, cell),
            (self.poi, None if poi_vector is None or self.poi is None else poi_vector.to(self.poi.weight.dtype)),
        )
        for layer, values in looked_up:
            if layer is not None and values is not None:
                total = total + layer(values)
        return total
