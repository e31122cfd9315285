"""The index: unique pairs, bounds, determinism, edge cases, storage, errors."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex
from spacetime_gr.index import geometry
from tests.spacetime_gr.conftest import make_pois

SCHEMES = [("quadtree", 8), ("quadtree", 1), ("grid", None), ("grid", 4)]


def table(latitude: list[float], longitude: list[float]) -> pa.Table:
    """POIs p0, p1, … at the given points."""
    return pa.table({"poi_id": [f"p{i}" for i in range(len(latitude))], "latitude": latitude, "longitude": longitude})


@pytest.mark.parametrize(("scheme", "bound"), SCHEMES)
def test_pairs_are_unique_bounded_and_decode_back(pois: pa.Table, scheme: str, bound: int | None) -> None:
    index = POIIndex.build(pois, scheme=scheme, max_pois_per_block=bound)
    blocks, inners = index.encode(pois["poi_id"])
    assert len(set(zip(blocks.tolist(), inners.tolist(), strict=True))) == pois.num_rows
    assert index.decode(blocks, inners).tolist() == pois["poi_id"].to_pylist()
    assert bound is None or index.num_inner <= bound
    assert blocks.max() == index.num_blocks - 1
    assert inners.max() == index.num_inner - 1


@pytest.mark.parametrize(("scheme", "bound"), SCHEMES)
def test_inner_ids_fall_with_visits_then_poi_id(pois: pa.Table, scheme: str, bound: int | None) -> None:
    index = POIIndex.build(pois, scheme=scheme, max_pois_per_block=bound)
    visits, ids = pois["train_visits"].to_numpy(), pois["poi_id"].to_pylist()
    for start, stop in zip(index.block_starts[:-1], index.block_starts[1:], strict=True):
        keys = [(-int(visits[row]), ids[row]) for row in index.rows_by_block[start:stop]]
        assert keys == sorted(keys)


@pytest.mark.parametrize(("scheme", "bound"), SCHEMES)
def test_order_of_rows_does_not_matter(pois: pa.Table, scheme: str, bound: int | None) -> None:
    shuffled = pois.take(np.random.default_rng(1).permutation(pois.num_rows))
    one = POIIndex.build(pois, scheme=scheme, max_pois_per_block=bound)
    two = POIIndex.build(shuffled, scheme=scheme, max_pois_per_block=bound)
    for first, second in zip(one.encode(pois["poi_id"]), two.encode(pois["poi_id"]), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("scheme", ["quadtree", "grid"])
def test_places_lie_in_their_blocks(pois: pa.Table, scheme: str) -> None:
    index = POIIndex.build(pois, scheme=scheme)
    south, west, north, east = index.block_bounds(index.block).T
    latitude, longitude = pois["latitude"].to_numpy(), pois["longitude"].to_numpy()
    assert ((south <= latitude) & (latitude <= north) & (west <= longitude) & (longitude <= east)).all()
    np.testing.assert_array_equal(index.block_of_point(latitude, longitude), index.block)


@settings(max_examples=40, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(-90, 90, width=32), st.floats(-180, 180, width=32)), min_size=1, max_size=60),
    scheme=st.sampled_from(["quadtree", "grid"]),
    bound=st.integers(1, 5),
    copies=st.integers(1, 7),
)
def test_any_points_get_unique_bounded_pairs(
    points: list[tuple[float, float]], scheme: str, bound: int, copies: int
) -> None:
    latitude, longitude = (list(axis) * copies for axis in zip(*points, strict=True))
    index = POIIndex.build(table(latitude, longitude), scheme=scheme, max_pois_per_block=bound)
    rows = np.arange(index.num_pois)
    blocks, inners = index.encode(rows, rows=True)
    np.testing.assert_array_equal(index.decode_rows(blocks, inners), rows)
    assert index.num_inner <= bound
    assert (index.block_of_point(np.array(latitude), np.array(longitude)) >= 0).all()


def test_identical_coordinates_are_cut_into_blocks() -> None:
    index = POIIndex.build(table([40.0] * 10, [-74.0] * 10), max_pois_per_block=4)
    assert index.num_blocks == 3
    assert index.block_sizes.tolist() == [4, 4, 2]


def test_poles_and_antimeridian_are_indexed() -> None:
    latitude, longitude = [90.0, -90.0, 0.0, 0.0], [0.0, 10.0, 180.0, -180.0]
    for scheme in ("quadtree", "grid"):
        assert POIIndex.build(table(latitude, longitude), scheme=scheme, max_pois_per_block=1).num_blocks == 4


@pytest.mark.parametrize("latitude", [0.0, 40.0, 60.0, 75.0])
def test_grid_squares_are_square(latitude: float) -> None:
    bounds = geometry.grid_bounds(geometry.grid_keys(np.array([latitude]), np.array([20.0]), 5.0), 5.0)[0]
    south, west, north, east = bounds
    middle = (south + north) / 2
    assert geometry.haversine_km(south, west, north, west) == pytest.approx(5.0, rel=1e-3)
    assert geometry.haversine_km(middle, west, middle, east) == pytest.approx(5.0, rel=1e-3)


def test_morton_keys_give_map_tiles() -> None:
    """Tile 12/1206/1539 holds the Empire State Building (checked against the slippy-map formula)."""
    latitude, longitude = 40.7484, -73.9857
    n = 2**12
    x = int((longitude + 180) / 360 * n)
    y = int((1 - np.arcsinh(np.tan(np.radians(latitude))) / np.pi) / 2 * n)
    keys = geometry.quadtree_keys(np.array([latitude]), np.array([longitude]))
    columns, rows = geometry.tile_of_key(keys, np.array([12]))
    assert (int(columns[0]), int(rows[0])) == (x, y) == (1206, 1539)


def test_saved_index_is_the_same_and_memory_mapped(pois: pa.Table, index: POIIndex, tmp_path: Path) -> None:
    index.save(tmp_path / "a")
    loaded = POIIndex.load(tmp_path / "a", verify=True)
    assert isinstance(loaded.block, np.memmap)
    np.testing.assert_array_equal(loaded.encode(pois["poi_id"]), index.encode(pois["poi_id"]))
    assert loaded.category_names == index.category_names
    POIIndex.build(pois, max_pois_per_block=8).save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_damage_and_later_versions_are_refused(index: POIIndex, tmp_path: Path) -> None:
    index.save(tmp_path)
    damaged = bytearray((tmp_path / "block.npy").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "block.npy").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"block\.npy: checksum"):
        POIIndex.load(tmp_path, verify=True)
    text = (tmp_path / "index.json").read_text().replace('"format_version": 1', '"format_version": 99')
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match="upgrade"):
        POIIndex.load(tmp_path)
    with pytest.raises(ValueError, match=r"index\.json is missing"):
        POIIndex.load(tmp_path / "nowhere")


def test_unknown_places(index: POIIndex) -> None:
    known = index.poi_ids[3].as_py()
    with pytest.raises(ValueError, match=r"first .*'nowhere'"):
        index.encode([known, "nowhere"])
    blocks, inners = index.encode([known, "nowhere"], unknown="mark")
    assert (blocks[0], inners[0]) == (index.block[3], index.inner[3])
    assert (blocks[1], inners[1]) == (-1, -1)
    assert index.decode([0, index.num_blocks, 0], [index.num_inner, 0, -1]).tolist() == [None, None, None]


def test_bad_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="no column 'longitude'"):
        POIIndex.build(pa.table({"poi_id": ["a"], "latitude": [1.0]}))
    with pytest.raises(ValueError, match=r"2 POIs have coordinates.*\(1, nan, 0.0\), \(2, 91.0, 0.0\)"):
        POIIndex.build(table([0.0, float("nan"), 91.0], [0.0, 0.0, 0.0]))
    with pytest.raises(ValueError, match="unique"):
        POIIndex.build(pa.table({"poi_id": ["a", "a"], "latitude": [1.0, 1.0], "longitude": [1.0, 1.0]}))
    with pytest.raises(ValueError, match="empty"):
        POIIndex.build(make_pois().slice(0, 0))
    with pytest.raises(ValueError, match="scheme"):
        POIIndex.build(make_pois(), scheme="hexagons")
