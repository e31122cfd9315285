import numpy as np
import pytest

from spacetime_gr.evaluation.instances import Targets
from spacetime_gr.evaluation.protocols import choose, getnext, last_per_user, lessismore, sthgcn, time_split
from tests.spacetime_gr.evaluation.logs import log_of


def described(targets: Targets) -> list[tuple[int, int, float]]:
    """(user, place, day) of each target."""
    log, index = targets.log, targets.index
    days = log.timestamp[index] / 86_400
    return list(zip(log.user_hash[log.user[index]].tolist(), log.poi_row[index].tolist(), days.tolist(), strict=True))


TRAINING = [(0, 0, 0.0, "train"), (0, 1, 0.5, "train"), (0, 2, 0.75, "train")]


def test_trajectory_end_takes_the_last_known_step_of_three() -> None:
    rows = [
        *TRAINING,
        # Unknown places are removed first: the target is the step before, and three remain.
        *[(0, place, 10 + hour / 24, "test") for hour, place in enumerate([0, 1, 2, -1])],
        # Two remain: no instance.
        *[(0, place, 20 + hour / 24, "test") for hour, place in enumerate([0, -1, 2])],
        # A user whom training does not know.
        *[(5, place, 30 + hour / 24, "test") for hour, place in enumerate([0, 1, 2])],
    ]
    targets = getnext(log_of(rows))
    assert described(targets) == [(0, 2, 10 + 2 / 24)]
    assert (targets.log.poi_row >= 0).all()


def test_getnext_reads_the_test_file_by_itself() -> None:
    held_out = [(0, 0, 10.0, "validation"), (0, 1, 10.25, "test"), (0, 2, 10.5, "test")]
    assert described(getnext(log_of([*TRAINING, *held_out]))) == []
    more = [*held_out, (0, 0, 10.75, "test")]
    assert described(getnext(log_of([*TRAINING, *more]))) == [(0, 0, 10.75)]


def test_lessismore_holds_out_everything_after_training() -> None:
    rows = [*TRAINING, *[(0, place, day, "validation") for place, day in ((0, 10.0), (1, 10.25), (2, 10.5))]]
    assert described(lessismore(log_of(rows))) == [(0, 2, 10.5)]


def test_a_place_in_the_catalogue_that_training_never_visits_is_unknown() -> None:
    rows = [*TRAINING, *[(0, place, 10 + hour / 24, "test") for hour, place in enumerate([0, 1, 2, 5])]]
    assert described(lessismore(log_of(rows))) == [(0, 2, 10 + 2 / 24)]
    assert [place for _, place, _ in described(time_split(log_of(rows)))] == [0, 1, 2]


def test_sthgcn_takes_the_last_step_or_none() -> None:
    rows = [
        *TRAINING,
        # The last step is unknown: the trajectory has no target, and does not fall back to the step before.
        *[(0, place, 10 + hour / 24, "test") for hour, place in enumerate([1, 2, -1])],
        # Two steps suffice.
        *[(0, place, 20 + hour / 24, "test") for hour, place in enumerate([1, 2])],
        # An isolated check-in.
        (0, 1, 30.0, "test"),
        # Place 0 opens a trajectory in training and is in no training sample.
        *[(0, place, 40 + hour / 24, "test") for hour, place in enumerate([1, 0])],
        # A trajectory that began in validation counts where it ends.
        (0, 1, 50.0, "validation"),
        (0, 2, 50.5, "test"),
    ]
    targets = sthgcn(log_of(rows))
    assert described(targets) == [(0, 2, 20 + 1 / 24), (0, 2, 50.5)]
    assert 30.0 not in (targets.log.timestamp / 86_400).tolist()


def test_time_split_and_last_per_user() -> None:
    rows = [*TRAINING, (3, 1, 1.0, "train"), (0, 1, 5, "validation"), (0, 1, 9, "test"), (0, 2, 9.5, "test")]
    rows += [(3, 0, 9.1, "test"), (3, -1, 9.9, "test"), (4, 0, 9.2, "test")]
    log = log_of(rows)
    assert described(time_split(log)) == [(0, 1, 9.0), (0, 2, 9.5), (3, 0, 9.1)]
    assert described(last_per_user(log)) == [(0, 2, 9.5), (3, 0, 9.1)]
    assert np.array_equal(time_split(log).training, time_split(log).log.split == 0)


def test_choice_by_source() -> None:
    assert choose("public", "lessismore") == "lessismore"
    assert choose("sthgcn", "foursquare") == "sthgcn"
    assert choose("time_split", "tables") == "time_split"
    # The rule of raw files filters rare places and users over all parts, which a prepared folder does not.
    for source in ("tables", "foursquare", "gowalla"):
        with pytest.raises(ValueError, match="use --protocol time_split"):
            choose("public", source)
    with pytest.raises(ValueError, match="expected one of public"):
        choose("random", "getnext")
