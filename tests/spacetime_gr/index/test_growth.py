"""Places added and retired: what must stay, where new ones go, what is refused."""

from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.index.places import clustered, table

SEEDS = st.integers(0, 2**32 - 1)


def cells(index: POIIndex) -> tuple[np.ndarray, np.ndarray]:
    """First and last key of each block's cell."""
    spans = index.scheme.span_bits(index.blocks.levels)
    return index.blocks.keys, index.blocks.keys | ((np.uint64(1) << spans) - np.uint64(1))


def holders(index: POIIndex, keys: np.ndarray) -> list[int]:
    """The deepest block that holds each key, of those with one cell the last; -1 for none."""
    first, last = cells(index)
    found = []
    for key in keys:
        inside = np.flatnonzero((first <= key) & (key <= last))
        found.append(max(inside.tolist(), key=lambda block: (index.blocks.levels[block], block), default=-1))
    return found


def keys_of(index: POIIndex, pois: pa.Table) -> np.ndarray:
    """Keys of a table's places."""
    return index.scheme.keys(pois["latitude"].to_numpy(), pois["longitude"].to_numpy())


def check_growth(old: POIIndex, new: POIIndex, pois: pa.Table) -> None:
    """Everything that `add` promises of one step."""
    ids = pois["poi_id"].to_pylist()
    # No old pair moves; all pairs are unique and within the ranges; decode undoes encode.
    rows = np.arange(new.num_pois)
    blocks, inners = new.encode(rows, rows=True)
    np.testing.assert_array_equal(
        old.encode(rows[: old.num_pois], rows=True), (blocks[: old.num_pois], inners[: old.num_pois])
    )
    assert len(set(zip(blocks.tolist(), inners.tolist(), strict=True))) == new.num_pois
    assert (blocks.min() >= 0) & (blocks.max() < new.num_blocks) & (new.num_blocks <= new.block_capacity)
    assert (inners.min() >= 0) & (inners.max() < new.num_inner) & (new.num_inner == old.num_inner)
    np.testing.assert_array_equal(new.decode_rows(blocks, inners), rows)
    assert new.rows(ids).tolist() == rows[old.num_pois :].tolist()
    assert new.rows_in_order().tolist() == np.lexsort((inners, blocks)).tolist()
    assert new.block_sizes.tolist() == np.bincount(blocks, minlength=new.num_blocks).tolist()
    for block in range(new.num_blocks):  # inner ids have no gaps
        assert sorted(inners[blocks == block].tolist()) == list(range(new.block_sizes[block]))

    # Spare inner ids first, for the most visited; what finds no room takes new blocks.
    keys, visits = keys_of(old, pois), pois["train_visits"].to_pylist()
    homes, given_blocks = holders(old, keys), blocks[old.num_pois :].tolist()
    for home in set(homes) - {-1}:
        guests = [place for place in range(len(ids)) if homes[place] == home]
        guests.sort(key=lambda place: (-visits[place], ids[place]))
        room = old.num_inner - int(old.block_sizes[home])
        assert all(given_blocks[place] == home for place in guests[:room])
        assert [int(inners[old.num_pois + place]) for place in guests[:room]] == [
            int(old.block_sizes[home]) + turn for turn in range(min(room, len(guests)))
        ]
        assert all(given_blocks[place] >= old.num_blocks for place in guests[room:])
    assert all(given_blocks[place] >= old.num_blocks for place in range(len(ids)) if homes[place] < 0)

    # New blocks lie inside their full parent, or where no block was; never around an old block.
    first, last = cells(new)
    old_blocks = np.arange(old.num_blocks)
    for block in range(old.num_blocks, new.num_blocks):
        inside = (first[old_blocks] <= first[block]) & (last[block] <= last[old_blocks])
        apart = (last[old_blocks] < first[block]) | (last[block] < first[old_blocks])
        assert (inside | apart).all()
        parent = int(new.blocks.parents[block])
        assert 0 <= parent < old.num_blocks
        if inside.any():
            assert parent == holders(old, first[[block]])[0]
            assert old.block_sizes[parent] + homes.count(parent) > old.num_inner

    # Places lie in their blocks, and points are found where they lie.
    assert all((first[given_blocks] <= keys) & (keys <= last[given_blocks]))
    found = new.block_of_point(pois["latitude"].to_numpy(), pois["longitude"].to_numpy())
    assert found.tolist() == holders(new, keys)

    # Facts of the added places.
    added = rows[old.num_pois :]
    latitude, longitude = new.coordinates(added)
    np.testing.assert_allclose(latitude, pois["latitude"].to_numpy(), atol=1e-7)
    np.testing.assert_allclose(longitude, pois["longitude"].to_numpy(), atol=1e-7)
    assert new.visits(added).tolist() == visits
    names = [None if number < 0 else new.category_names[number] for number in new.categories(added)]
    assert names == pois["category"].to_pylist()
    assert new.category_names[: len(old.category_names)] == old.category_names
    spans = new.scheme.span_bits(new.blocks.levels)[given_blocks].astype(np.int64)
    expected = [(int(key) % (1 << span)) << 16 >> span for key, span in zip(keys, spans.tolist(), strict=True)]
    assert new.positions(added, bits=16).tolist() == expected


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    scheme=st.sampled_from(["quadtree", "quadtree", "grid"]),
    bound=st.integers(1, 5),
    size=st.integers(1, 40),
    steps=st.lists(st.integers(1, 40), min_size=1, max_size=4),
)
def test_growing_keeps_every_promise(seed: int, scheme: str, bound: int, size: int, steps: list[int]) -> None:
    rng, numbers = np.random.default_rng(seed), count()

    def some(size: int) -> pa.Table:
        return table(
            *clustered(rng, size),
            poi_id=[f"p{next(numbers):04d}" for _ in range(size)],
            train_visits=rng.integers(0, 4, size),
            category=rng.choice(np.array(["zoo", "bar", f"new {size}", None], object), size),
        )

    index = POIIndex.build(some(size), scheme, bound, cell_km=500.0, spare_blocks=500.0, check_swapped=False)
    for step in steps:
        pois = some(step)
        grown = index.add(pois)
        check_growth(index, grown, pois)
        shuffled = index.add(pois.take(rng.permutation(step)))
        np.testing.assert_array_equal(shuffled.encode(pois["poi_id"]), grown.encode(pois["poi_id"]))
        assert shuffled.category_names == grown.category_names
        index = grown.retire(rng.choice(grown.poi_ids.to_pylist(), 2).tolist())
        np.testing.assert_array_equal(index.encode(grown.poi_ids), grown.encode(grown.poi_ids))


