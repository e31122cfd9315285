from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.lanes import Cursor, Lane, Source, UnitFeed, UnitOrder
from data_pipelines.stream.rows import UnitRows, View


@dataclass
class FakeRows:
    unit: int
    num_rows: int
    counts: Counter[str]


def make_rows(num_rows: list[int]) -> tuple[list[tuple[str, int, int]], object]:
    """A maker of fake units: row r of a unit holds unit * 100 + r."""
    calls: list[tuple[str, int, int]] = []

    def make(view: View, epoch: int, unit: int) -> UnitRows:
        calls.append((view, epoch, unit))
        return FakeRows(unit, num_rows[unit], Counter(rows=num_rows[unit], sequences_too_short=1))  # type: ignore

    return calls, make


def next_of(lane: Lane, view: View = "multi") -> int:
    rows, row = lane.next_row((0, view))
    return rows.unit * 100 + row  # type: ignore[attr-defined]


def lane_of(lane: int, num_lanes: int, make: Any, num_units: int, pool: ThreadPoolExecutor | None = None) -> Lane:
    source = Source(UnitOrder(num_units, num_lanes, seed=0), UnitFeed(make, num_units, "the data", pool))
    return Lane(lane, [source], 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3))
def test_each_unit_is_dealt_once_per_epoch(num_units: int, num_lanes: int, seed: int) -> None:
    order = UnitOrder(num_units, num_lanes, seed)
    dealt: list[tuple[int, int]] = []
    for lane in range(num_lanes):
        cursor = order.first(lane)
        while cursor.epoch < 3:
            dealt.append((cursor.epoch, order.unit(cursor)))
            cursor = order.following(cursor)
    assert sorted(dealt) == [(epoch, unit) for epoch in range(3) for unit in range(num_units)]


def test_a_lane_walks_its_units_and_passes_those_without_rows() -> None:
    calls, make = make_rows([2, 0, 1, 0])
    lane = lane_of(0, 1, make, 4)
    seen = [next_of(lane) for _ in range(9)]
    assert [sorted(seen[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 200]] * 3
    assert sum(unit in (1, 3) for _, _, unit in calls) == 2  # looked at once, then known to be empty


def test_cursor_after_the_last_row_of_a_unit_restores() -> None:
    _, make = make_rows([2, 3])
    walked = lane_of(0, 1, make, 2)
    with ThreadPoolExecutor(2) as pool:
        for step in range(1, 12):
            next_of(walked)
            resumed = lane_of(0, 1, make, 2, pool)
            resumed.restore(walked.cursors)
            copy = lane_of(0, 1, make, 2)
            for _ in range(step):
                next_of(copy)
            assert [next_of(resumed) for _ in range(4)] == [next_of(copy) for _ in range(4)]


def test_nothing_left_in_the_whole_split_is_an_error_and_no_hang() -> None:
    calls, make = make_rows([0] * 100)
    with pytest.raises(ValueError, match=r"all 100 units of the data .* not one row .*too_short 100.*cleaning"):
        next_of(lane_of(0, 8, make, 100))
    assert len(calls) == 100


def test_one_unit_with_rows_among_many_is_found() -> None:
    _, make = make_rows([0] * 70 + [1])
    with ThreadPoolExecutor(2) as pool:
        for number in range(8):
            lane = lane_of(number, 8, make, 71, pool)
            assert [next_of(lane, "single") for _ in range(3)] == [7000] * 3
            assert isinstance(lane.cursors[0, "single"], Cursor)


def test_a_unit_that_is_empty_in_one_epoch_only_comes_back() -> None:
    def make(view: View, epoch: int, unit: int) -> UnitRows:
        return FakeRows(unit, (epoch + unit) % 2, Counter())  # type: ignore

    order = UnitOrder(2, 1, seed=0)
    lane = Lane(0, [Source(order, UnitFeed(make, 2, "the data", epochs_alike=False))], 1)  # type: ignore[arg-type]
    assert [next_of(lane) for _ in range(4)] == [100, 0, 100, 0]


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def make(view: View, epoch: int, unit: int) -> UnitRows:
        raise ValueError("row group 3 is damaged")

    with ThreadPoolExecutor(1) as pool:
        lane = lane_of(0, 1, make, 2, pool)
        lane.prepare((0, "multi"))
        with pytest.raises(ValueError, match="row group 3 is damaged"):
            next_of(lane)
