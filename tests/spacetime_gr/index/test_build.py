"""Blocks and inner ids against a plain recursive quadtree and Python's own sorting."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex
from spacetime_gr.index import build, sorting
from spacetime_gr.index.build import Cells, order_inside, sort_by_key, split, whole_map
from spacetime_gr.index.schemes import Grid, Quadtree, positions
from tests.spacetime_gr.index.places import clustered, table

SEEDS = st.integers(0, 2**32 - 1)


def oracle(keys: list[int], bound: int, level: int = 0, first: int = 0) -> list[tuple[int, int, int]]:
    """(level, first key, number of places) of the blocks of a quadtree, north-west before south-east."""
    if not keys:
        return []
    span = 2 * (26 - level)
    if len(keys) <= bound:
        return [(level, first, len(keys))]
    if level == 26:
        return [(level, first, len(keys[start : start + bound])) for start in range(0, len(keys), bound)]
    children = [[key for key in keys if key >> (span - 2) == (first >> (span - 2)) + child] for child in range(4)]
    return [
        block
        for child, inside in enumerate(children)
        for block in oracle(inside, bound, level + 1, first + (child << (span - 2)))
    ]


def sorted_and_split(
    scheme: Quadtree | Grid, seed: int, size: int, bound: int | None, bits: int
) -> tuple[Cells, list[int]]:
    """Cells of clustered places where at least `bits` bits are taken by their numbers, and all their keys in order."""
    keys = scheme.keys(*clustered(np.random.default_rng(seed), size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "number_bits", lambda size: max(bits, sorting.number_bits(size)))
        order, sorted_keys = sort_by_key(scheme, keys.copy(), bound)
    cells = split(scheme, sorted_keys, whole_map(scheme, sorted_keys), bound)
    # Places of a block are those whose keys its cell holds.
    spans = scheme.span_bits(cells.levels)
    of_place = np.repeat(np.arange(len(cells.levels)), np.diff(cells.starts))
    np.testing.assert_array_equal(keys[order] >> spans[of_place], (cells.keys >> spans)[of_place])
    assert sorted(order.tolist()) == list(range(size))
    return cells, sorted(keys.tolist())


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, size=st.integers(1, 120), bound=st.integers(1, 9), bits=st.integers(1, 50))
@example(seed=0, size=1, bound=1, bits=1)
@example(seed=0, size=2, bound=1, bits=30)
def test_split_makes_the_blocks_of_a_recursive_quadtree(seed: int, size: int, bound: int, bits: int) -> None:
    """Also where so many places leave room for the first bits of the keys only."""
    cells, keys = sorted_and_split(Quadtree(), seed, size, bound, bits)
    found = list(zip(cells.levels.tolist(), cells.keys.tolist(), np.diff(cells.starts).tolist(), strict=True))
    assert found == oracle(keys, bound)


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    size=st.integers(1, 120),
    bound=st.one_of(st.none(), st.integers(1, 9)),
    cell_km=st.floats(0.05, 5000),
    bits=st.integers(1, 50),
)
def test_split_makes_squares_cut_at_the_bound(
    seed: int, size: int, bound: int | None, cell_km: float, bits: int
) -> None:
    cells, keys = sorted_and_split(Grid(cell_km), seed, size, bound, bits)
    squares, counts = np.unique(np.array(keys, np.uint64) >> np.uint64(16), return_counts=True)
    expected = [
        (int(square) << 16, min(left, bound or left))
        for square, count in zip(squares, counts.tolist(), strict=True)
        for left in range(count, 0, -(bound or count))
    ]
    assert list(zip(cells.keys.tolist(), np.diff(cells.starts).tolist(), strict=True)) == expected


def test_places_lie_in_their_blocks_whatever_their_number() -> None:
    """6 000 places leave an odd number of bits for the keys: the last level that these reach must be whole."""
    rng = np.random.default_rng(0)
    latitude, longitude = 40 + rng.normal(0, 1e-4, 6000), 20 + rng.normal(0, 1e-4, 6000)
    index = POIIndex.build(table(latitude, longitude), max_pois_per_block=2)
    blocks, _ = index.encode(np.arange(6000), rows=True)
    spans = index.scheme.span_bits(index.blocks.levels[blocks])
    keys = index.scheme.keys(latitude, longitude)
    np.testing.assert_array_equal(keys >> spans, index.blocks.keys[blocks] >> spans)


def check_against_the_definition(index: POIIndex, pois: pa.Table, bound: int | None) -> None:
    """Pairs are unique and bounded; inner ids fall with visits, then id; positions are those of the keys."""
    ids, visits = pois["poi_id"].to_pylist(), pois["train_visits"].to_pylist()
    blocks, inners = index.encode(ids)
    assert sorted(set(blocks.tolist())) == list(range(index.num_blocks))
    members: dict[int, list[int]] = {}
    for row in np.lexsort((inners, blocks)).tolist():
        members.setdefault(int(blocks[row]), []).append(row)
    for rows in members.values():
        assert inners[rows].tolist() == list(range(len(rows)))
        order = [(-visits[row], ids[row].encode() if isinstance(ids[row], str) else ids[row]) for row in rows]
        assert order == sorted(order)
        assert bound is None or len(rows) <= bound
    assert index.num_inner == (bound or max(map(len, members.values())))
    assert index.block_sizes.tolist() == [len(members[block]) for block in range(index.num_blocks)]
    keys = index.scheme.keys(pois["latitude"].to_numpy(), pois["longitude"].to_numpy())
    spans = index.scheme.span_bits(index.blocks.levels[blocks])
    np.testing.assert_array_equal(keys >> spans << spans, index.blocks.keys[blocks])
    np.testing.assert_array_equal(index.positions(np.arange(len(ids)), bits=16), positions(keys, spans))


@settings(max_examples=60, deadline=None)
@given(
    seed=SEEDS,
    size=st.integers(1, 120),
    scheme=st.sampled_from(["quadtree", "grid"]),
    bound=st.one_of(st.none(), st.integers(1, 9)),
    numbers=st.booleans(),
)
@example(seed=1, size=2, scheme="quadtree", bound=1, numbers=True)
@example(seed=1, size=1, scheme="grid", bound=None, numbers=False)
def test_the_index_is_what_its_definition_says(
    seed: int, size: int, scheme: str, bound: int | None, numbers: bool
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.permutation(size * 3)[:size] - size
    pois = table(
        *clustered(rng, size),
        poi_id=ids if numbers else [f"p{number}" for number in ids],
        train_visits=rng.choice([0, 0, 1, 5, 2**32 - 1], size),
    )
    index = POIIndex.build(pois, scheme=scheme, max_pois_per_block=bound, check_swapped=False)
    check_against_the_definition(index, pois, bound or (512 if scheme == "quadtree" else None))
    shuffled = pois.take(rng.permutation(size))
    other = POIIndex.build(shuffled, scheme=scheme, max_pois_per_block=bound, check_swapped=False)
    np.testing.assert_array_equal(other.encode(pois["poi_id"]), index.encode(pois["poi_id"]))
    np.testing.assert_allclose(other.block_centers, index.block_centers, atol=1e-6)


def test_many_chunks_are_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is worked on in chunks fits together at their edges."""
    rng = np.random.default_rng(3)
    pois = table(*clustered(rng, 500), train_visits=rng.integers(0, 9, 500))
    expected = {scheme: POIIndex.build(pois, scheme=scheme, max_pois_per_block=7) for scheme in ("quadtree", "grid")}
    monkeypatch.setattr(sorting.chunks, "__defaults__", (13,))
    for scheme, index in expected.items():
        other = POIIndex.build(pois, scheme=scheme, max_pois_per_block=7)
        np.testing.assert_array_equal(other.base.codes, index.base.codes)
        np.testing.assert_array_equal(other.base.ids.slots, index.base.ids.slots)
        np.testing.assert_array_equal(other.base.position, index.base.position)
        np.testing.assert_array_equal(other.encode(pois["poi_id"]), index.encode(pois["poi_id"]))
        assert other.decode(*other.encode(pois["poi_id"])).tolist() == pois["poi_id"].to_pylist()


