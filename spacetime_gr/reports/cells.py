"""What the maps of the reports show: a window, and rectangles with counts, few enough to draw."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import areas_km2
from spacetime_gr.index.schemes import Keys, Levels, Quadtree, Scheme
from spacetime_gr.index.sorting import chunks

MAX_CELLS = 20_000
_CENTRAL = 0.99
_MARGIN = 0.03
_FLATTEST, _TALLEST = 0.45, 1.5  # height by width of the map
_ACROSS = 128  # tiles of equal size over the width of the window
_LEVEL_BITS = np.uint64(5)
_PLACES_AT_A_TIME = 1 << 20

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class View:
    """A window of the map in degrees, around the central 99 % of places."""

    south: float
    west: float
    north: float
    east: float

    @property
    def stretch(self) -> float:
        """Height of a degree of latitude on paper by the width of one of longitude."""
        return 1.0 / max(0.05, float(np.cos(np.radians((self.south + self.north) / 2.0))))

    @property
    def aspect(self) -> float:
        """Height by width on paper."""
        return (self.north - self.south) * self.stretch / (self.east - self.west)

    def touches(self, bounds: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which boxes (south, west, north, east) lie in the window, at least in part."""
        south, west, north, east = bounds.T
        return (south < self.north) & (north > self.south) & (west < self.east) & (east > self.west)

    def clip(self, bounds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes cut at the window's edge: tiles of half a continent would else reach far out of it."""
        low, high = (self.south, self.west) * 2, (self.north, self.east) * 2
        return np.clip(bounds, low, high)


def central_view(index: POIIndex, weights: Counts) -> View:
    """The window of the central 99 % of weight, by the blocks' mean coordinates; never empty, never a strip.

    Args:
        index: the index.
        weights: places or visits of each block, shape (num_blocks,), not all 0.
    """
    tail = (1.0 - _CENTRAL) / 2.0
    south, north = _weighted_quantiles(index.block_centers[:, 0], weights, tail)
    west, east = _weighted_quantiles(index.block_centers[:, 1], weights, tail)
    # Places fill half their block or so beyond its centre.
    cell = np.median(index.block_bounds()[:, 2] - index.block_bounds()[:, 0])
    height, width = max(north - south, cell, 1e-4) * (1 + 2 * _MARGIN), max(east - west, cell, 1e-4) * (1 + 2 * _MARGIN)
    middle, centre = (south + north) / 2.0, (west + east) / 2.0
    stretch = View(south, west, north, east).stretch
    width = max(width, height * stretch / _TALLEST)
    height = max(height, width / stretch * _FLATTEST)
    south, west = max(-90.0, middle - height / 2), max(-180.0, centre - width / 2)
    return View(south, west, min(90.0, south + height), min(180.0, west + width))


def _weighted_quantiles(values: NDArray[np.floating], weights: Counts, tail: float) -> tuple[float, float]:
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    low, high = np.searchsorted(share, [tail, 1.0 - tail])
    return float(values[order[low]]), float(values[order[min(high, len(order) - 1)]])


@dataclass(frozen=True)
class Cells:
    """Rectangles of a map, coarse ones first: a block added later lies inside an older one.

    bounds: south, west, north, east in degrees, (n, 4); addresses: n names such as `z/x/y`; counts: name -> (n,);
    group: cell of each thing that was put in, or -1 where it lies in none.
    """

    bounds: NDArray[np.float64]
    addresses: list[str]
    counts: dict[str, Counts]
    group: Counts

    def __len__(self) -> int:
        return len(self.addresses)

    def density(self, name: str) -> NDArray[np.float64]:
        """A count per km², (n,)."""
        return self.counts[name] / areas_km2(self.bounds)


def block_cells(index: POIIndex, counts: Mapping[str, Counts], limit: int) -> Cells:
    """The blocks of an index, drawn together where there are more than `limit`.

    Blocks of one cell (many places on one point) are one rectangle. If the rectangles are still too many, the deepest
    ones give way to the map tiles above them, level by level; squares of a grid, which have nothing above them, to
    the tiles that hold their centres.

    Args:
        index: the index.
        counts: name -> (num_blocks,), summed over blocks drawn together.
        limit: the most rectangles.
    """
    blocks = index.blocks
    counts = dict(counts) | {"blocks": np.ones(index.num_blocks, np.int64)}
    if isinstance(index.scheme, Quadtree) or index.num_blocks <= limit:
        return _merged(index.scheme, blocks.keys, blocks.levels, counts, limit)
    tiles = Quadtree()
    levels = np.full(index.num_blocks, tiles.max_level, np.int8)
    return _merged(tiles, tiles.keys(*index.block_centers.T), levels, counts, limit)


def place_cells(index: POIIndex, visits: NDArray[np.integer], view: View, limit: int) -> Cells:
    """Visited places counted on map tiles of one size, about a hundred over the width of the window.

    Args:
        index: the index.
        visits: of each place by its row, shape (num_pois,).
        view: the window; places outside it are counted too.
        limit: the most tiles; larger ones are taken if there are more.
    """
    tiles = Quadtree()
    level = int(np.clip(np.ceil(np.log2(360.0 * _ACROSS / (view.east - view.west))), 0, tiles.max_level))
    keys, totals = np.empty(0, np.uint64), np.empty((2, 0), np.int64)
    for part in chunks(index.num_pois, _PLACES_AT_A_TIME):
        rows = part.start + np.flatnonzero(visits[part])
        found = tiles.keys(*index.coordinates(rows)) >> _span(tiles, level)
        keys, group = np.unique(np.concatenate([keys, found]), return_inverse=True)
        new = np.stack([visits[rows].astype(np.int64), np.ones(len(rows), np.int64)])
        totals = _summed(np.concatenate([totals, new], axis=1), group, len(keys))
    levels = np.full(len(keys), level, np.int8)
    return _merged(tiles, keys << _span(tiles, level), levels, {"visits": totals[0], "places": totals[1]}, limit)


def _span(tiles: Quadtree, level: int) -> np.uint64:
    return tiles.span_bits(np.array([level]))[0]


def _summed(values: NDArray[np.int64], group: NDArray[np.integer], num: int) -> NDArray[np.int64]:
    """Sums of the columns (k, n) of each group, (k, num)."""
    sums = np.zeros((len(values), num), np.int64)
    for total, one in zip(sums, values, strict=True):
        np.add.at(total, group, one)
    return sums


def _merged(scheme: Scheme, keys: Keys, levels: Levels, counts: Mapping[str, Counts], limit: int) -> Cells:
    deepest = int(levels.max(initial=0))
    while True:
        shown = np.minimum(levels, deepest).astype(np.int8)
        span = scheme.span_bits(shown)
        cells = ((keys >> span) << span << _LEVEL_BITS) | shown.astype(np.uint64)
        unique, first, group = np.unique(cells, return_index=True, return_inverse=True)
        if len(unique) <= limit or deepest == 0:
            break
        deepest -= 1
    order = np.argsort(shown[first], kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    sums = _summed(np.stack(list(counts.values())), rank[group], len(order))
    # A cell's own key is its first one: that of a tile whose block gave way is cut to the tile.
    own = (unique[order] >> _LEVEL_BITS, shown[first][order])
    return Cells(
        scheme.bounds(*own),
        scheme.addresses(*own),
        dict(zip(counts, sums, strict=True)),
        rank[group],
    )
