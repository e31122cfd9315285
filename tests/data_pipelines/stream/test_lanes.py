from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.lanes import Cursor, Lane, UnitFeed, UnitOrder
from data_pipelines.stream.rows import UnitRows, View


def make_rows(num_rows: list[int]) -> tuple[list[tuple[str, int, int]], object]:
    """A maker of fake units: row r of a unit holds unit * 100 + r."""
    calls: list[tuple[str, int, int]] = []

    def make(view: View, epoch: int, unit: int) -> UnitRows:
        calls.append((view, epoch, unit))
        fields = {"x": unit * 100 + np.arange(num_rows[unit])[:, None]}
        return UnitRows(fields, num_rows[unit], Counter(rows=num_rows[unit], sequences_too_short=1))

    return calls, make


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
    order = UnitOrder(4, 1, seed=0)
    lane = Lane(0, order, UnitFeed(make, 4, 0), 1)  # type: ignore[arg-type]
    seen = [int(lane.next_row("multi")["x"][0]) for _ in range(9)]
    assert [sorted(seen[i : i + 3]) for i in (0, 3, 6)] == [[0, 1, 200]] * 3
    assert sum(unit in (1, 3) for _, _, unit in calls) == 2  # looked at once, then known to be empty


def test_cursor_after_the_last_row_of_a_unit_restores() -> None:
    _, make = make_rows([2, 3])
    order = UnitOrder(2, 1, seed=0)
    walked = Lane(0, order, UnitFeed(make, 2, 0), 1)  # type: ignore[arg-type]
    for step in range(1, 12):
        walked.next_row("multi")
        resumed = Lane(0, order, UnitFeed(make, 2, 2), 1)  # type: ignore[arg-type]
        resumed.restore(walked.cursors)
        copy = Lane(0, order, UnitFeed(make, 2, 0), 1)  # type: ignore[arg-type]
        for _ in range(step):
            copy.next_row("multi")
        for _ in range(4):
            assert resumed.next_row("multi")["x"][0] == copy.next_row("multi")["x"][0]


def test_nothing_left_in_the_whole_split_is_an_error_and_no_hang() -> None:
    calls, make = make_rows([0] * 100)
    lane = Lane(0, UnitOrder(100, 8, seed=0), UnitFeed(make, 100, 0), 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"all 100 units .* not one row .*sequences_too_short 100.*relax cleaning"):
        lane.next_row("multi")
    assert len(calls) == 100


def test_one_unit_with_rows_among_many_is_found() -> None:
    _, make = make_rows([0] * 70 + [1])
    lane = Lane(3, UnitOrder(71, 8, seed=0), UnitFeed(make, 71, 2), 1)  # type: ignore[arg-type]
    assert [int(lane.next_row("single")["x"][0]) for _ in range(3)] == [7000] * 3
    assert isinstance(lane.cursors["single"], Cursor)


def test_an_error_in_a_thread_reaches_the_caller() -> None:
    def make(view: View, epoch: int, unit: int) -> UnitRows:
        raise ValueError("row group 3 is damaged")

    lane = Lane(0, UnitOrder(2, 1, seed=0), UnitFeed(make, 2, 1), 1)
    lane.prepare("multi")
    with pytest.raises(ValueError, match="row group 3 is damaged"):
        lane.next_row("multi")
