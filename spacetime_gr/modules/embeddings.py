"""Side information of an action, added to the embeddings of its tokens."""

import torch
from torch import Tensor, nn

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.vocabulary import HOURS, HOURS_PER_WEEK


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

    At u: hashed user, block in which the person stands (through the token table and a projection, so that it shares
    what is learnt of the blocks), time since the last action. At the inner token: category and position in the block.
    What the configuration switches off has no weights and is not read.
    """

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        width = config.hidden_size

        def table(size: int, used: bool) -> nn.Embedding | None:
            return nn.Embedding(size, width, padding_idx=0) if used else None

        self.num_user_buckets = config.num_user_buckets
        self.user = table(config.num_user_buckets + 1, config.num_user_buckets > 0)
        self.user_block = nn.Linear(width, width, bias=False) if config.use_user_block else None
        self.gap = table(config.num_gap_buckets, config.use_gap)
        self.category = table(config.num_categories + 1, config.use_category)
        self.cell = table(config.num_cells + 1, config.use_position)

    def forward(
        self,
        token_table: nn.Embedding,
        user_hash: Tensor | None = None,
        user_block: Tensor | None = None,
        gap: Tensor | None = None,
        category: Tensor | None = None,
        cell: Tensor | None = None,
    ) -> Tensor | float:
        """Sum of the given side inputs' embeddings, shape (batch, length, hidden_size); 0.0 when none is given."""
        total: Tensor | float = 0.0
        if user_hash is not None and self.user is not None:
            bucket = torch.where(user_hash > 0, user_hash % self.num_user_buckets + 1, 0)
            total = total + self.user(bucket)
        if user_block is not None and self.user_block is not None:
            standing = self.user_block(token_table(user_block))
            total = total + standing * (user_block != 0).unsqueeze(-1).to(standing.dtype)
        for embedding, values in ((self.gap, gap), (self.category, category), (self.cell, cell)):
            if embedding is not None and values is not None:
                total = total + embedding(values)
        return total
