"""The vectorised counters against the plainest possible loops."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from spacetime_gr.evaluation import baselines
from spacetime_gr.evaluation.instances import KNOWLEDGE, Instances, build_instances
from spacetime_gr.evaluation.metrics import expected_ranks
from spacetime_gr.evaluation.protocols import time_split
from tests.spacetime_gr.evaluation.logs import log_of, random_log


def known_events(given: Instances, i: int) -> list[int]:
    """Events of anyone that are known at instance i."""
    log, now = given.log, given.target_time[i]
    streamed = given.knowledge == "stream"
    return [e for e in range(len(log)) if given.training[e] or (streamed and log.timestamp[e] < now)]


def own_history(given: Instances, i: int) -> list[int]:
    log, target = given.log, given.target[i]
    mine = [e for e in range(len(log)) if log.user[e] == log.user[target]]
    if given.knowledge == "stream":
        return [e for e in mine if log.timestamp[e] < log.timestamp[target]]
    steps = [e for e in mine if log.trajectory[e] == log.trajectory[target] and e < target]
    return sorted({e for e in mine if given.training[e]} | set(steps))


def naive(given: Instances, i: int, name: str) -> list[tuple[float, ...]]:
    """Sort keys of all places, compared level by level."""
    log, target = given.log, given.target[i]
    everyone, mine = known_events(given, i), own_history(given, i)
    training = [e for e in range(len(log)) if given.training[e]]
    popular = Counter(log.poi_row[e] for e in everyone)
    popular_in_training = Counter(log.poi_row[e] for e in training)
    visits = Counter(log.poi_row[e] for e in mine)
    static = Counter(log.poi_row[e] for e in training if log.user[e] == log.user[target])
    trajectory = Counter(
        log.poi_row[e]
        for e in range(len(log))
        if log.user[e] == log.user[target]
        and (given.training[e] or (log.trajectory[e] == log.trajectory[target] and e < target))
        and log.timestamp[e] < (log.timestamp[target] + (given.knowledge == "same"))
    )
    hourly = Counter(log.poi_row[e] for e in mine if log.local_hour[e] == log.local_hour[target])
    last = log.poi_row[mine[-1]] if mine else None
    own = Counter(log.poi_row[b] for a, b in pairwise(mine) if log.poi_row[a] == last)
    anyone = Counter(
        log.poi_row[e]
        for e in everyone
        if e > 0
        and log.user[e - 1] == log.user[e]
        and log.poi_row[e - 1] == last
        and (given.training[e - 1] or not given.training[e])
    )
    levels = {
        "popularity": [popular],
        "visits_static": [static, popular_in_training],
        "visits_trajectory": [trajectory, popular_in_training],
        "visits_stream": [visits, popular],
        "user_hour": [hourly, visits, popular],
        "markov": [own, anyone, visits, popular],
    }[name]
    return [tuple(level[p] for level in levels) for p in range(log.num_pois)]


@pytest.mark.parametrize(
    ("knowledge", "name"), [(state, name) for state in KNOWLEDGE for name in baselines.choose_baselines(state, "timed")]
)
def test_ranks_equal_those_of_plain_loops(knowledge: str, name: str) -> None:
    given = build_instances(time_split(random_log(seed=3)), knowledge)
    assert len(given) > 50
    scores = getattr(baselines, name)(given)
    assert scores.dtype == np.float64
    ranks = expected_ranks(scores, given.target_poi)
    for i in range(0, len(given), 3):
        keys = naive(given, i, name)
        mine = keys[given.target_poi[i]]
        greater, equal = sum(key > mine for key in keys), sum(key == mine for key in keys)
        assert ranks[i] == greater + (equal + 1) / 2, (i, name)


def test_scores_do_not_depend_on_the_chunk() -> None:
    given = build_instances(time_split(random_log(seed=4)))
    for scorer in baselines.choose_baselines("stream", "timed").values():
        pieces = [scorer(given.take(slice(start, start + 7))) for start in range(0, len(given), 7)]
        assert np.array_equal(np.concatenate(pieces), scorer(given))


def test_true_ties_survive_the_sum() -> None:
    """Three visits and one in the trajectory tie exactly with four visits, whatever the popularity term."""
    rows = [(0, 0, 0.01 * i, "train") for i in range(4)] + [(0, 1, 1 + 0.01 * i, "train") for i in range(3)]
    rows += [(1, 1, 1.5, "train"), (2, 2, 1.5, "train"), (2, 2, 1.6, "train"), (2, 2, 1.7, "train")]
    rows += [(2, 2, 1.8, "train"), (2, 2, 1.9, "train"), (2, 2, 2.0, "train"), (2, 2, 2.1, "train")]
    rows += [(0, 1, 20.0, "test"), (0, 0, 20.1, "test")]
    given = build_instances(time_split(log_of(rows)), "same")
    scores = baselines.visits_trajectory(given)[1]
    assert scores[0] == scores[1]


def test_hour_needs_the_time_of_the_request() -> None:
    assert "user_hour" in baselines.choose_baselines("stream", "timed")
    assert "user_hour" not in baselines.choose_baselines("stream", "blind")
    assert "visits_stream" not in baselines.choose_baselines("same", "timed")
