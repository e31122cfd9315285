"""Cells of both schemes against formulas computed one point at a time."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacetime_gr.index.geometry import EARTH_RADIUS_KM, KM_PER_DEGREE, MAX_LATITUDE
from spacetime_gr.index.schemes import Grid, Quadtree, make_scheme, positions

POINTS = st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=20)
SIZES = st.floats(0.05, 5000)
CORNERS = [(90.0, 180.0), (-90.0, -180.0), (90.0, -180.0), (-90.0, 180.0), (0.0, 180.0), (0.0, -180.0), (0.0, 0.0)]
NEARLY = [(math.nextafter(90, 0), math.nextafter(180, 0)), (MAX_LATITUDE, -1e-300), (0.0, math.nextafter(-180, 0))]


def axes(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of points."""
    return tuple(np.array(points).T)  # type: ignore[return-value]


def slippy_tile(latitude: float, longitude: float, zoom: int) -> tuple[int, int]:
    """Column and row of the map tile that holds a point, by the formula of web maps."""
    latitude = min(max(latitude, -MAX_LATITUDE), MAX_LATITUDE)
    x = (longitude + 180) / 360 % 1 * 2**zoom
    y = (1 - math.asinh(math.tan(math.radians(latitude))) / math.pi) / 2 * 2**zoom
    return int(x), min(max(int(y), 0), 2**zoom - 1)


@given(points=POINTS, level=st.integers(0, 26))
@example(points=CORNERS + NEARLY, level=26)
@example(points=[(40.7484, -73.9857)], level=12)
def test_quadtree_cells_are_map_tiles(points: list[tuple[float, float]], level: int) -> None:
    keys = Quadtree().keys(*axes(points))
    tiles = np.stack(Quadtree().tiles(keys, np.full(len(keys), level, np.int8)), axis=1)
    # Computed in another order of operations, a point on the edge of a tile may fall beyond it.
    for tile, point in zip(tiles, points, strict=True):
        assert np.abs(tile - slippy_tile(*point, level)).max() <= (1 if level > 20 else 0)
    assert (keys < 1 << Quadtree.key_bits).all()


def test_addresses_are_those_of_web_maps() -> None:
    """Tile 12/1206/1539 holds the Empire State Building."""
    keys = Quadtree().keys(np.array([40.7484]), np.array([-73.9857]))
    assert Quadtree().addresses(keys, np.array([12], np.int8)) == ["12/1206/1539"]
    assert slippy_tile(40.7484, -73.9857, 12) == (1206, 1539)


def check_bounds(scheme: Quadtree | Grid, points: list[tuple[float, float]], levels: np.ndarray) -> None:
    """Points lie in the bounds of their cells; bounds lie on the globe."""
    latitude, longitude = axes(points)
    south, west, north, east = scheme.bounds(scheme.keys(latitude, longitude), levels).T
    # A row of squares may begin at the very pole.
    assert ((south >= -90) & ((south < north) | (south == 90)) & (north <= 90)).all()
    assert ((west >= -180) & (west < east) & (east <= 180)).all()
    assert ((south - 1e-9 <= latitude) & (latitude <= north + 1e-9)).all()
    turned = np.where(longitude == 180, -180, longitude)  # the antimeridian is its eastern side
    inside = (west - 1e-9 <= turned) & (turned <= east + 1e-9)
    assert (inside | (np.abs(turned) > 180 - 1e-9)).all()


@given(points=POINTS, level=st.integers(0, 26))
@example(points=CORNERS + NEARLY, level=26)
@example(points=CORNERS + NEARLY, level=0)
def test_points_lie_in_their_tiles(points: list[tuple[float, float]], level: int) -> None:
    check_bounds(Quadtree(), points, np.full(len(points), level, np.int8))


@given(points=POINTS, cell_km=SIZES)
@example(points=CORNERS + NEARLY, cell_km=5.0)
@example(points=CORNERS + NEARLY, cell_km=5000.0)
@example(points=CORNERS + NEARLY, cell_km=0.05)
@example(points=CORNERS + NEARLY, cell_km=math.pi * EARTH_RADIUS_KM / 8)  # whole rows from pole to pole
def test_points_lie_in_their_squares(points: list[tuple[float, float]], cell_km: float) -> None:
    scheme = Grid(cell_km)
    check_bounds(scheme, points, np.zeros(len(points), np.int8))
    keys = scheme.keys(*axes(points))
    assert scheme.key_bits <= 62
    assert (keys < 1 << scheme.key_bits).all()
    assert len(set(scheme.addresses(keys, np.zeros(len(keys), np.int8)))) == len(set((keys >> 16).tolist()))


