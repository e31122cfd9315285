"""Cut sorted cell keys into blocks. Everything works on whole arrays, level by level; nothing loops over POIs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index.geometry import MAX_LEVEL


@dataclass(frozen=True)
class Blocks:
    """Blocks as ranges of POIs sorted by cell key: block b holds sorted positions `starts[b]` to `starts[b + 1]`.

    `keys` is the first cell key that belongs to the block's cell, `levels` its quadtree level (0 for the grid).
    """

    starts: NDArray[np.int64]
    keys: NDArray[np.uint64]
    levels: NDArray[np.int8]


def split_quadtree(sorted_keys: NDArray[np.uint64], max_pois_per_block: int) -> Blocks:
    """Adaptive tiles: a tile is split into its four children while it holds more than `max_pois_per_block` POIs.

    Tiles without POIs make no block. A tile of the deepest level that still holds too many (identical coordinates:
    towers, malls) is cut into several blocks with the same tile, in the order of the POIs.
    """
    leaf_starts, leaf_ends, leaf_levels = [], [], []
    starts, ends = np.zeros(1, np.int64), np.full(1, len(sorted_keys), np.int64)
    prefixes: NDArray[np.uint64] = np.zeros(1, np.uint64)  # the tile's Morton key at its own level
    for level in range(MAX_LEVEL + 1):
        done = (ends - starts <= max_pois_per_block) | (level == MAX_LEVEL)
        keep = done & (ends > starts)
        leaf_starts.append(starts[keep])
        leaf_ends.append(ends[keep])
        leaf_levels.append(np.full(int(keep.sum()), level, np.int8))
        starts, ends, parents = starts[~done], ends[~done], prefixes[~done]
        if len(starts) == 0:
            break
        children: NDArray[np.uint64] = np.left_shift(parents[:, None], np.uint64(2)) + np.arange(
            4, dtype=np.uint64
        )  # (tiles, 4)
        shift = np.uint64(2 * (MAX_LEVEL - level - 1))
        inner_bounds = np.searchsorted(sorted_keys, np.left_shift(children[:, 1:], shift)).astype(np.int64)
        bounds = np.concatenate([starts[:, None], inner_bounds, ends[:, None]], axis=1)
        starts, ends, prefixes = bounds[:, :-1].ravel(), bounds[:, 1:].ravel(), children.ravel()
    starts, ends = np.concatenate(leaf_starts), np.concatenate(leaf_ends)
    levels = np.concatenate(leaf_levels)
    order = np.argsort(starts)
    starts, ends, levels = starts[order], ends[order], levels[order]
    starts, source = _cut_ranges(starts, ends, max_pois_per_block)
    levels = levels[source]
    shifts = (2 * (MAX_LEVEL - levels.astype(np.int64))).astype(np.uint64)
    keys = (sorted_keys[starts] >> shifts) << shifts
    return Blocks(np.append(starts, len(sorted_keys)), keys, levels)


def split_grid(sorted_keys: NDArray[np.uint64], max_pois_per_block: int | None) -> Blocks:
    """One block per occupied square; a square over `max_pois_per_block` (None: no bound) is cut into several."""
    starts = np.flatnonzero(np.append(True, sorted_keys[1:] != sorted_keys[:-1])).astype(np.int64)
    ends = np.append(starts[1:], len(sorted_keys))
    if max_pois_per_block is not None:
        starts, _ = _cut_ranges(starts, ends, max_pois_per_block)
    return Blocks(np.append(starts, len(sorted_keys)), sorted_keys[starts], np.zeros(len(starts), np.int8))


def _cut_ranges(
    starts: NDArray[np.int64], ends: NDArray[np.int64], longest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut ranges into pieces of at most `longest`; returns the pieces' starts and the range each came from."""
    pieces = -(-(ends - starts) // longest)
    source = np.repeat(np.arange(len(starts)), pieces)
    piece = np.arange(len(source)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return starts[source] + piece * longest, source
