"""Blocks by place against brute force over all blocks."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex
from spacetime_gr.index.geometry import haversine_km
from tests.spacetime_gr.index.places import clustered, table

SEEDS = st.integers(0, 2**32 - 1)
WHERE = st.tuples(st.floats(-90, 90), st.floats(-180, 180))


def make(seed: int, scheme: str, size: int = 60, grow: bool = True) -> POIIndex:
    """Blocks of many sizes, some inside others, along the antimeridian and at both poles."""
    rng = np.random.default_rng(seed)
    index = POIIndex.build(
        table(*clustered(rng, size)), scheme, 3, cell_km=800.0, spare_blocks=99.0, check_swapped=False
    )
    return index.add(table(*clustered(rng, size), poi_id=[f"q{i}" for i in range(size)])) if grow else index


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    scheme=st.sampled_from(["quadtree", "grid"]),
    points=st.lists(WHERE, max_size=10),
    max_km=st.floats(0, 21_000),
)
@example(seed=0, scheme="quadtree", points=[(90, 0), (-90, 180), (0, 180), (0, -180)], max_km=30_000.0)
@example(seed=0, scheme="grid", points=[(90, 0), (-90, 180), (0, 180), (0, -180)], max_km=0.0)
def test_block_of_a_point(seed: int, scheme: str, points: list[tuple[float, float]], max_km: float) -> None:
    """The deepest block that holds it, else the one with the nearest centre within the limit."""
    index = make(seed, scheme)
    rng = np.random.default_rng(seed + 1)
    latitude, longitude = np.concatenate([clustered(rng, 20), np.array(points).reshape(-1, 2).T], axis=1)
    found = index.block_of_point(latitude, longitude, max_km=max_km)
    assert found.dtype == np.int32
    keys = index.scheme.keys(latitude, longitude)
    spans = index.scheme.span_bits(index.blocks.levels)
    for point, key, block in zip(zip(latitude, longitude, strict=True), keys, found.tolist(), strict=True):
        inside = np.flatnonzero(key >> spans == index.blocks.keys >> spans).tolist()
        if inside:
            assert block == max(inside, key=lambda number: (index.blocks.levels[number], number))
        else:
            distance = haversine_km(*point, *index.block_centers.T.astype(float))
            if block >= 0:
                assert distance[block] == pytest.approx(distance.min(), abs=1e-3)
            assert (block >= 0) == (distance.min() <= max_km) or distance.min() == pytest.approx(max_km, abs=1e-3)


def test_points_that_are_nowhere() -> None:
    index = POIIndex.build(table([40.7, 40.8], [-74.0, -74.1]), max_pois_per_block=1)
    nan, inf = float("nan"), float("inf")
    latitude, longitude = [nan, 40.7, inf, 90.1, 40.7, nan, -40.0], [-74.0, nan, 0.0, 0.0, 180.1, nan, 100.0]
    assert index.block_of_point(latitude, longitude).tolist() == [-1] * 7
    assert index.block_of_point([nan, 40.7], [0.0, -74.0])[1] >= 0


def test_a_point_beside_the_blocks_goes_to_the_nearest() -> None:
    """Across the antimeridian too."""
    index = POIIndex.build(table([0.0, 0.0], [179.9, 10.0]), "grid", cell_km=5.0)
    near = index.encode(["p0"])[0][0]
    assert index.block_of_point([0.0], [-179.8]).tolist() == [near]
    assert index.block_of_point([0.0], [-179.8], max_km=20.0).tolist() == [-1]


def touching(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes touch, also across the antimeridian."""
    slack = 1e-9
    high = one[0] <= other[2] + slack and other[0] <= one[2] + slack
    wide = any(one[1] <= other[3] + turn + slack and other[1] + turn <= one[3] + slack for turn in (-360, 0, 360))
    return high and wide


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, scheme=st.sampled_from(["quadtree", "grid"]))
def test_neighbours_touch(seed: int, scheme: str) -> None:
    index = make(seed, scheme, size=30)
    bounds = index.block_bounds()
    found = [index.neighbours(block).tolist() for block in range(index.num_blocks)]
    for block, neighbours in enumerate(found):
        expected = [
            other for other in range(index.num_blocks) if other != block and touching(bounds[block], bounds[other])
        ]
        assert neighbours == expected
        assert all(block in found[other] for other in neighbours)


