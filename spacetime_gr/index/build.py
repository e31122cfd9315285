"""From places to blocks and inner ids. Everything works on whole arrays, level by level; nothing loops over POIs."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index.geometry import to_degrees
from spacetime_gr.index.schemes import Keys, Levels, Scheme, positions
from spacetime_gr.index.sorting import chunks, number_bits, ones, stable_argsort


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


def sort_by_key(scheme: Scheme, keys: Keys) -> tuple[NDArray[np.int64], Keys]:
    """Places in the order of their keys (ties as they stand), and the sorted keys; both shape (n,)."""
    order = stable_argsort([(keys, scheme.key_bits)], len(keys))
    return order, keys[order]


def order_inside(cells: Cells, order: NDArray[np.int64], visits: NDArray[np.uint32], size: int) -> NDArray[np.int64]:
    """Places block by block, inside each by falling visits, ties by their number.

    Args:
        cells: blocks over the places sorted by key.
        order: number of the place at each sorted position, shape (n,).
        visits: of the places by number, shape (size,).
        size: numbers run below it.

    Returns:
        Numbers, shape (n,): block b still holds positions `starts[b]` to `starts[b + 1]`.
    """
    sizes = np.diff(cells.starts)
    block_bits, place_bits = number_bits(len(sizes)), number_bits(size)
    # Visits take the bits that are left in 64; the few places above that cap are put in order afterwards.
    cap = np.uint64(min((1 << max(0, 64 - block_bits - place_bits)) - 1, int(visits.max(initial=0))))
    visit_bits = number_bits(int(cap) + 1)
    assert block_bits + visit_bits + place_bits <= 64, "too many places and blocks for one sort"
    packed = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    for part in chunks(len(order)):
        fewer = cap - np.minimum(visits[order[part]].astype(np.uint64), cap)
        packed[part] = ((packed[part] << np.uint64(visit_bits)) | fewer) << np.uint64(place_bits)
        packed[part] |= order[part].view(np.uint64)
    packed.sort()
    for part in chunks(len(packed)):
        packed[part] &= ones(place_bits)
    result = packed.view(np.int64)
    capped = np.flatnonzero(visits[result] >= cap)
    if len(capped) and int(cap) < int(visits.max()):
        block = np.searchsorted(cells.starts, capped, side="right")
        head = result[capped]
        result[capped] = head[np.lexsort((head, -visits[head].astype(np.int64), block))]
    return result


def positions_in(scheme: Scheme, cells: Cells, sorted_keys: Keys) -> NDArray[np.uint16]:
    """Where in its block each place lies, in the order of the keys; see `schemes.positions`."""
    result = np.empty(len(sorted_keys), np.uint16)
    for part in chunks(len(sorted_keys)):
        block = np.searchsorted(cells.starts, np.arange(part.start, part.stop), side="right") - 1
        result[part] = positions(sorted_keys[part], scheme.span_bits(cells.levels[block]))
    return result


def centers_of(
    starts: NDArray[np.int64], rows_by_block: NDArray[np.integer], *coordinates: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Mean latitude and longitude in degrees of each block's places, shape (blocks, 2); coordinates as stored.

    Blocks never straddle the antimeridian (both schemes cut there), so a plain mean of longitudes is right.
    """
    sums = [np.add.reduceat(axis[rows_by_block], starts[:-1], dtype=np.int64) for axis in coordinates]
    return to_degrees(np.stack(sums, axis=1) / np.diff(starts)[:, None]).astype(np.float32)