def test_new_blocks_do_not_enclose_older_ones() -> None:
    """A full block, a full block deep inside it, and many new places around and in the inner one."""
    index = POIIndex.build(table([10.0, 60.0], [10.0, 60.0]), max_pois_per_block=1, spare_blocks=100.0)
    index = index.add(table([10.00001, 10.00002], [10.0, 10.0], poi_id=["near0", "near1"]))
    assert np.diff(index.blocks.levels[-2:]).max() < 2 < index.blocks.levels[-1] - index.blocks.levels[0]
    rng = np.random.default_rng(0)
    around = 10.00001 + np.append(rng.normal(0, 1e-6, 10), rng.normal(0, 0.5, 30))
    pois = table(
        around,
        10.0 + np.append(rng.normal(0, 1e-6, 10), rng.normal(0, 0.5, 30)),
        poi_id=[f"q{i}" for i in range(40)],
        train_visits=[0] * 40,
        category=["bar"] * 40,
    )
    check_growth(index, index.add(pois), pois)


def test_many_places_in_one_spot() -> None:
    """More than a block holds: further blocks of the same cell at the deepest level."""
    for scheme in ("quadtree", "grid"):
        index = POIIndex.build(table([5.0], [5.0]), scheme=scheme, max_pois_per_block=2, spare_blocks=20.0)
        for step in range(3):
            pois = table(
                [5.0] * 5,
                [5.0] * 5,
                poi_id=[f"q{step}{i}" for i in range(5)],
                train_visits=[0] * 5,
                category=[None] * 5,
            )
            pois = pois.set_column(4, "category", pa.nulls(5, pa.string()))
            grown = index.add(pois)
            check_growth(index, grown, pois)
            index = grown
        assert index.num_pois == 16


def test_parents_where_the_map_was_empty_are_the_nearest_blocks() -> None:
    index = POIIndex.build(table([0.0, 40.0], [0.0, 100.0]), max_pois_per_block=1, spare_blocks=10.0)
    near = index.encode(["p0"])[0]
    grown = index.add(table([-41.0], [-100.0], poi_id=["q"]))
    assert grown.blocks.parents[-1] == near
    assert grown.blocks.parents[: index.num_blocks].tolist() == [-1] * index.num_blocks


@pytest.mark.parametrize(("latitude", "longitude"), [(-23.0, -158.0), (-8.0, -147.0), (0.0, 0.0), (90.0, 0.0)])
def test_a_place_on_the_other_side_of_the_world_has_a_parent(latitude: float, longitude: float) -> None:
    """Rounding may put antipodes further apart than half a turn."""
    index = POIIndex.build(table([latitude], [longitude]), "grid", spare_blocks=10.0)
    grown = index.add(table([-latitude], [longitude + 180.0], poi_id=["q"]))
    assert grown.blocks.parents.tolist() == [-1, 0]


def test_the_end_of_the_room_is_said() -> None:
    index = POIIndex.build(table([0.0, 50.0], [0.0, 50.0]), max_pois_per_block=1, spare_blocks=1.0)
    full = index.add(table([-20.0, 20.0], [0.0, -50.0], poi_id=["q0", "q1"]))
    assert (full.num_blocks, full.block_capacity) == (4, 4)
    with pytest.raises(ValueError, match=r"need 1 new blocks, the index has 0 spare ones left of 4; rebuild"):
        full.add(table([0.0], [0.0], poi_id=["q2"]))
    with pytest.raises(ValueError, match=r"need 3 new blocks, the index has 2 spare"):
        index.add(table([0.0] * 3, [0.0] * 3, poi_id=["q0", "q1", "q2"]))