@settings(max_examples=200)
@given(latitude=st.floats(-90, 90), longitude=st.floats(-180, 179.9), cell_km=SIZES)
@example(latitude=0.0, longitude=20.0, cell_km=5.0)
@example(latitude=60.0, longitude=20.0, cell_km=5.0)
@example(latitude=89.9, longitude=20.0, cell_km=0.05)
@example(latitude=45.0, longitude=20.0, cell_km=5000.0)
def test_grid_squares_are_square(latitude: float, longitude: float, cell_km: float) -> None:
    """As high as `cell_km` along the meridian, as wide along the parallel through their middle.

    Less high only at the north pole, less wide only where the turn ends.
    """
    scheme = Grid(cell_km)
    bounds = scheme.bounds(scheme.keys(np.array([latitude]), np.array([longitude])), np.zeros(1, np.int8))
    south, west, north, east = bounds[0]
    height = (north - south) * KM_PER_DEGREE
    middle = math.radians(min(90, south + cell_km / KM_PER_DEGREE / 2))
    width = (east - west) * KM_PER_DEGREE * math.cos(middle)
    assert height == pytest.approx(cell_km, rel=1e-6) or (north == 90 and height < cell_km)
    assert width == pytest.approx(cell_km, rel=1e-6) or (east == 180 and width < cell_km)


@given(cell_km=st.floats(200, 5000), data=st.data())
def test_squares_of_a_row_follow_each_other(cell_km: float, data: st.DataObject) -> None:
    """Walking east along a parallel: no gap, no overlap, the last square ends at the antimeridian."""
    latitude = data.draw(st.floats(-90, 90))
    longitude = np.linspace(-180, 179.99, 2000)
    scheme = Grid(cell_km)
    keys = np.unique(scheme.keys(np.full(2000, latitude), longitude) >> np.uint64(16)) << np.uint64(16)
    bounds = scheme.bounds(keys, np.zeros(len(keys), np.int8))
    assert bounds[0, 1] == -180
    np.testing.assert_allclose(bounds[1:, 1], bounds[:-1, 3], atol=1e-9)
    assert bounds[-1, 3] > 179.98


@given(points=POINTS, level=st.integers(0, 26))
def test_quadtree_positions_are_morton_codes_in_the_tile(points: list[tuple[float, float]], level: int) -> None:
    """From the north-west; below level 18 the keys end before the 8 bits of a side do."""
    scheme = Quadtree()
    keys = scheme.keys(*axes(points))
    codes = positions(keys, scheme.span_bits(np.full(len(keys), level, np.int8)))
    known = min(8, scheme.max_level - level)
    for code, key in zip(codes.tolist(), keys, strict=True):
        x, y = (int(axis[0]) for axis in scheme.tiles(np.array([key]), np.array([level + known], np.int8)))
        x, y = (side % (1 << known) << (8 - known) for side in (x, y))
        assert code == sum((x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1 for bit in range(8))


@given(latitude=st.floats(-89, 89), longitude=st.floats(-179, 179), cell_km=st.floats(1, 50))
def test_grid_positions_are_morton_codes_in_the_square(latitude: float, longitude: float, cell_km: float) -> None:
    scheme = Grid(cell_km)
    keys = scheme.keys(np.array([latitude]), np.array([longitude]))
    south, west, _, _ = scheme.bounds(keys, np.zeros(1, np.int8))[0]
    width = 360 / scheme._columns(scheme.cells(keys)[0])[0]
    x = (longitude - west) / width * 256
    y = (1 - (latitude - south) / (cell_km / KM_PER_DEGREE)) * 256
    code = int(positions(keys, scheme.span_bits(np.zeros(1, np.int8)))[0])
    column = sum((code >> 2 * bit & 1) << bit for bit in range(8))
    row = sum((code >> 2 * bit + 1 & 1) << bit for bit in range(8))
    assert column - 1e-3 <= x <= column + 1 + 1e-3
    assert row - 1e-3 <= y <= row + 1 + 1e-3


def test_keys_of_nothing() -> None:
    none = np.empty(0)
    for scheme in (Quadtree(), Grid()):
        keys = scheme.keys(none, none)
        assert keys.dtype == np.uint64
        assert scheme.bounds(keys, np.empty(0, np.int8)).shape == (0, 4)
        assert scheme.addresses(keys, np.empty(0, np.int8)) == []
        assert positions(keys, scheme.span_bits(np.empty(0, np.int8))).dtype == np.uint16


def test_settings_make_the_scheme_again() -> None:
    for scheme in (Quadtree(), Grid(0.3)):
        assert make_scheme(scheme.name, **scheme.settings()) == scheme
    for cell_km in (0.049, 5001.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"expected 0\.05 to 5000"):
            make_scheme("grid", cell_km)
    with pytest.raises(ValueError, match="expected one of quadtree, grid"):
        make_scheme("hexagons")
