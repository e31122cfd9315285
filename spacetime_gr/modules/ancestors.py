"""Embeddings of the map tiles above the blocks, so that rare blocks share what is learnt of those around them."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.index import POIIndex
from spacetime_gr.index.ancestors import ancestor_tiles
from spacetime_gr.modules.zero_start import ZeroEmbedding

_DOUBLINGS = 5  # 2^5 tiles above one another: a quadtree has 26 levels


class BlockAncestors(nn.Module):
    """One embedding per tile, zero at the start; a block takes the sum over all tiles above it.

    Read and scored alike: the embedding of block b is e_b + S_b, its score h . (e_b + S_b), S_b the sum.
    """

    above: Tensor
    of_block: Tensor

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        self.tile = ZeroEmbedding(config.num_ancestors + 1, config.hidden_size, padding_idx=0)
        self.block_start, self.block_stop = config.vocabulary.block_start, config.vocabulary.inner_start
        self.register_buffer("above", torch.zeros(config.num_ancestors + 1, dtype=torch.int32))
        self.register_buffer("of_block", torch.zeros(config.num_blocks, dtype=torch.int32))

    @torch.no_grad()
    def load(self, index: POIIndex) -> None:
        """Copy the tiles of an index.

        Raises:
            ValueError: it has another number of tiles than the model's configuration.
        """
        above, of_block = ancestor_tiles(index)
        if len(above) != len(self.above):
            raise ValueError(
                f"the index has {len(above) - 1} tiles above its blocks, the model was configured for "
                f"num_ancestors={len(self.above) - 1}; build the configuration with tokenizer.config_kwargs()"
            )
        self.above.copy_(torch.from_numpy(above))
        self.of_block.copy_(torch.from_numpy(np.pad(of_block, (0, len(self.of_block) - len(of_block)))))

    def forward(self) -> Tensor:
        """Sum of the embeddings of each tile and all above it, shape (num_ancestors + 1, hidden_size); row 0 is zero.

        For all blocks at once: pointer doubling, so five additions whatever the depth.
        """
        above = self.above
        total = self.tile(torch.arange(len(above), device=above.device))
        for _ in range(_DOUBLINGS):
            total = total + functional.embedding(above, total)
            above = above[above]
        return total

    def at(self, tokens: Tensor, sums: Tensor) -> Tensor:
        """Rows of `sums` for the block tokens among some tokens, zero for all others; shape (*tokens, hidden_size)."""
        is_block = (tokens >= self.block_start) & (tokens < self.block_stop)
        block = torch.where(is_block, tokens - self.block_start, 0)
        return functional.embedding(torch.where(is_block, self.of_block[block], 0), sums)

    def of_all_blocks(self, sums: Tensor) -> Tensor:
        """Rows of `sums` for all blocks, shape (num_blocks, hidden_size)."""
        return functional.embedding(self.of_block, sums)
