import numpy as np

from spacetime_gr.evaluation.discovery import discovery_grid
from spacetime_gr.evaluation.harness import Task, evaluate_instances
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.evaluation.visits import NEVER
from tests.spacetime_gr.evaluation.logs import DAY, log_of, random_log


def test_both_readings_by_hand() -> None:
    """New for 7 days: [no, yes, yes] and [yes, no, no] in the two lists; for 30: [no, no, yes] and [yes, no, no]."""
    ages = np.array([[2 * DAY, 9 * DAY, NEVER], [40 * DAY, DAY, 5 * DAY]])
    rank, target_age = np.array([2.0, 1.0]), np.array([9 * DAY, 40 * DAY])
    grid = discovery_grid(rank, ages, target_age, ks=[1, 2, 3], days=[7, 30])
    assert grid["hr"] == [0.5, 1.0, 1.0]
    assert grid["slots"] == [[1 / 2, 1 / 2], [2 / 4, 1 / 4], [3 / 6, 2 / 6]]
    # Hit at 1: the second target only, new either way. From 2 on both; the first was 9 days ago.
    assert grid["hits"] == [[1.0, 1.0], [1.0, 0.5], [1.0, 0.5]]


def test_no_hit_has_no_share_of_hits() -> None:
    grid = discovery_grid(np.array([4.0]), np.array([[NEVER]]), np.array([NEVER]), ks=[1], days=[30])
    assert grid == {"hr": [0.0], "slots": [[1.0]], "hits": [[None]]}


def test_a_whole_evaluation_by_hand() -> None:
    """One user, targets on day 10 at place 0 and on day 20 at place 3; the list is always 0, 1, 2, 3, 4, 5."""
    rows = [
        *((0, place, day, "train") for place, day in ((0, 0.0), (1, 1.0), (3, 1.5), (0, 9.0))),
        (0, 0, 10.0, "test"),
        (0, 3, 20.0, "test"),
    ]

    def listed(instances: Instances) -> np.ndarray:
        return np.log(np.tile([0.4, 0.2, 0.15, 0.12, 0.08, 0.05], (len(instances), 1)))

    task = Task(discovery_k=(2, 4), discovery_days=(5.0, 10.0, 100.0))
    result = evaluate_instances(build_instances(time_split(log_of(rows))), task, listed)["discovery_rate"]
    # Day 10: 0 a day ago, 1 nine days ago, 2 never, 3 8.5 days ago. Day 20: 0 ten days ago, 1 19, 2 never, 3 18.5.
    assert result["grid"]["model"]["slots"] == [[3 / 4, 1 / 4, 0.0], [7 / 8, 4 / 8, 2 / 8]]
    # At 2 the first target alone is hit, a return; at 4 the second too, 18.5 days after the last visit.
    assert result["grid"]["model"]["hits"] == [[0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
    assert result["model"] == {"slots": 3 / 4, "hits": 0.0}


def test_the_grid_equals_a_count_place_by_place() -> None:
    log = random_log(seed=11)
    instances = build_instances(time_split(log))
    rng = np.random.default_rng(5)
    scores = rng.permuted(np.tile(np.arange(log.num_pois, dtype=float), (len(instances), 1)), axis=1)
    order = np.argsort(instances.target)

    def fixed(chunk: Instances) -> np.ndarray:
        return scores[order[np.searchsorted(instances.target, chunk.target, sorter=order)]]

    ks, days = (3, 7), (0.5, 1.5)
    grid = evaluate_instances(instances, Task(discovery_k=ks, discovery_days=days), fixed)["discovery_rate"]["grid"]
    for a, k in enumerate(ks):
        for b, m in enumerate(days):
            new = hits = new_hits = 0
            for i, target in enumerate(instances.target):
                age = log_ages(instances, target)
                fresh = [poi not in age or age[poi] > m * DAY for poi in range(log.num_pois)]
                top = np.argsort(-scores[i])[:k]
                new += sum(fresh[poi] for poi in top)
                if instances.target_poi[i] in top:
                    hits += 1
                    new_hits += fresh[instances.target_poi[i]]
            assert np.isclose(grid["model"]["slots"][a][b], new / (k * len(instances)))
            assert np.isclose(grid["model"]["hits"][a][b], new_hits / hits)


def log_ages(instances: Instances, target: int) -> dict[int, int]:
    """Seconds since the target's user was at each place, by walking through his events in time order."""
    log, ages = instances.log, {}
    for event in range(len(log)):
        if log.user[event] == log.user[target] and log.timestamp[event] < log.timestamp[target]:
            ages[int(log.poi_row[event])] = int(log.timestamp[target] - log.timestamp[event])
    return ages
