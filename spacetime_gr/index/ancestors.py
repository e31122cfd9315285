"""The map tiles above the blocks of a quadtree: what neighbouring blocks have in common."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from spacetime_gr.index.poi_index import POIIndex

_LEVEL_SHIFT = np.uint64(52)  # a tile as one integer: its level above the bits of the deepest key


def ancestor_tiles(index: "POIIndex") -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The tiles in which blocks part, numbered from 1 from coarse to fine; 0 stands for none.

    A tile that holds the same blocks as one of its children says nothing of its own and is left out, so there are fewer
    tiles than blocks. One of the finest, if it holds several blocks, is a tile where these part. Blocks that were added
    later take those of the block that they grew out of, so the tiles of an index never change. A grid has none.

    Returns:
        The next tile above each tile, shape (num_tiles + 1,), and the lowest tile above each block, shape
        (num_blocks,).
    """
    if index.scheme.name != "quadtree":
        return np.zeros(1, np.int32), np.zeros(index.num_blocks, np.int32)
    parents = index.blocks.parents.astype(np.int64)
    base = np.flatnonzero(parents < 0)
    base = base[np.argsort(index.blocks.keys[base])]
    keys = index.blocks.keys[base]
    # In the order of the keys, the tiles in which blocks part are those where two neighbours do.
    bits = np.frexp((keys[1:] ^ keys[:-1]).astype(np.float64))[1]  # keys have 52 bits, which float64 holds
    below = (2 * ((bits + 1) // 2)).astype(np.uint64)
    levels = np.uint64(index.scheme.max_level) - below // np.uint64(2)
    tiles, between = np.unique((levels << _LEVEL_SHIFT) | (keys[1:] >> below), return_inverse=True)
    # Tile between each block and the one before it; coarse ones stand first, so the deeper has the greater number.
    between = np.concatenate([[0], between + 1, [0]]).astype(np.int32)
    of_block = np.zeros(index.num_blocks, np.int32)
    of_block[base] = np.maximum(between[:-1], between[1:])

    spans = index.scheme.span_bits((tiles >> _LEVEL_SHIFT).astype(np.int64))
    prefix = tiles & ((np.uint64(1) << _LEVEL_SHIFT) - np.uint64(1))
    first = np.searchsorted(keys, prefix << spans)
    stop = np.searchsorted(keys, (prefix + np.uint64(1)) << spans)
    above = np.concatenate([[0], np.maximum(between[first], between[stop])]).astype(np.int32)

    added = np.flatnonzero(parents >= 0)
    source = parents[added]
    while (later := parents[source] >= 0).any():  # a parent may have been added, too; parents come before children
        source = np.where(later, parents[source], source)
    of_block[added] = of_block[source]
    return above, of_block