@settings(max_examples=100, deadline=None)
@given(
    seed=SEEDS,
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=9),
    spare=st.integers(1, 40),
    most=st.sampled_from([0, 1, 3, 1000, 2**32 - 1]),
)
def test_visits_above_the_cap_are_ordered_too(seed: int, sizes: list[int], spare: int, most: int) -> None:
    """Numbers of blocks and places that leave few bits for the visits: at 100 M places they do not all fit."""
    rng = np.random.default_rng(seed)
    block = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    visits = rng.choice(np.array([0, 1, most // 2, most, most], np.uint32), len(block))
    num_blocks = 1 << (64 - sorting.number_bits(len(block)) - spare)
    expected = sorted(range(len(block)), key=lambda place: (block[place], -int(visits[place]), place))
    assert order_inside(block, num_blocks, visits).tolist() == expected


def test_identical_coordinates_are_cut_by_id() -> None:
    ids = [f"p{number}" for number in (5, 3, 8, 1, 9, 0, 2, 7, 4, 6)]
    visits = list(range(10))
    for scheme in ("quadtree", "grid"):
        pois = table([40.0] * 10, [-74.0] * 10, poi_id=ids, train_visits=visits)
        index = POIIndex.build(pois, scheme=scheme, max_pois_per_block=4)
        assert index.block_sizes.tolist() == [4, 4, 2]
        blocks, _ = index.encode(sorted(ids))
        assert blocks.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
        assert len(set(index.block_addresses())) == 1


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    """However the table is laid out in memory."""
    rng = np.random.default_rng(0)
    pois = table(*clustered(rng, 300), train_visits=rng.integers(0, 9, 300), category=["bar", None, "zoo"] * 100)
    forms = [
        pois,
        pa.concat_tables([pois.slice(250), pois]).slice(50),
        pa.concat_tables([pois.slice(0, 99), pois.slice(99)]),
    ]
    for number, form in enumerate(forms):
        POIIndex.build(form, max_pois_per_block=8).save(tmp_path / str(number))
    files = [path.relative_to(tmp_path / "0") for path in (tmp_path / "0").rglob("*.*")]
    assert len(files) > 10
    for number in ("1", "2"):
        for file in files:
            assert (tmp_path / number / file).read_bytes() == (tmp_path / "0" / file).read_bytes(), file


def test_centers_are_means_of_the_places() -> None:
    index = POIIndex.build(table([10.0, 11.0, -20.0], [179.0, 179.5, -179.0]), max_pois_per_block=2)
    blocks = index.block_of_point(np.array([10.0, -20.0]), np.array([179.0, -179.0]))
    np.testing.assert_allclose(index.block_centers[blocks], [[10.5, 179.25], [-20.0, -179.0]], atol=1e-5)


def test_spare_blocks_and_wide_codes() -> None:
    """Room for more blocks than 32-bit codes can number makes them 64 bits wide."""
    pois = table([0.0, 1.0], [0.0, 1.0])
    assert POIIndex.build(pois, max_pois_per_block=1, spare_blocks=0).block_capacity == 2
    assert POIIndex.build(pois, max_pois_per_block=1).block_capacity == 3
    wide = POIIndex.build(pois, max_pois_per_block=1 << 31, spare_blocks=9)
    assert wide.base.codes.dtype == np.uint64
    assert wide.decode(*wide.encode(["p1", "p0"])).tolist() == ["p1", "p0"]
    later = wide.add(table([2.0], [2.0], poi_id=["q"]))
    assert later.decode(*later.encode(["q", "p0"])).tolist() == ["q", "p0"]
