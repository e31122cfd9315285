"""The planner: its numbers are those of a built index, its choice is the smallest that fits, its errors help."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex
from spacetime_gr.index.build import NO_PARENT, descend, whole_map
from spacetime_gr.index.geometry import corner_distance_km, haversine_km
from spacetime_gr.index.planner import Bound, plan_index
from spacetime_gr.index.schemes import Quadtree
from spacetime_gr.vocabulary import Vocabulary
from tests.spacetime_gr.conftest import make_pois

FIXED = Vocabulary(0, 0, 1).size


def table(latitude: list[float], longitude: list[float]) -> pa.Table:
    return pa.table({"poi_id": [f"p{i}" for i in range(len(latitude))], "latitude": latitude, "longitude": longitude})


def measured(pois: pa.Table, bound: int, spare_blocks: float, budget: int) -> Bound:
    """What a really built index shows."""
    index = POIIndex.build(pois, max_pois_per_block=bound, spare_blocks=spare_blocks, check_swapped=False)
    corner = np.quantile(corner_distance_km(index.block_bounds()), [0.5, 0.95, 1.0])
    vocabulary = Vocabulary(index.block_capacity, index.num_inner, 1).size
    return Bound(
        max_pois_per_block=bound,
        num_blocks=index.num_blocks,
        block_capacity=index.block_capacity,
        num_inner=index.num_inner,
        vocabulary=vocabulary,
        fits=vocabulary <= budget,
        fill=float((index.block_sizes / index.num_inner).mean()),
        single_poi_blocks=int((index.block_sizes == 1).sum()),
        corner_km=dict(zip(("median", "q95", "max"), corner.tolist(), strict=True)),
    )


def same(one: Bound, two: Bound) -> None:
    for name, value in vars(one).items():
        assert getattr(two, name) == pytest.approx(value, rel=1e-9), name


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(st.floats(-90, 90, width=32), st.floats(-180, 180, width=32)), min_size=1, max_size=40),
    copies=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    bounds=st.sets(st.integers(1, 12), min_size=1, max_size=4),
    spare_blocks=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_every_bound_costs_what_a_built_index_costs(
    points: list[tuple[float, float]], copies: list[int], bounds: set[int], spare_blocks: float
) -> None:
    """Also where a point holds more places than a block: copies are cut at the deepest level."""
    repeated = [point for i, point in enumerate(points) for _ in range(copies[i % len(copies)])]
    pois = table(*(list(axis) for axis in zip(*repeated, strict=True)))
    plan = plan_index(pois, 100_000, spare_blocks=spare_blocks, smallest=1, bounds=bounds)
    assert {bound.max_pois_per_block for bound in plan.bounds} >= bounds
    for bound in plan.bounds:
        same(measured(pois, bound.max_pois_per_block, spare_blocks, 100_000), bound)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 5),
    num_pois=st.integers(1, 120),
    room=st.integers(2, 90),
    smallest=st.integers(1, 20),
    spare_blocks=st.sampled_from([0.0, 0.1]),
)
def test_the_choice_is_the_smallest_bound_that_fits(
    seed: int, num_pois: int, room: int, smallest: int, spare_blocks: float
) -> None:
    pois = make_pois(seed, num_pois)
    budget = FIXED + room
    fitting = [
        bound for bound in range(smallest, room) if measured(pois, bound, spare_blocks, budget).vocabulary <= budget
    ]
    settings_ = {"spare_blocks": spare_blocks, "smallest": smallest}
    if fitting:
        assert plan_index(pois, budget, **settings_).max_pois_per_block == fitting[0]
    else:
        with pytest.raises(ValueError, match="token ids suffice"):
            plan_index(pois, budget, **settings_)


def test_the_remedy_of_a_budget_that_is_too_small_works() -> None:
    pois = make_pois()
    with pytest.raises(ValueError, match="raise the budget, or keep fewer spare blocks than 10%") as error:
        plan_index(pois, FIXED + 10, smallest=4)
    suffices = int(str(error.value).split(";")[1].split()[0].replace(",", ""))
    assert plan_index(pois, suffices, smallest=4).chosen.vocabulary <= suffices
    with pytest.raises(ValueError, match=r"raise the budget$"):
        plan_index(pois, FIXED + 10, smallest=4, spare_blocks=0)


def test_shown_are_powers_of_two_around_the_choice() -> None:
    plan = plan_index(make_pois(), FIXED + 60, smallest=2)
    assert [bound.max_pois_per_block for bound in plan.bounds] == [4, 6, 8, 16, 32, 64, 128]


def test_actions_count_against_the_budget() -> None:
    pois = make_pois()
    one = plan_index(pois, FIXED + 60, smallest=1)
    many = plan_index(pois, FIXED + 60 + 19, num_actions=20, smallest=1)
    assert many.max_pois_per_block == one.max_pois_per_block
    assert many.chosen.vocabulary == one.chosen.vocabulary + 19


def test_reads_parquet_and_leaves_bad_rows_out_on_request(tmp_path: Path) -> None:
    good = make_pois()
    bad = table([95.0, float("nan")], [0.0, 0.0])
    path = tmp_path / "pois.parquet"
    pq.write_table(pa.concat_tables([bad, good.select(bad.column_names)]), path)
    with pytest.raises(ValueError, match=r"2 rows are bad.*\(0, 'p0'\), \(1, 'p1'\)"):
        plan_index(path)
    stages: list[str] = []
    plan = plan_index(path, bad_rows="quarantine", progress=lambda stage, done, of: stages.append(stage))
    assert (plan.num_pois, plan.num_rejected) == (good.num_rows, 2)
    assert plan.bounds == plan_index(good).bounds
    assert list(dict.fromkeys(stages)) == ["reading", "sorting", "splitting", "measuring"]


def test_files_without_rows_do_no_harm(tmp_path: Path) -> None:
    """A distributed job leaves such parts; the planner and the index read the others."""
    pq.write_table(make_pois().slice(0, 0), tmp_path / "part-0.parquet")
    with pytest.raises(ValueError, match="holds no usable place"):
        plan_index(tmp_path)
    pq.write_table(make_pois(), tmp_path / "part-1.parquet")
    assert plan_index(tmp_path).num_pois == POIIndex.build(tmp_path).num_pois == make_pois().num_rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_actions": 0}, "num_actions is 0; expected at least 1"),
        ({"spare_blocks": -0.1}, "spare_blocks is -0.1"),
        ({"smallest": 0}, "smallest is 0"),
        ({"bounds": [0, 8]}, "bounds is 0"),
        ({"vocabulary_budget": FIXED + 1}, "512 ids are specials, contexts and actions"),
        ({"vocabulary_budget": FIXED + 40, "bounds": [2]}, "ask for bounds of 4 or more"),
        ({"bad_rows": "drop"}, "bad_rows is 'drop'"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_index(make_pois(), **given)


def test_descend_meets_each_tile_once_with_its_parent() -> None:
    scheme = Quadtree()
    keys = np.sort(scheme.keys(*(make_pois()[name].to_numpy() for name in ("latitude", "longitude"))))
    generations = list(descend(scheme, keys, whole_map(scheme, keys), 7))
    assert generations[0].parent_sizes.tolist() == [NO_PARENT]
    for parents, children in pairwise(generations):
        sizes = (parents.ends - parents.starts)[~parents.finished]
        assert (sizes > 7).all()
        assert (children.ends - children.starts).sum() == sizes.sum()
        assert np.isin(children.parent_sizes, sizes).all()
    assert sum((tiles.ends - tiles.starts)[tiles.finished].sum() for tiles in generations) == len(keys)


def test_corner_distance_by_hand() -> None:
    """On the equator half the diagonal of the box; in the north the corners of the wider, southern side."""
    boxes = np.array([[-1.0, 10.0, 1.0, 12.0], [60.0, -2.0, 62.0, 2.0]])
    by_hand = [haversine_km(0.0, 0.0, 1.0, 1.0), haversine_km(61.0, 0.0, 60.0, 2.0)]
    np.testing.assert_allclose(corner_distance_km(boxes), by_hand)
    assert by_hand[0] == pytest.approx(157.25, abs=0.02)
