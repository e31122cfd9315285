import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.stream.modes import IN_TRIP, LOCAL, PRE_TRIP, segment_modes, single_mode_offsets

from .folders import FakeIndex
from .test_cleaning import sequences_of


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6))
def test_runs_agree_with_a_plain_loop(sequences: list[list[int]]) -> None:
    flat = np.array([mode for sequence in sequences for mode in sequence], dtype=np.int8)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    expected, position = {0}, 0
    for sequence in sequences:
        for i, mode in enumerate(sequence):
            if i and mode != sequence[i - 1]:
                expected.add(position + i)
        position += len(sequence)
        expected.add(position)
    assert single_mode_offsets(flat, offsets).tolist() == sorted(expected)


def test_check_ins_are_made_where_the_person_is() -> None:
    # places are 111 km apart; the second person's usual place is 7, of equally visited ones the first
    modes = segment_modes(sequences_of([3, 4, 3, -1, 3], [7, 8]), FakeIndex())
    assert modes.tolist() == [LOCAL, IN_TRIP, LOCAL, LOCAL, LOCAL, LOCAL, IN_TRIP]


def test_stated_places_tell_a_plan_from_a_trip() -> None:
    longitude = [3.0, 3.0, 4.0, np.nan, 3.1]
    sequences = sequences_of(
        [
            3,
            4,
            4,
            4,
            3,
        ],
        user_latitude=[0.0] * 5,
        user_longitude=longitude,
    )
    # of the places 3 (two visits) and 4 (three) the latter is the usual one
    assert segment_modes(sequences, FakeIndex()).tolist() == [IN_TRIP, IN_TRIP, LOCAL, LOCAL, IN_TRIP]
    sequences = sequences_of([3, 4, 4, 3, 3], user_latitude=[0.0] * 5, user_longitude=longitude)
    assert segment_modes(sequences, FakeIndex()).tolist() == [LOCAL, PRE_TRIP, IN_TRIP, LOCAL, LOCAL]


@pytest.mark.parametrize("stated", [[2, 1, 0], [2, -1, -1]])
def test_stated_modes_are_kept(stated: list[int]) -> None:
    modes = segment_modes(sequences_of([3, 3, 4], mode=stated), FakeIndex())
    assert modes.tolist() == ([2, 1, 0] if -1 not in stated else [2, LOCAL, IN_TRIP])


def test_nothing_known_is_local() -> None:
    assert segment_modes(sequences_of([-1, -1]), FakeIndex()).tolist() == [LOCAL, LOCAL]


def test_a_trip_begins_at_the_distance_that_is_set() -> None:
    sequences = sequences_of([3, 3, 4, 6])
    assert segment_modes(sequences, FakeIndex(), 112.0).tolist() == [LOCAL, LOCAL, LOCAL, IN_TRIP]
