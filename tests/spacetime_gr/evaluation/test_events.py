import numpy as np
import pytest

from spacetime_gr.evaluation.events import EventLog
from tests.spacetime_gr.evaluation.logs import DAY, log_of


def test_sorted_by_user_then_time_and_ties_keep_their_order() -> None:
    log = log_of([(9, 1, 2, "test"), (4, 2, 1, "train"), (9, 3, 1, "train"), (9, 4, 2, "test")])
    assert log.user_hash.tolist() == [4, 9]
    assert log.poi_row.tolist() == [2, 3, 1, 4]
    assert log.user_offsets.tolist() == [0, 1, 4]


def test_gap_rule_cuts_after_more_than_a_day() -> None:
    log = log_of([(0, 0, 0, "train"), (0, 0, 1, "train"), (0, 0, 2 + 1 / DAY, "train"), (1, 0, 2.5, "train")])
    assert log.trajectory.tolist() == [0, 0, 1, 2]


def test_own_trajectories_and_cut_at_splits() -> None:
    rows = [(0, 0, 0, "train"), (0, 1, 5, "validation"), (0, 1, 6, "test"), (1, 2, 0, "train")]
    log = log_of(rows, trajectory=[7, 7, 7, 7])
    assert log.trajectory.tolist() == [0, 0, 0, 1]
    assert log.cut_at_splits().trajectory.tolist() == [0, 1, 2, 3]


def test_select_keeps_users_and_places() -> None:
    log = log_of([(0, 0, 0, "train"), (1, 1, 0, "train"), (1, 2, 1, "test")]).select(np.array([False, True, True]))
    assert log.user.tolist() == [1, 1]
    assert log.user_offsets.tolist() == [0, 0, 2]
    assert log.num_users == 2


def test_local_hour() -> None:
    log = EventLog.from_arrays(
        user=np.zeros(2, int),
        poi_row=np.zeros(2, int),
        timestamp=np.array([3600, 7200]),
        split=np.zeros(2, int),
        tz_offset_minutes=np.array([-240, 90]),
        num_pois=1,
    )
    assert log.local_hour.tolist() == [21, 3]


def test_place_outside_the_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected -1\.\.5"):
        log_of([(0, 6, 0, "train")])
