"""The index as its users see it: encode, decode, facts of places, errors."""

import pickle
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.index.places import table

SCHEMES = [("quadtree", 8), ("quadtree", 1), ("quadtree", None), ("grid", None), ("grid", 4)]


def grown_index() -> POIIndex:
    """120 places and, added later, 40 more."""
    index = POIIndex.build(make_pois(), max_pois_per_block=8, spare_blocks=1.0)
    later = make_pois(1, 40)
    return index.add(later.set_column(0, "poi_id", pa.array([f"q{i}" for i in range(40)])))


@pytest.mark.parametrize(("scheme", "bound"), SCHEMES)
def test_pairs_are_unique_bounded_and_decode_back(pois: pa.Table, scheme: str, bound: int | None) -> None:
    index = POIIndex.build(pois, scheme=scheme, max_pois_per_block=bound)
    blocks, inners = index.encode(pois["poi_id"])
    assert blocks.dtype == inners.dtype == np.int32
    assert len(set(zip(blocks.tolist(), inners.tolist(), strict=True))) == pois.num_rows == index.num_pois
    assert index.decode(blocks, inners).tolist() == pois["poi_id"].to_pylist()
    assert bound is None or index.num_inner == bound
    assert blocks.max() == index.num_blocks - 1
    assert inners.max() < index.num_inner


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
    pois = table(latitude, longitude)
    index = POIIndex.build(pois, scheme=scheme, max_pois_per_block=bound, check_swapped=False)
    rows = np.arange(index.num_pois)
    blocks, inners = index.encode(rows, rows=True)
    np.testing.assert_array_equal(index.decode_rows(blocks, inners), rows)
    assert inners.max() < bound
    assert (index.block_of_point(np.array(latitude), np.array(longitude)) >= 0).all()


@pytest.mark.parametrize("grown", [False, True])
def test_unknown_places(grown: bool) -> None:
    index = grown_index() if grown else POIIndex.build(make_pois(), max_pois_per_block=8)
    known = index.poi_ids[index.num_pois - 1].as_py()
    with pytest.raises(ValueError, match=r"2 of 3 places are not in the index, first \['nowhere', 'None'\]"):
        index.encode([known, "nowhere", None])
    blocks, inners = index.encode([known, "nowhere", None], unknown="mark")
    assert (blocks[0], inners[0]) == tuple(axis[0] for axis in index.encode([index.num_pois - 1], rows=True))
    assert blocks[1:].tolist() == inners[1:].tolist() == [-1, -1]
    for rows in ([0, -1], [0, index.num_pois], np.array([0, 2**63], np.uint64)):
        with pytest.raises(ValueError, match="1 of 2 places are not in the index"):
            index.encode(rows, rows=True)
        assert index.encode(rows, rows=True, unknown="mark")[0][1] == -1
    with pytest.raises(ValueError, match="expected 'error' or 'mark'"):
        index.encode([known], unknown="ignore")
    with pytest.raises(ValueError, match="rows are of type float64; expected integers"):
        index.encode([0.0], rows=True)


@pytest.mark.parametrize("grown", [False, True])
def test_pairs_that_name_no_place(grown: bool) -> None:
    index = grown_index() if grown else POIIndex.build(make_pois(), max_pois_per_block=8)
    far = [(-1, 0), (index.num_blocks, 0), (0, -1), (0, index.num_inner), (0, 2**40), (2**40, 0), (-(2**40), 0)]
    assert index.decode(*np.array(far).T).tolist() == [None] * len(far)
    every = np.meshgrid(np.arange(-2, index.num_blocks + 2), np.arange(-2, index.num_inner + 2))
    rows = index.decode_rows(*every)
    assert sorted(rows[rows >= 0].tolist()) == list(range(index.num_pois))
    assert [index.decode(0, inner).item() is not None for inner in range(8)].count(True) == index.block_sizes[0]


@pytest.mark.parametrize("grown", [False, True])
@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_rows_may_be_of_any_integer_type(kind: Any, grown: bool) -> None:
    """Row numbers of a narrow type while the index has more places than the type can count."""
    pois = table(np.linspace(0, 50, 400), np.linspace(0, 90, 400), category=["zoo"] * 400, train_visits=range(400))
    index = POIIndex.build(pois, max_pois_per_block=8)
    if grown:
        index = index.add(table([1.0], [2.0], poi_id=["q"]))
    rows = np.array([0, 1, 99], kind)
    np.testing.assert_array_equal(index.encode(rows, rows=True), index.encode(["p0", "p1", "p99"]))
    assert index.ids(rows).tolist() == ["p0", "p1", "p99"]
    assert index.visits(rows).tolist() == [0, 1, 99]
    assert index.categories(rows).tolist() == [0, 0, 0]
    np.testing.assert_array_equal(index.positions(rows), index.positions(rows.tolist()))
    np.testing.assert_allclose(index.coordinates(rows)[0], pois["latitude"].to_numpy()[[0, 1, 99]], atol=1e-7)
    assert index.is_retired(rows).tolist() == [False] * 3


