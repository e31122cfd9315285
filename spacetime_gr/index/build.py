"""From places to blocks and inner ids. Everything works on whole arrays, level by level; nothing loops over POIs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index.geometry import to_degrees
from spacetime_gr.index.schemes import Keys, Levels, Scheme
from spacetime_gr.index.sorting import argsort, chunks, number_bits, ones, sort_by_prefix, sort_runs, tied


@dataclass(frozen=True)
class Cells:
    """Cells as ranges of POIs sorted by key: cell c holds sorted positions `starts[c]` to `starts[c + 1]`.

    `keys` is the first key of the cell, `levels` its level. Cells of the deepest level may stand several times.
    """

    starts: NDArray[np.int64]
    keys: Keys
    levels: Levels


@dataclass(frozen=True)
class Roots:
    """Cells to begin from: ranges of sorted POIs, and the level of the cell that holds each."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    levels: Levels


@dataclass(frozen=True)
class Tiles(Roots):
    """Cells met on the way down, those that hold POIs; `finished` ones are not split further.

    `parent_sizes` counts the POIs of the cell that each was split from; a cell to begin from has `NO_PARENT`.
    """

    parent_sizes: NDArray[np.int64]
    finished: NDArray[np.bool_]

    def finished_ones(self) -> Roots:
        """The cells that are not split further."""
        return Roots(self.starts[self.finished], self.ends[self.finished], self.levels[self.finished])


NO_PARENT = np.iinfo(np.int64).max  # more POIs than any bound: what has no parent stands at every bound


def whole_map(scheme: Scheme, sorted_keys: Keys) -> Roots:
    """The world as the one tile to begin from; for the grid, its occupied squares."""
    if scheme.max_level:
        return Roots(np.zeros(1, np.int64), np.full(1, len(sorted_keys), np.int64), np.zeros(1, np.int8))
    span = scheme.span_bits(np.zeros(1, np.int8))[0]
    edges = [
        part.start + 1 + np.flatnonzero((sorted_keys[part] ^ sorted_keys[part.start + 1 : part.stop + 1]) >> span)
        for part in chunks(len(sorted_keys) - 1)
    ]
    starts = np.concatenate([np.zeros(1, np.int64), *edges])
    return Roots(starts, np.append(starts[1:], len(sorted_keys)), np.zeros(len(starts), np.int8))


def split(scheme: Scheme, sorted_keys: Keys, roots: Roots, max_pois: int | None) -> Cells:
    """Cut cells until none holds more than `max_pois` POIs (None: no bound).

    A quadtree tile is split into its four children; those without POIs make no block. A cell of the deepest level that
    still holds too many (identical coordinates: towers, malls; for the grid any full square) is cut into several blocks
    with the same cell, in the order of the POIs.
    """
    longest = len(sorted_keys) if max_pois is None else max_pois
    done = [tiles.finished_ones() for tiles in descend(scheme, sorted_keys, roots, longest)]
    starts = np.concatenate([part.starts for part in done])
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    ends, levels = (np.concatenate([getattr(part, name) for part in done])[order] for name in ("ends", "levels"))
    starts, source = _cut_ranges(starts, ends, longest)
    levels = levels[source]
    spans = scheme.span_bits(levels)
    return Cells(np.append(starts, ends[-1]), (sorted_keys[starts] >> spans) << spans, levels)


def descend(scheme: Scheme, sorted_keys: Keys, roots: Roots, longest: int) -> Iterator[Tiles]:
    """The cells that `split` meets, generation by generation: every cell with POIs whose parent holds over `longest`.

    The same cells serve every larger bound m: those with at most m POIs whose parent holds more are its blocks.
    """
    starts, ends, levels = roots.starts, roots.ends, roots.levels
    parent_sizes = np.full(len(starts), NO_PARENT)
    while len(starts):
        finished = (ends - starts <= longest) | (levels == scheme.max_level)
        yield Tiles(starts, ends, levels, parent_sizes, finished)
        parents = Roots(starts[~finished], ends[~finished], levels[~finished])
        children = _children(scheme, sorted_keys, parents)
        held = children.ends > children.starts
        starts, ends, levels = children.starts[held], children.ends[held], children.levels[held]
        parent_sizes = np.repeat(parents.ends - parents.starts, 4)[held]


