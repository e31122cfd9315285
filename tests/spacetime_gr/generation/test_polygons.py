"""Polygons: inside and outside against plain geometry, every form they come in, and what is refused."""

import numpy as np
import pytest

from spacetime_gr.generation import polygons
from spacetime_gr.generation.polygons import fences

SQUARE = [(0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 0.0)]  # latitude, longitude
HOLE = [(4.0, 4.0), (4.0, 6.0), (6.0, 6.0), (6.0, 4.0)]


def geojson(*rings: list) -> list:
    """Coordinates as GeoJSON has them: longitude first, closed."""
    return [[(x, y) for y, x in [*ring, ring[0]]] for ring in rings]


def inside(within: object, points: list) -> list[bool]:
    """Which (latitude, longitude) points lie inside a fence."""
    latitude, longitude = np.array(points, float).T
    return np.any([polygon.contains(latitude, longitude) for polygon in fences(within, 1)[0]], axis=0).tolist()


POLYGON = {"type": "Polygon", "coordinates": geojson(SQUARE, HOLE)}
FAR = [(20.0, 20.0), (20.0, 21.0), (21.0, 20.0)]
FEATURE = {"type": "Feature", "properties": {}, "geometry": POLYGON}


@pytest.mark.parametrize(
    "within",
    [
        [SQUARE, HOLE],
        [np.array(SQUARE), np.array(HOLE)],
        [[*SQUARE[::-1], SQUARE[-1]], HOLE],
        POLYGON,
        FEATURE,
        {"type": "MultiPolygon", "coordinates": [geojson(FAR), geojson(SQUARE, HOLE)]},
        {"type": "FeatureCollection", "features": [FEATURE, FEATURE]},
    ],
)
def test_every_form_and_holes(within: object, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [(1, 2), (5, 5), (5, 3.9), (11, 5), (-1, 5), (5, -0.1), (5, 10.1), (np.nan, np.nan)]
    expected = [True, False, True, False, False, False, False, False]
    assert inside(within, points) == expected
    monkeypatch.setattr(polygons, "CHUNK", 1)
    assert inside(within, points) == expected


def test_stars_equal_their_distance_from_the_middle() -> None:
    """A star around a point: inside is nearer than its radius in that direction."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radii = rng.uniform(0.5, 2.0, 60)
    ring = np.stack([50 + radii * np.sin(angles), 8 + radii * np.cos(angles)], axis=1)
    points = rng.uniform((47.5, 5.5), (52.5, 10.5), (2000, 2))
    # Barycentric coordinates in the triangle (middle, corner, next corner) of the point's sector.
    y, x = (points - (50, 8)).T
    sector = (np.arctan2(y, x) % (2 * np.pi) // (2 * np.pi / 60)).astype(int)
    a, b = ring[sector] - (50, 8), ring[(sector + 1) % 60] - (50, 8)
    det = a[:, 1] * b[:, 0] - a[:, 0] * b[:, 1]
    share = ((x * b[:, 0] - y * b[:, 1]) + (a[:, 1] * y - a[:, 0] * x)) / det
    assert inside([ring], points.tolist()) == (share < 1).tolist()


def test_neighbours_share_no_point_and_leave_none_out() -> None:
    """Points on a common edge belong to exactly one of two squares."""
    beside = [(latitude, longitude + 10) for latitude, longitude in SQUARE]
    points = [(latitude, 10.0) for latitude in (0.0, 0.1, 5.0, 9.9)]
    assert all(a != b for a, b in zip(inside([SQUARE], points), inside([beside], points), strict=True))


def test_across_the_antimeridian() -> None:
    """Counted on beyond 180 degrees either way, or cut there."""
    points = [(1, 179), (1, -179), (1, 180), (1, 170), (1, 0)]
    beyond = [[(0, 175), (0, 185), (2, 185), (2, 175)]]
    below = [[(0, -185), (0, -175), (2, -175), (2, -185)]]
    cut = {
        "type": "MultiPolygon",
        "coordinates": [
            geojson([(0, 175), (0, 180.0), (2, 180.0), (2, 175)]),
            geojson([(0, -180), (0, -175), (2, -175), (2, -180)]),
        ],
    }
    for within in (beyond, below, cut):
        assert inside(within, points) == [True, True, True, False, False]
        boxes = np.array([[0, 174, 1, 176], [0, -178, 1, -177], [0, 0, 1, 1], [5, 175, 6, 176]], float)
        touched = np.any([polygon.overlaps(boxes) for polygon in fences(within, 1)[0]], axis=0)
        assert touched.tolist() == [True, True, False, False]


def test_one_for_all_or_one_each() -> None:
    one, two = fences([SQUARE, HOLE], 2)
    assert one is two
    first, second = fences([[SQUARE], POLYGON], 2)
    assert (len(first[0].edges), len(second[0].edges)) == (4, 8)


@pytest.mark.parametrize(
    ("within", "message"),
    [
        (SQUARE, "expected a GeoJSON dict, a list of rings"),
        ("here", "expected a GeoJSON dict"),
        ([[SQUARE]] * 2, "within has 2 polygons for 1 histories"),
        ([SQUARE[:2]], "within, ring 0 has 2 corners"),
        ([[(0, 179), (0, -179), (2, -179)]], "antimeridian"),
        ([[(0, 0), (91, 0), (0, 1)]], r"within, ring 0 has the point \(91, 0\); expected \(latitude, longitude\)"),
        ([[(0, 0), (np.nan, 0), (0, 1)]], "within, ring 0 has the point"),
        ([[(0, 0), (1,), (0, 1)]], "expected a list of points of two numbers"),
        ([[("a", 0), (1, 0), (0, 1)]], "expected a list of points of two numbers"),
        ({"type": "Point", "coordinates": [0, 0]}, "within is GeoJSON of type 'Point'"),
        ({"type": "Polygon"}, "expected a Polygon or MultiPolygon with coordinates"),
        ({"type": "FeatureCollection", "features": []}, "of type 'FeatureCollection'"),
        ({"type": "Feature", "geometry": None}, "within, its geometry is GeoJSON of type None"),
        ([POLYGON, POLYGON], "within has 2 polygons for 1"),
    ],
)
def test_what_is_refused(within: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fences(within, 1)
