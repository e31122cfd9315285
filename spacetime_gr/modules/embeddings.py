"""Side information of an action, added to the embeddings of its tokens."""

import torch
from torch import Tensor, nn

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig


class SideEmbeddings(nn.Module):
    """Embeds the side inputs that stand beside `input_ids`; index 0 of each means 'nothing here' and adds nothing.

    At u: hashed user, block in which the person stands (through the token table and a projection, so that it shares
    what is learnt of the blocks), time since the last action. At the inner token: category and position in the block.
    """

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_user_buckets = config.num_user_buckets
        if config.num_user_buckets:
            self.user = nn.Embedding(config.num_user_buckets + 1, width, padding_idx=0)
        self.user_block = nn.Linear(width, width, bias=False)
        self.gap = nn.Embedding(config.num_gap_buckets, width, padding_idx=0)
        self.category = nn.Embedding(config.num_categories + 1, width, padding_idx=0)
        self.cell = nn.Embedding(config.num_cells + 1, width, padding_idx=0)

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
        if user_hash is not None and self.num_user_buckets:
            bucket = torch.where(user_hash > 0, user_hash % self.num_user_buckets + 1, 0)
            total = total + self.user(bucket)
        if user_block is not None:
            standing = self.user_block(token_table(user_block))
            total = total + standing * (user_block != 0).unsqueeze(-1).to(standing.dtype)
        if gap is not None:
            total = total + self.gap(gap)
        if category is not None:
            total = total + self.category(category)
        if cell is not None:
            total = total + self.cell(cell)
        return total