def _children(scheme: Scheme, sorted_keys: Keys, tiles: Roots) -> Roots:
    """The four children of each tile, the empty ones too."""
    levels = tiles.levels + np.int8(1)
    spans = scheme.span_bits(levels)
    first = (sorted_keys[tiles.starts] >> (spans + np.uint64(2))) << np.uint64(2)
    following = np.add(first[:, None], np.arange(1, 4, dtype=np.uint64), dtype=np.uint64)
    bounds = following << spans[:, None]
    inside = np.searchsorted(sorted_keys, bounds).astype(np.int64)
    edges = np.concatenate([tiles.starts[:, None], inside, tiles.ends[:, None]], axis=1)
    return Roots(edges[:, :-1].ravel(), edges[:, 1:].ravel(), np.repeat(levels, 4))


def capacity_of(num_blocks: int, spare_blocks: float) -> int:
    """Block ids that are reserved for so many blocks, with the spare ones (a share of the blocks)."""
    return num_blocks + int(np.ceil(spare_blocks * num_blocks))


def _cut_ranges(
    starts: NDArray[np.int64], ends: NDArray[np.int64], longest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut ranges into pieces of at most `longest`; returns the pieces' starts and the range each came from."""
    pieces = -(-(ends - starts) // longest)
    source = np.repeat(np.arange(len(starts)), pieces)
    piece = np.arange(len(source)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return starts[source] + piece * longest, source


def sort_by_key(scheme: Scheme, keys: Keys, max_pois: int | None) -> tuple[NDArray[np.int64], Keys]:
    """Places in the order of their keys as far as blocks need it, ties as they stand; and the sorted keys.

    The first bits of a key (at 100 M places 37: tiles of level 18) share an integer with the place's number, so that
    one plain sort does it. The lower bits are sorted, and stand in the sorted keys, only where more than `max_pois`
    places share the first ones: nowhere else does a block end between them.
    """
    room = 64 - number_bits(len(keys))
    # Whole levels of the quadtree (two bits each): half of one would tell children apart, but not name their tiles.
    dropped = np.uint64(-(-max(0, scheme.key_bits - room) // 2) * 2)
    order, ordered = sort_by_prefix(keys >> dropped, scheme.key_bits - int(dropped))
    if dropped:
        # Squares of a very fine grid are not told apart by the first bits: all places need the others.
        enough = scheme.max_level > 0 or dropped <= scheme.span_bits(np.zeros(1, np.int8))[0]
        positions, runs = tied(ordered, (max_pois or len(keys)) if enough else 0)
        ordered <<= dropped
        sort_runs(order, positions, runs, [(keys[order[positions]] & ones(int(dropped)), int(dropped))])
        ordered[positions] = keys[order[positions]]
    return order, ordered


def order_inside(block: NDArray[np.integer], num_blocks: int, visits: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Numbers of the places block by block, inside each by falling visits, ties by their number; shape (n,).

    Args:
        block, visits: of the places, shape (n,).
    """
    block_bits, place_bits = number_bits(num_blocks), number_bits(len(block))
    # Visits take the bits that are left in 64; the few places above that cap are put in order afterwards.
    most = int(visits.max(initial=0))
    cap = np.uint64(min((1 << max(0, 64 - block_bits - place_bits)) - 1, most))
    visit_bits = number_bits(int(cap) + 1)
    packed = np.empty(len(block), np.uint64)
    for part in chunks(len(block)):
        fewer = cap - np.minimum(visits[part].astype(np.uint64), cap)
        packed[part] = (block[part].astype(np.uint64) << np.uint64(visit_bits)) | fewer
    order = argsort(packed, block_bits + visit_bits)
    if int(cap) < most:
        capped = np.concatenate(
            [part.start + np.flatnonzero(visits[order[part]] >= cap) for part in chunks(len(order))]
        )
        head = order[capped]
        order[capped] = head[np.lexsort((head, -visits[head].astype(np.int64), block[head]))]
    return order


def centers_of(block: NDArray[np.integer], num_blocks: int, *coordinates: NDArray[np.int32]) -> NDArray[np.float32]:
    """Mean latitude and longitude in degrees of each block's places, shape (blocks, 2).

    Args:
        block: of each place, from 0.
        coordinates: latitude and longitude of each place, as stored. Sums of these integers are exact in float64, so
            that the order of the places does not matter.

    Blocks never straddle the antimeridian (both schemes cut there), so a plain mean of longitudes is right.
    """
    block = block.astype(np.int64)
    counts = np.bincount(block, minlength=num_blocks)
    means = [np.bincount(block, weights=axis, minlength=num_blocks) / counts for axis in coordinates]
    return to_degrees(np.stack(means, axis=1)).astype(np.float32)
