"""Softmax over the range of the token type that comes next, and the chunked loss over supervised positions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.places import (
    NUM_LOYALTY_BUCKETS,
    NUM_POPULARITY_BUCKETS,
    POPULARITY_PER_OCTAVE,
    PlaceTable,
    coarse_cells,
)
from spacetime_gr.modules.range_likelihood import NEVER, RangeTargets, full_precision, range_log_likelihood
from spacetime_gr.modules.zero_start import ZeroLinear
from spacetime_gr.vocabulary import CELL_BITS, FINE_CELL_BITS

GATHERED_AT_ONCE = 1 << 24  # numbers; bounds the memory of `gathered_products`
_DRAWS_NOTHING: Any = {"use_reentrant": False, "preserve_rng_state": False}  # no random state to be read and put back


class RangeLinear(nn.Linear):
    """A linear head of which any range of outputs can be had.

    The slice is taken inside `forward`, so that ZeRO-3 gathers the weight first.
    """

    def forward(
        self, hidden: Tensor, start: int = 0, stop: int | None = None, targets: RangeTargets | None = None
    ) -> Any:
        """Scores of a range of outputs (default all), shape (..., stop - start).

        With `targets` instead their log-probabilities (n,) and a `Tail`, the outputs after the range.
        """
        stop = self.out_features if stop is None else stop
        if targets is None:
            return functional.linear(hidden, self.weight[start:stop])
        log_probs, rest = range_log_likelihood(hidden, self.weight, start, stop, targets)
        return log_probs, Tail(rest, stop)


class Tail(NamedTuple):
    """The last outputs of a linear head, as `RangeLinear` gives them: rows of its table from `first` to the end."""

    weight: Tensor
    first: int

    def __call__(self, hidden: Tensor, start: int, stop: int) -> Tensor:
        """Scores of a range of outputs, shape (..., stop - start)."""
        return functional.linear(hidden, self.weight[start - self.first : stop - self.first])


class BlockScores(nn.Module):
    """Unnormalised scores of all blocks: token embedding, plus a spatial kernel around the person's place."""

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        self.vocabulary = config.vocabulary
        spatial = config.use_user_block and config.spatial_features > 0
        self.spatial = nn.Linear(config.hidden_size, config.spatial_features // 2) if spatial else None

    def forward(
        self,
        lm_head: RangeLinear,
        places: PlaceTable,
        hidden: Tensor,
        user_block: Tensor,
        ancestors: Tensor | None = None,
    ) -> Tensor:
        """Scores of shape (n, num_blocks), at least float32 (half precision does not hold `NEVER`, of spare blocks).

        Args:
            hidden: states at u tokens, shape (n, hidden_size).
            user_block: block tokens of where the persons stand, 0 unknown, shape (n,).
            ancestors: what the map tiles above add to each block's embedding, shape (num_blocks, hidden_size).
        """
        start = self.vocabulary.block_start
        query, key = self._spatial_kernel(places, hidden, user_block)
        scores = lm_head(hidden, start, start + self.vocabulary.num_blocks) + query @ key.T
        if ancestors is not None:
            scores = scores + functional.linear(hidden, ancestors)
        return full_precision(scores).masked_fill(places.block_sizes == 0, NEVER)

    def log_likelihood(
        self,
        lm_head: RangeLinear,
        places: PlaceTable,
        hidden: Tensor,
        user_block: Tensor,
        ancestors: Tensor | None,
        targets: Tensor,
        chunk_size: int,
    ) -> tuple[Tensor, Tail]:
        """Log-probabilities of target blocks (ids from 0), shape (n,), at least float32; `chunk_size` rows at a time.

        The softmax of `forward`'s scores, without ever holding more of them than a chunk. The second result is the head
        of inner ids and actions for the rest of the loss.
        """
        start = self.vocabulary.block_start
        query, key = self._spatial_kernel(places, hidden, user_block)
        wanted = RangeTargets(targets, query, key, ancestors, places.block_sizes == 0, chunk_size)
        result: tuple[Tensor, Tail] = lm_head(hidden, start, start + self.vocabulary.num_blocks, wanted)
        return result

    def _spatial_kernel(self, places: PlaceTable, hidden: Tensor, user_block: Tensor) -> tuple[Tensor, Tensor]:
        """Two factors of the spatial part of the scores, (n, spatial_features) and (num_blocks, spatial_features)."""
        if self.spatial is None:
            return hidden.new_empty(len(hidden), 0), hidden.new_empty(self.vocabulary.num_blocks, 0)
        weight = self.spatial(hidden) * (user_block > 0).unsqueeze(-1).to(hidden.dtype)
        everywhere = places.all_spatial_features(hidden.dtype)
        here = everywhere[(user_block - self.vocabulary.block_start).clamp(min=0)]
        return torch.cat([weight, weight], dim=-1) * here, everywhere


class InnerScores(nn.Module):
    """Unnormalised scores of the inner ids of one block each; ids that the block does not have get `NEVER`.

    Fused, they start from the log of the candidates' visitors: a softmax of that is what popularity alone says.
    """

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        self.vocabulary = config.vocabulary
        self.fused = config.inner_head == "fused"
        if self.fused:
            width = config.hidden_size
            self.category = nn.Linear(width, config.num_categories + 1) if config.use_category else None
            self.cell = nn.Linear(width, (1 << CELL_BITS) + 1) if config.use_position else None
            self.prior = ZeroLinear(width, 1)
            self.popularity = ZeroLinear(width, NUM_POPULARITY_BUCKETS)
            self.loyalty = ZeroLinear(width, NUM_LOYALTY_BUCKETS)
            self.fine_cell = ZeroLinear(width, (1 << FINE_CELL_BITS) + 1) if config.use_fine_position else None
            self.poi = ZeroLinear(width, config.poi_embedding_size, bias=False) if config.poi_embedding_size else None

    def forward(
        self,
        lm_head: RangeLinear | Tail,
        places: PlaceTable,
        hidden: Tensor,
        blocks: Tensor,
        habits: Tensor | None = None,
    ) -> Tensor:
        """Scores of shape (n, num_inner), at least float32.

        Args:
            hidden: states at block tokens, shape (n, hidden_size).
            blocks: their block ids from 0, shape (n,).
            habits: scores to add by category, from `Habits`, shape (n, num_categories + 1).
        """
        start = self.vocabulary.inner_start
        scores = lm_head(hidden, start, start + self.vocabulary.num_inner)
        positions, exists = places.candidates(blocks)
        if self.fused:
            # What a candidate is enters as a score per category, cell, ..., gathered for each candidate.
            if self.category is not None:
                by_category = self.category(hidden) if habits is None else self.category(hidden) + habits
                scores = scores + by_category.gather(-1, places.category[positions].long())
            fine_cells = places.fine_cell[positions].long()
            if self.cell is not None:
                scores = scores + self.cell(hidden).gather(-1, coarse_cells(fine_cells))
            if self.fine_cell is not None:
                scores = scores + self.fine_cell(hidden).gather(-1, fine_cells)
            if self.poi is not None and places.vector is not None:
                scores = scores + gathered_products(self.poi(hidden), places.vector, positions)
            popularity = places.popularity[positions]
            # Half precision would round what is added to numbers as large as these.
            scores = full_precision(scores)
            log_visitors = popularity.to(scores.dtype) * (math.log(2.0) / POPULARITY_PER_OCTAVE)
            scores = scores + (1.0 + self.prior(hidden)) * log_visitors
            scores = scores + self.popularity(hidden).gather(-1, popularity.long())
            scores = scores + self.loyalty(hidden).gather(-1, places.loyalty[positions].long())
        return full_precision(scores).masked_fill(~exists, NEVER)


def gathered_products(query: Tensor, table: Tensor, positions: Tensor) -> Tensor:
    """Products of each query with rows of a table without gradient, shape (n, candidates).

    Taken in parts that are recomputed in backward: the gathered rows of all queries would take the size of the vectors
    times the memory of the scores.

    Args:
        query: shape (n, size).
        table: shape (rows, size).
        positions: rows of the table, shape (n, candidates).
    """

    def part(query: Tensor, positions: Tensor) -> Tensor:
        return torch.einsum("ns,ncs->nc", query, table[positions].to(query.dtype))

    rows = max(1, GATHERED_AT_ONCE // (positions.shape[1] * table.shape[1]))
    parts = zip(query.split(rows), positions.split(rows), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(part, *pair, **_DRAWS_NOTHING) for pair in parts])
    return torch.cat([part(*pair) for pair in parts])


def chunked_log_likelihood(
    scores: Callable[..., Tensor], inputs: tuple[Tensor, ...], targets: Tensor, chunk_size: int, num_slots: int
) -> Tensor:
    """Log-probability of each target under the softmax of its scores, in chunks (several are recomputed in backward).

    Args:
        scores: maps a chunk of every input to scores (chunk, classes).
        inputs: tensors with n rows each.
        targets: class of each row, shape (n,).
        chunk_size: rows per chunk.
        num_slots: the most rows that any rank can have (from the batch's shape). It alone decides the number of chunks:
            under ZeRO-3 every chunk gathers weights, and ranks that disagree on their number wait for ever.

    Returns:
        log-probabilities, shape (n,), at least float32.
    """

    def one_chunk(target: Tensor, *chunk: Tensor) -> Tensor:
        log_probs = functional.log_softmax(full_precision(scores(*chunk)), dim=-1)
        return log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1)

    pieces = []
    for first in range(0, num_slots, chunk_size):
        rows = slice(first, first + chunk_size)
        chunk = (targets[rows], *(tensor[rows] for tensor in inputs))
        if torch.is_grad_enabled() and num_slots > chunk_size:  # a single chunk is all there is: nothing to save
            pieces.append(checkpoint(one_chunk, *chunk, **_DRAWS_NOTHING))
        else:
            pieces.append(one_chunk(*chunk))
    return torch.cat(pieces)