@pytest.mark.parametrize("column", [["q", "p1", "p0"], ["q", "r", "q"]])
def test_known_and_double_ids_are_refused(column: list[str]) -> None:
    index = POIIndex.build(table([0.0, 1.0], [0.0, 1.0]))
    bad = table([float("nan"), 0.0, 0.0, 0.0], [0.0] * 4, poi_id=["bad", *column])
    with pytest.raises(
        ValueError, match=r"\[\(2, 'p1'\), \(3, 'p0'\)\]; add new" if "p1" in column else r"\('q', \[1, 3\]\)"
    ):
        index.add(bad, bad_rows="quarantine")


@pytest.mark.parametrize(
    ("base", "later", "asked"),
    [
        (pa.array(["a", "b"], pa.large_string()), ["c"], ["a", "c"]),
        (["a", "b"], pa.array(["c"], pa.large_string()), ["a", "c"]),
        (["a", "b"], pa.array(["c"]).dictionary_encode(), ["a", "c"]),
        (["1", "2"], [3], ["1", "3"]),
        ([1, 2], ["3"], [1, 3]),
        ([1, 2], pa.array([3], pa.uint8()), [1, 3]),
    ],
)
def test_ids_of_another_type_join_those_of_the_index(base: Any, later: Any, asked: list[Any]) -> None:
    index = POIIndex.build(table([0.0, 1.0], [0.0, 1.0], poi_id=base)).add(table([0.0], [0.0], poi_id=later))
    assert index.rows(asked).tolist() == [0, 2]
    assert index.ids(np.array([0, 2])).tolist() == asked
    assert index.poi_ids.take([0, 2]).to_pylist() == asked
    again = index.add(table([0.0], [0.0], poi_id=[9]))
    assert again.rows([9]).tolist() == again.rows(["9"]).tolist() == [3]


def test_text_that_is_no_number_does_not_join_numbers() -> None:
    index = POIIndex.build(table([0.0], [0.0], poi_id=[1]))
    with pytest.raises(ValueError, match=r"ids of the index are integers.*\(1, 'café'\)"):
        index.add(table([0.0, 0.0], [0.0, 0.0], poi_id=["2", "café"]))


def test_retired_places_keep_their_pairs() -> None:
    index = POIIndex.build(make_pois(), max_pois_per_block=8)
    closed = index.retire(["p0003", "p0007"]).retire(["p0003"]).retire([])
    assert len(closed.retired) == 2
    assert closed.ids(np.flatnonzero(closed.is_retired(np.arange(120)))).tolist() == sorted(
        ["p0003", "p0007"], key=lambda poi: int(index.rows([poi])[0])
    )
    assert not closed.is_retired([-1]).any()
    assert not index.is_retired(np.arange(120)).any()
    with pytest.raises(ValueError, match=r"2 places to retire are not in the index, first \['x', None\]"):
        index.retire(["p0003", "x", None])


def test_bad_rows_of_an_addition_are_set_aside() -> None:
    index = POIIndex.build(make_pois(), max_pois_per_block=8)
    bad = table([40.7, 95.0], [-74.0, 200.0], poi_id=["q", "r"])
    with pytest.raises(ValueError, match="1 rows are bad"):
        index.add(bad)
    grown = index.add(bad, bad_rows="quarantine")
    assert grown.rows(["q", "r"]).tolist() == [120, -1]
    assert grown.rejected is not None
    assert grown.rejected["row"].to_pylist() == [1]


def test_advice_says_when_a_rebuild_pays() -> None:
    pois = make_pois()
    index = POIIndex.build(pois, max_pois_per_block=8, spare_blocks=0.5)
    advice = index.rebuild_advice()
    assert (advice.added_share, advice.retired_share, advice.child_share, advice.spare_blocks_used) == (0, 0, 0, 0)
    assert not advice.rebuild
    closed = index.retire(pois["poi_id"].to_pylist()[:30]).rebuild_advice()
    assert closed.retired_share == 0.25
    assert closed.reasons == ["retired_share is 25.0%, above 20%"]
    later = make_pois(1, 40)
    grown = index.add(later.set_column(0, "poi_id", pa.array([f"q{i}" for i in range(40)])))
    advice = grown.rebuild_advice()
    assert advice.added_share == 0.25
    assert advice.child_share == (grown.encode(grown.poi_ids)[0] >= index.num_blocks).mean()
    assert advice.spare_blocks_used == (grown.num_blocks - index.num_blocks) / (index.block_capacity - index.num_blocks)
    assert advice.rebuild
    assert POIIndex.build(pois, spare_blocks=0).rebuild_advice().spare_blocks_used == 0
