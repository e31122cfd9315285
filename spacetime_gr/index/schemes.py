"""The two ways to cut the map into cells, as sortable integer keys.

A scheme maps a point to one `uint64` key of `key_bits` bits such that a cell is a contiguous range of keys, and the
bits below a cell's own say where in the cell the point lies (as a Morton code: any coarser position is a prefix).

- `Quadtree`: Morton key of the Web Mercator tile at level 26 (0.6 m at the equator), so that a tile `z/x/y` of any
  coarser level is the range of keys that share its first `2 z` bits.
- `Grid`: rows of `cell_km` in latitude; inside a row, squares of `cell_km` measured along the parallel through the
  row's middle (a sinusoidal projection, row by row), so that cells keep their area and shape at every latitude.
  The last column of a row is what is left of the turn. Below the cell stand 16 bits of the position in it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index import geometry
from spacetime_gr.index.geometry import KM_PER_DEGREE, Floats
from spacetime_gr.index.sorting import number_bits, ones

POSITION_BITS = 16
Keys = NDArray[np.uint64]
Levels = NDArray[np.int8]


@dataclass(frozen=True)
class Quadtree:
    """Adaptive map tiles; levels run from 0 (the world) to 26."""

    name = "quadtree"
    max_level = 26
    key_bits = 2 * max_level

    def keys(self, latitude: Floats, longitude: Floats) -> Keys:
        """Morton keys of points in degrees at the deepest level (y in the odd bits, x in the even ones)."""
        x, y = geometry.mercator(latitude, longitude)
        scale = float(1 << self.max_level)
        return geometry.morton((x * scale).astype(np.uint64), (y * scale).astype(np.uint64))

    def span_bits(self, levels: NDArray[np.integer]) -> Keys:
        """How many low bits of the key lie inside a tile of each level."""
        return (2 * (self.max_level - levels.astype(np.int64))).astype(np.uint64)

    def bounds(self, keys: Keys, levels: Levels) -> NDArray[np.float64]:
        """South, west, north, east in degrees of tiles, shape (n, 4)."""
        columns, rows = self.tiles(keys, levels)
        return geometry.tile_bounds(levels, columns, rows)

    def tiles(self, keys: Keys, levels: Levels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Column x and row y of the tile of each level that holds each key."""
        return geometry.unmorton(keys >> self.span_bits(levels))

    def addresses(self, keys: Keys, levels: Levels) -> list[str]:
        """Map tiles `z/x/y`."""
        columns, rows = self.tiles(keys, levels)
        return [f"{z}/{x}/{y}" for z, x, y in zip(levels, columns, rows, strict=True)]

    def settings(self) -> dict[str, Any]:
        """Nothing but the name."""
        return {}


@dataclass(frozen=True)
class Grid:
    """Squares of `cell_km`; all at level 0."""

    cell_km: float = 5.0
    name = "grid"
    max_level = 0

    def __post_init__(self) -> None:
        if not 0.05 <= self.cell_km <= 5000.0:
            raise ValueError(f"cell_km is {self.cell_km}; expected 0.05 to 5000")

    @property
    def _column_bits(self) -> int:
        return number_bits(int(360.0 * KM_PER_DEGREE / self.cell_km) + 2)

    @property
    def key_bits(self) -> int:
        """Bits of row, column and position."""
        return number_bits(int(180.0 * KM_PER_DEGREE / self.cell_km) + 2) + self._column_bits + POSITION_BITS

    def _columns(self, rows: NDArray[np.int64]) -> Floats:
        """How many (fractional) squares fit around the parallel through the middle of each row."""
        middle = np.radians(np.clip((rows + 0.5) * self.cell_km / KM_PER_DEGREE - 90.0, -90.0, 90.0))
        return np.maximum(1.0, 360.0 * KM_PER_DEGREE * np.cos(middle) / self.cell_km)

    def keys(self, latitude: Floats, longitude: Floats) -> Keys:
        """Keys of points in degrees: row from the south pole, column from the antimeridian, position in the square."""
        down = (np.asarray(latitude, np.float64) + 90.0) * KM_PER_DEGREE / self.cell_km
        rows = np.floor(down).astype(np.int64)
        turn = ((np.asarray(longitude, np.float64) + 180.0) / 360.0) % 1.0
        across = turn * self._columns(rows)
        columns = np.floor(across)
        side = 1 << (POSITION_BITS // 2)
        x, y = ((across - columns) * side).astype(np.uint64), ((1.0 - (down - rows)) * side).astype(np.uint64)
        position = geometry.morton(x, np.minimum(y, np.uint64(side - 1)))
        cell = (rows.astype(np.uint64) << np.uint64(self._column_bits)) | columns.astype(np.uint64)
        return (cell << np.uint64(POSITION_BITS)) | position

    def span_bits(self, levels: NDArray[np.integer]) -> Keys:
        """How many low bits of the key lie inside a square."""
        return np.full(len(levels), POSITION_BITS, np.uint64)

    def cells(self, keys: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the square that holds each key."""
        cell = keys >> np.uint64(POSITION_BITS)
        return (cell >> np.uint64(self._column_bits)).astype(np.int64), (cell & ones(self._column_bits)).astype(
            np.int64
        )

    def bounds(self, keys: Keys, levels: Levels) -> NDArray[np.float64]:
        """South, west, north, east in degrees of squares, shape (n, 4)."""
        rows, columns = self.cells(keys)
        width = 360.0 / self._columns(rows)
        south, west = rows * self.cell_km / KM_PER_DEGREE - 90.0, columns * width - 180.0
        north = np.minimum(90.0, south + self.cell_km / KM_PER_DEGREE)
        return np.stack([south, west, north, np.minimum(180.0, west + width)], axis=1)

    def addresses(self, keys: Keys, levels: Levels) -> list[str]:
        """`row/column`."""
        return [f"{row}/{column}" for row, column in zip(*self.cells(keys), strict=True)]

    def settings(self) -> dict[str, Any]:
        """The side of a square."""
        return {"cell_km": self.cell_km}


Scheme = Quadtree | Grid
SCHEMES = ("quadtree", "grid")


def make_scheme(name: str, cell_km: float = 5.0) -> Scheme:
    """The scheme of a name.

    Raises:
        ValueError: an unknown name or a side out of range.
    """
    if name not in SCHEMES:
        raise ValueError(f"scheme is {name!r}; expected one of {', '.join(SCHEMES)}")
    return Quadtree() if name == "quadtree" else Grid(cell_km)


def positions(keys: Keys, span_bits: Keys) -> NDArray[np.uint16]:
    """Where in its block each point lies: Morton code of 256 x 256 cells, from the key and the block's span."""
    inside = keys & ((np.uint64(1) << span_bits) - np.uint64(1))
    down = np.maximum(span_bits.astype(np.int64) - POSITION_BITS, 0).astype(np.uint64)
    up = np.maximum(POSITION_BITS - span_bits.astype(np.int64), 0).astype(np.uint64)
    return ((inside >> down) << up).astype(np.uint16)