@pytest.mark.parametrize("scheme", ["quadtree", "grid"])
def test_neighbours_by_hand(scheme: str) -> None:
    """Squares of places all over: a cell has those around it, across the antimeridian too."""
    longitude, latitude = (axis.ravel() for axis in np.meshgrid(np.arange(-178, 180, 4.0), np.arange(-22, 23, 4.0)))
    index = POIIndex.build(table(latitude, longitude), scheme, 1, cell_km=600.0, check_swapped=False)
    middle = index.block_of_point([2.0, 2.0], [-178.0, 178.0])
    assert middle[1] in index.neighbours(int(middle[0]))
    assert middle[0] in index.neighbours(int(middle[1]))
    assert index.block_of_point([2.0], [0.0])[0] not in index.neighbours(int(middle[0]))


def test_neighbours_of_what_does_not_exist() -> None:
    index = make(0, "quadtree")
    for block in (-1, index.num_blocks):
        with pytest.raises(ValueError, match=f"block {block} does not exist; expected 0 to {index.num_blocks - 1}"):
            index.neighbours(block)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, scheme=st.sampled_from(["quadtree", "grid"]), where=WHERE, radius=st.floats(0, 20_100))
@example(seed=0, scheme="quadtree", where=(65.0, 180.0), radius=10.0)
@example(seed=0, scheme="quadtree", where=(65.0, -180.0), radius=10.0)
@example(seed=0, scheme="grid", where=(90.0, 0.0), radius=100.0)
def test_blocks_within_a_radius(seed: int, scheme: str, where: tuple[float, float], radius: float) -> None:
    """A block is there if and only if a point laid densely over it is; nearest first."""
    index = make(seed, scheme, size=20)
    found = index.blocks_within(*where, radius)
    assert len(set(found.tolist())) == len(found)
    nearest = []
    for south, west, north, east in index.block_bounds():
        rows = np.append(np.linspace(south, north, 40), np.clip(where[0], south, north))
        columns = np.append(np.linspace(west, east, 40), np.clip(where[1], west, east))
        distance = haversine_km(*where, *np.meshgrid(rows, columns)).min()
        step = haversine_km(0.0, 0.0, (north - south) / 39, 0.0) + haversine_km(0.0, 0.0, 0.0, (east - west) / 39)
        nearest.append((distance, step))
    for block, (distance, step) in enumerate(nearest):
        if distance <= radius - 1e-3:
            assert block in found
        if distance > radius + step:
            assert block not in found
    for before, after in pairwise(found):
        assert nearest[before][0] <= nearest[after][0] + nearest[before][1]


def test_bad_circles_are_refused() -> None:
    index = make(0, "quadtree")
    for where in (
        (91.0, 0.0, 1.0),
        (0.0, 181.0, 1.0),
        (0.0, 0.0, -1.0),
        (float("nan"), 0.0, 1.0),
        (0.0, 0.0, float("nan")),
    ):
        with pytest.raises(ValueError, match="expected a point in degrees and a radius"):
            index.blocks_within(*where)
    assert len(index.blocks_within(0.0, 0.0, float("inf"))) == index.num_blocks


def check_polygon(feature: dict[str, Any]) -> None:
    """RFC 7946: one closed ring of five positions, longitude first, counterclockwise, on the globe."""
    assert feature["type"] == "Feature"
    assert feature["geometry"]["type"] == "Polygon"
    (ring,) = feature["geometry"]["coordinates"]
    assert len(ring) == 5
    assert ring[0] == ring[-1]
    x, y = np.array(ring).T
    assert (np.abs(x) <= 180).all()
    assert (np.abs(y) <= 90).all()
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0


@pytest.mark.parametrize("scheme", ["quadtree", "grid"])
def test_geojson(scheme: str) -> None:
    index = make(1, scheme)
    everything = json.loads(json.dumps(index.geojson(), allow_nan=False))
    assert everything["type"] == "FeatureCollection"
    assert len(everything["features"]) == index.num_blocks
    bounds = index.block_bounds()
    for block, feature in enumerate(everything["features"]):
        wide = bounds[block, 3] - bounds[block, 1] > 1e-5 and bounds[block, 2] - bounds[block, 0] > 1e-5
        if wide:  # tiles of the deepest levels shrink to a few units of the last digit
            check_polygon(feature)
        assert feature["properties"] == {
            "block": block,
            "address": index.block_addresses()[block],
            "num_pois": int(index.block_sizes[block]),
        }
    assert index.geojson([3, 1])["features"] == [everything["features"][3], everything["features"][1]]


def test_the_deepest_tiles_keep_their_outline() -> None:
    """0.6 m at the equator, 5 cm in the far north."""
    index = POIIndex.build(table([0.0, 0.0, 85.0, 85.0], [1.0, 1.0, 1.0, 1.0]), max_pois_per_block=1)
    assert index.block_addresses()[0].startswith("26/")
    for feature in index.geojson()["features"]:
        check_polygon(feature)
