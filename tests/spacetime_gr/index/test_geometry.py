"""Distances, the Web Mercator square and Morton codes against direct computing."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spacetime_gr.index import geometry
from spacetime_gr.index.geometry import KM_PER_DEGREE, distance_to_boxes_km, haversine_km

LATITUDES = st.floats(-90, 90)
LONGITUDES = st.floats(-180, 180)


def interleave(x: int, y: int) -> int:
    """Morton code bit by bit."""
    return sum(((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1) for bit in range(32))


@given(st.lists(st.tuples(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1)), min_size=1, max_size=20))
def test_morton_codes_interleave_bits(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, np.uint64).T
    codes = geometry.morton(x, y)
    assert codes.tolist() == [interleave(*pair) for pair in pairs]
    columns, rows = geometry.unmorton(codes)
    np.testing.assert_array_equal(columns, x)
    np.testing.assert_array_equal(rows, y)


def test_known_distances() -> None:
    """Quarters of the meridian and of the equator; Paris to New York is 5 837 km on the sphere."""
    assert haversine_km(0.0, 0.0, 90.0, 123.0) == pytest.approx(90 * KM_PER_DEGREE)
    assert haversine_km(0.0, 179.0, 0.0, -179.0) == pytest.approx(2 * KM_PER_DEGREE)
    assert haversine_km(0.0, 0.0, 0.0, 180.0) == pytest.approx(180 * KM_PER_DEGREE)
    assert haversine_km(48.8566, 2.3522, 40.7128, -74.0060) == pytest.approx(5837, abs=2)


@given(LATITUDES, LONGITUDES, LATITUDES, LONGITUDES)
def test_chords_of_unit_vectors_are_distances(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> None:
    a, b = geometry.unit_vectors(np.array([lat_a, lat_b]), np.array([lon_a, lon_b]))
    angle = 2 * np.arcsin(min(1.0, float(np.linalg.norm(a - b)) / 2))
    assert angle * geometry.EARTH_RADIUS_KM == pytest.approx(haversine_km(lat_a, lon_a, lat_b, lon_b), abs=1e-3)


@given(hnp.arrays(float, 20, elements=LATITUDES), hnp.arrays(float, 20, elements=LONGITUDES))
def test_mercator_is_undone_inside_its_square(latitude: np.ndarray, longitude: np.ndarray) -> None:
    x, y = geometry.mercator(latitude, longitude)
    assert ((x >= 0) & (x < 1) & (y >= 0) & (y < 1)).all()
    back_latitude, back_longitude = geometry.inverse_mercator(x, y)
    inside = np.clip(latitude, -geometry.MAX_LATITUDE, geometry.MAX_LATITUDE)
    np.testing.assert_allclose(back_latitude, inside, atol=1e-9)
    np.testing.assert_allclose((back_longitude - longitude) % 360 % (360 - 1e-9), 0, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    point=st.tuples(LATITUDES, LONGITUDES),
    south=st.floats(-90, 90),
    height=st.floats(0.01, 180),
    west=st.floats(-180, 180),
    width=st.floats(0.01, 360),
)
@example(point=(10.0, 0.0), south=-90.0, height=10.0, west=170.0, width=10.0)  # nearest across the other pole
@example(point=(0.0, 180.0), south=-1.0, height=2.0, west=-180.0, width=5.0)
@example(point=(90.0, 0.0), south=-90.0, height=1.0, west=-180.0, width=360.0)
def test_distance_to_a_box_is_that_of_its_nearest_point(
    point: tuple[float, float], south: float, height: float, west: float, width: float
) -> None:
    """Against points laid densely over the box: never further than any of them, and one of them is that near."""
    north, east = min(90.0, south + height), min(180.0, west + width)
    distance = float(distance_to_boxes_km(*point, np.array([[south, west, north, east]]))[0])
    rows = np.append(np.linspace(south, north, 101), np.clip(point[0], south, north))
    columns = np.append(np.linspace(west, east, 101), np.clip(point[1], west, east))
    sampled = haversine_km(point[0], point[1], *np.meshgrid(rows, columns)).min()
    step = max(north - south, east - west) / 100 * KM_PER_DEGREE
    assert distance <= sampled + 1e-4
    assert sampled <= distance + step


def test_points_beside_many_boxes_at_once() -> None:
    bounds = np.array([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 178.0, 1.0, 180.0]])
    distance = distance_to_boxes_km(0.5, 0.5, bounds)
    np.testing.assert_allclose(distance[:2], [0.0, 1.5 * KM_PER_DEGREE], rtol=1e-9)
    assert distance_to_boxes_km(0.5, -180.0, bounds)[2] == pytest.approx(0.0, abs=1e-6)


def test_stored_coordinates_are_degrees_times_ten_million() -> None:
    assert geometry.to_degrees(np.array([1_234_567_890], np.int32)).tolist() == [123.456789]
