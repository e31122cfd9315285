"""Cells of the two schemes as sortable integer keys, and distances on the sphere.

Both schemes map a point to one `uint64` key such that a block is a contiguous range of keys:

- quadtree: Morton key of the Web Mercator tile at level 26 (0.6 m at the equator), so that a tile `z/x/y` of any
  coarser level is the range of keys that share its first `2 z` bits;
- grid: rows of `cell_km` in latitude; inside a row, squares of `cell_km` measured along the parallel through the
  row's middle, so that cells keep their area and shape at every latitude. Key = row * 2^32 + column.
"""

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6371.0088
KM_PER_DEGREE = np.pi * EARTH_RADIUS_KM / 180.0
MAX_LEVEL = 26
MAX_LATITUDE = 85.05112877980659  # where Web Mercator's square ends; points beyond it belong to the outermost tiles

Floats = NDArray[np.floating]


def haversine_km(latitude_a: Floats, longitude_a: Floats, latitude_b: Floats, longitude_b: Floats) -> Floats:
    """Great-circle distance in km between points in degrees (haversine formula; arrays broadcast)."""
    lat_a, lat_b = np.radians(latitude_a), np.radians(latitude_b)
    half_lat = np.sin((lat_b - lat_a) / 2.0)
    half_lon = np.sin(np.radians(np.asarray(longitude_b) - np.asarray(longitude_a)) / 2.0)
    chord = half_lat**2 + np.cos(lat_a) * np.cos(lat_b) * half_lon**2
    return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(1.0, np.sqrt(chord)))


def mercator(latitude: Floats, longitude: Floats) -> tuple[Floats, Floats]:
    """Web Mercator coordinates in [0, 1), x eastwards from the antimeridian, y southwards (float64)."""
    latitude = np.clip(np.asarray(latitude, dtype=np.float64), -MAX_LATITUDE, MAX_LATITUDE)
    x = (np.asarray(longitude, dtype=np.float64) + 180.0) / 360.0
    y = 0.5 - np.arcsinh(np.tan(np.radians(latitude))) / (2.0 * np.pi)
    top = np.nextafter(1.0, 0.0)
    return x % 1.0, np.clip(y, 0.0, top)


def inverse_mercator(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Latitude and longitude in degrees of Web Mercator coordinates in [0, 1]."""
    latitude = np.degrees(np.arctan(np.sinh((0.5 - np.asarray(y, dtype=np.float64)) * 2.0 * np.pi)))
    return latitude, np.asarray(x, dtype=np.float64) * 360.0 - 180.0


def _spread_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Put a zero bit between the (up to 32) bits of each value."""
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def _gather_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Undo `_spread_bits`."""
    values = values & np.uint64(0x5555555555555555)
    for shift, mask in (
        (1, 0x3333333333333333),
        (2, 0x0F0F0F0F0F0F0F0F),
        (4, 0x00FF00FF00FF00FF),
        (8, 0x0000FFFF0000FFFF),
        (16, 0x00000000FFFFFFFF),
    ):
        values = (values | (values >> np.uint64(shift))) & np.uint64(mask)
    return values


def quadtree_keys(latitude: Floats, longitude: Floats) -> NDArray[np.uint64]:
    """Morton keys of points at `MAX_LEVEL` (y in the odd bits, x in the even ones)."""
    x, y = mercator(latitude, longitude)
    scale = float(1 << MAX_LEVEL)
    columns, rows = (x * scale).astype(np.uint64), (y * scale).astype(np.uint64)
    return (_spread_bits(rows) << np.uint64(1)) | _spread_bits(columns)


def tile_of_key(keys: NDArray[np.uint64], levels: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Column x and row y of the tile of each level that holds each Morton key."""
    shift = (MAX_LEVEL - np.asarray(levels)).astype(np.uint64)
    columns, rows = _gather_bits(keys) >> shift, _gather_bits(keys >> np.uint64(1)) >> shift
    return columns.astype(np.int64), rows.astype(np.int64)


def _grid_columns(rows: NDArray[np.int64], cell_km: float) -> Floats:
    """How many (fractional) squares of `cell_km` fit around the parallel through the middle of each row."""
    middle = np.radians(np.clip((rows + 0.5) * cell_km / KM_PER_DEGREE - 90.0, -90.0, 90.0))
    return np.maximum(1.0, 360.0 * KM_PER_DEGREE * np.cos(middle) / cell_km)


def grid_keys(latitude: Floats, longitude: Floats, cell_km: float) -> NDArray[np.uint64]:
    """Keys of the squares that hold the points: row counted from the south pole, column from the antimeridian."""
    rows = np.floor((np.asarray(latitude, dtype=np.float64) + 90.0) * KM_PER_DEGREE / cell_km).astype(np.int64)
    turn = ((np.asarray(longitude, dtype=np.float64) + 180.0) / 360.0) % 1.0
    columns = np.floor(turn * _grid_columns(rows, cell_km)).astype(np.int64)
    return (rows.astype(np.uint64) << np.uint64(32)) | columns.astype(np.uint64)


def grid_bounds(keys: NDArray[np.uint64], cell_km: float) -> NDArray[np.float64]:
    """South, west, north, east in degrees of grid cells, shape (len(keys), 4)."""
    rows = (keys >> np.uint64(32)).astype(np.int64)
    columns = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    width = 360.0 / _grid_columns(rows, cell_km)
    south = rows * cell_km / KM_PER_DEGREE - 90.0
    west = columns * width - 180.0
    north = np.minimum(90.0, south + cell_km / KM_PER_DEGREE)
    return np.stack([south, west, north, np.minimum(180.0, west + width)], axis=1)


def tile_bounds(levels: NDArray[np.integer], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """South, west, north, east in degrees of map tiles, shape (len(levels), 4)."""
    tiles = np.exp2(np.asarray(levels, dtype=np.float64))
    north, west = inverse_mercator(x / tiles, y / tiles)
    south, east = inverse_mercator((x + 1) / tiles, (y + 1) / tiles)
    return np.stack([south, west, north, east], axis=1)