@pytest.mark.parametrize("grown", [False, True])
def test_nothing_asked_gives_nothing(grown: bool) -> None:
    index = grown_index() if grown else POIIndex.build(make_pois(), max_pois_per_block=8)
    for answer in (
        *index.encode([]),
        *index.encode([], rows=True),
        *index.encode(np.array([], np.int64), rows=True),
        *index.coordinates([]),
        index.rows([]),
        index.ids([]),
        index.decode([], []),
        index.categories([]),
        index.positions([]),
        index.visits([]),
        index.is_retired([]),
        index.block_of_point([], []),
        index.block_addresses([]),
        index.block_bounds([]),
        index.geojson([])["features"],
    ):
        assert len(answer) == 0
    assert index.retire([]).num_pois == index.num_pois


def test_facts_of_places(pois: pa.Table, index: POIIndex) -> None:
    rows = np.append(np.arange(index.num_pois), -1)
    names = [None if number < 0 else index.category_names[number] for number in index.categories(rows)]
    assert names == [*pois["category"].to_pylist(), None]
    assert index.visits(rows).tolist() == [*pois["train_visits"].to_pylist(), 0]
    assert index.visitors(rows).tolist() == [*pois["train_visitors"].to_pylist(), 0]
    latitude, longitude = index.coordinates(rows)
    np.testing.assert_allclose(latitude, [*pois["latitude"].to_pylist(), np.nan], atol=1e-7)
    np.testing.assert_allclose(longitude, [*pois["longitude"].to_pylist(), np.nan], atol=1e-7)
    assert index.ids(rows).tolist() == [*pois["poi_id"].to_pylist(), None]
    assert index.ids(np.array([[0, -1]])).tolist() == [[pois["poi_id"][0].as_py(), None]]
    assert index.poi_ids.to_pylist() == pois["poi_id"].to_pylist()


def test_positions_of_coarser_grids_are_prefixes(index: POIIndex) -> None:
    rows = np.append(np.arange(index.num_pois), -1)
    fine = index.positions(rows, bits=16)
    for bits in range(0, 17, 2):
        coarse = index.positions(rows, bits=bits)
        np.testing.assert_array_equal(coarse[:-1], fine[:-1] >> (16 - bits))
        assert coarse[-1] == -1
    for bits in (-2, 3, 18):
        with pytest.raises(ValueError, match="expected an even number up to 16"):
            index.positions(rows, bits=bits)


def test_rows_in_order_is_block_by_block(index: POIIndex) -> None:
    for one in (index, grown_index()):
        rows = one.rows_in_order()
        pairs = list(zip(*(axis.tolist() for axis in one.encode(rows, rows=True)), strict=True))
        assert pairs == sorted(pairs)
        assert sorted(rows.tolist()) == list(range(one.num_pois))


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("scheme", ["quadtree", "grid"])
def test_an_index_of_hardly_any_place(scheme: str, size: int) -> None:
    index = POIIndex.build(table([5.0] * size, [6.0] * size), scheme=scheme)
    assert (index.num_pois, index.num_blocks) == (size, 1)
    assert index.encode([f"p{i}" for i in range(size)])[1].tolist() == list(range(size))
    assert index.block_of_point([5.0, -80.0], [6.0, 10.0]).tolist()[0] == 0
    assert index.neighbours(0).tolist() == []
    assert index.blocks_within(5.0, 6.0, 1.0).tolist() == [0]
    assert not index.rebuild_advice().rebuild


def test_an_index_travels_to_other_processes(index: POIIndex) -> None:
    """Workers of a loader get it by pickle."""
    other = pickle.loads(pickle.dumps(index))
    np.testing.assert_array_equal(other.encode(index.poi_ids), index.encode(index.poi_ids))


def test_bad_settings_are_refused(pois: pa.Table) -> None:
    for settings_, message in [
        ({"scheme": "hexagons"}, "expected one of quadtree, grid"),
        ({"scheme": "grid", "cell_km": 0.0}, r"expected 0\.05 to 5000"),
        ({"max_pois_per_block": 0}, "expected at least 1"),
        ({"spare_blocks": -0.1}, "expected a share of 0 or more"),
        ({"spare_blocks": float("nan")}, "expected a share of 0 or more"),
        ({"bad_rows": "drop"}, "expected 'error' or 'quarantine'"),
    ]:
        with pytest.raises(ValueError, match=message):
            POIIndex.build(pois, **settings_)
    with pytest.raises(ValueError, match="expected 'error' or 'quarantine'"):
        grown_index().add(table([0.0], [0.0], poi_id=["r"]), bad_rows="drop")
