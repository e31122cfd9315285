import numpy as np
import pytest

from spacetime_gr.evaluation.instances import Instances, Targets, build_instances
from tests.spacetime_gr.evaluation.logs import DAY, log_of

ROWS = [
    (0, 0, 0.0, "train"),
    (0, 1, 0.1, "train"),
    (0, 2, 5.0, "test"),
    (0, 3, 8.0, "test"),
    (0, 4, 8.1, "test"),
    (0, 5, 8.1, "test"),
    (1, 5, 1.0, "train"),
    (1, 5, 9.0, "test"),
]


def instances(knowledge: str, index: list[int]) -> Instances:
    log = log_of(ROWS)
    return build_instances(Targets(log=log, index=np.array(index), training=log.split == 0), knowledge)


def histories(given: Instances) -> list[list[int]]:
    events, offsets = given.history()
    return [given.log.poi_row[part].tolist() for part in np.split(events, offsets[1:-1])]


def test_stream_knows_every_strictly_earlier_event() -> None:
    given = instances("stream", [7, 5, 3])
    assert given.target.tolist() == [3, 5, 7], "targets in order of time"
    assert histories(given) == [[0, 1, 2], [0, 1, 2, 3], [5]]
    assert np.diff(given.trajectory_steps()[1]).tolist() == [0, 1, 0]


def test_same_knows_training_and_this_trajectory() -> None:
    given = instances("same", [3, 5, 7])
    assert histories(given) == [[0, 1], [0, 1, 3, 4], [5]]


def test_discovery_is_judged_on_the_stream() -> None:
    for knowledge in ("stream", "same"):
        assert instances(knowledge, [3, 5, 7]).is_discovery().tolist() == [True, True, False]


def test_visited_is_each_earlier_place_once() -> None:
    """Of the second of the target nothing is earlier: place 4 is not."""
    row, place = instances("stream", [5, 7]).visited()
    assert list(zip(row.tolist(), place.tolist(), strict=True)) == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 5)]


@pytest.mark.parametrize("knowledge", ["stream", "same"])
def test_last_place_is_that_of_the_last_known_event(knowledge: str) -> None:
    given = instances(knowledge, [2, 3, 5, 7])
    last = [history[-1] if history else -1 for history in histories(given)]
    assert given.last_place().tolist() == last


def test_without_history_there_is_no_last_place() -> None:
    log = log_of([(0, 0, 0.0, "train"), (1, 0, 1.0, "test")])
    given = build_instances(Targets(log=log, index=np.array([1]), training=log.split == 0))
    assert given.last_place().tolist() == [-1]


def test_history_of_a_trajectory_that_began_in_training() -> None:
    log = log_of([(0, 0, 0.0, "train"), (0, 1, 0.5, "train"), (0, 2, 0.9, "test"), (0, 3, 1.1, "test")])
    given = build_instances(Targets(log=log, index=np.array([3]), training=log.split == 0), "same")
    assert histories(given) == [[0, 1, 2]]
    assert given.trajectory_steps()[0].tolist() == [0, 1, 2]


def test_errors_name_what_to_change() -> None:
    with pytest.raises(ValueError, match="--knowledge is 'all'"):
        instances("all", [3])
    with pytest.raises(ValueError, match="leaves no target"):
        instances("stream", [])
    log = log_of([(0, 0, 0, "test"), (0, 0, DAY, "train")])
    with pytest.raises(ValueError, match="training events after held-out"):
        build_instances(Targets(log=log, index=np.array([0]), training=log.split == 0))
