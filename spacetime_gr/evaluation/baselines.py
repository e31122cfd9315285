"""Counters: what a model has to beat. Each scores all places for a batch of instances, in float64.

Float32 would round the popularity term away beside a visit count above 8 and so invent ties at the top.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spacetime_gr.evaluation.counts import expand_ranges
from spacetime_gr.evaluation.instances import Instances

Scorer = Callable[[Instances], np.ndarray]  # (n,) instances -> (n, num_pois) scores, higher is better

TIE_BREAK = 1e-6


def popularity(instances: Instances) -> np.ndarray:
    """Visits of anyone to the place, over those to the busiest place: (n, num_pois).

    Under `stream` the training events and every event strictly before the target's time count, under `same` the
    training events alone.
    """
    return _relative(_known_visits(instances))


def visits_static(instances: Instances) -> np.ndarray:
    """The user's visits in training, ties by popularity in training."""
    return _training_visits(instances) + TIE_BREAK * _relative(_training_popularity(instances))


def visits_trajectory(instances: Instances) -> np.ndarray:
    """The user's visits in training and in the earlier steps of this trajectory, ties by popularity in training.

    What a frozen model that reads one trajectory at a time is told: the fair comparison for such a model.
    """
    events, offsets = instances.trajectory_steps()
    # Whole numbers are added before the fraction: 3 + e + 1 and 4 + e round differently, and would part true ties.
    visits = _training_visits(instances) + _count(instances, events, offsets, ~instances.training[events])
    return visits + TIE_BREAK * _relative(_training_popularity(instances))


def visits_stream(instances: Instances) -> np.ndarray:
    """The user's visits in the known history, ties by popularity; counted on while the stream passes."""
    return _count(instances, *instances.history()) + TIE_BREAK * popularity(instances)


def user_hour(instances: Instances) -> np.ndarray:
    """The user's visits at the target's hour of the local day, then all his visits, then popularity.

    Three levels, strictly one before the other. Needs the target's time: not to be used when that is hidden.
    """
    log = instances.log
    events, offsets = instances.history()
    target_hour = np.repeat(log.local_hour[instances.target], np.diff(offsets))
    same_hour = _count(instances, events, offsets, log.local_hour[events] == target_hour)
    return _levels(same_hour, _count(instances, events, offsets), _known_visits(instances))


def markov(instances: Instances) -> np.ndarray:
    """First-order transitions from the last place: the user's, then anyone's, then the user's visits, then popularity.

    A transition joins two consecutive known events of a user. Four levels, strictly one before the other.
    """
    log = instances.log
    events, offsets = instances.history()
    has_history = np.diff(offsets) > 0
    last = np.full(len(instances), -1, np.int64)
    last[has_history] = log.poi_row[events[offsets[1:][has_history] - 1]]

    # An event of the history follows `last` if the event before it in the same history was there.
    follows = np.zeros(len(events), bool)
    follows[1:] = log.poi_row[events[:-1]] == np.repeat(last, np.diff(offsets))[1:]
    follows[offsets[:-1][has_history]] = False
    own = _count(instances, events, offsets, follows)
    return _levels(
        own, _global_transitions(instances, last), _count(instances, events, offsets), _known_visits(instances)
    )


def choose_baselines(knowledge: str, setting: str) -> dict[str, Scorer]:
    """The counters that use no more than a state of knowledge and a setting allow, by name."""
    scorers: list[Scorer] = [popularity, visits_static, visits_trajectory]
    if knowledge == "stream":
        scorers += [visits_stream]
    if setting == "timed":
        scorers += [user_hour]
    return {scorer.__name__: scorer for scorer in [*scorers, markov]}


def _count(
    instances: Instances, events: np.ndarray, offsets: np.ndarray, chosen: np.ndarray | None = None
) -> np.ndarray:
    """Visits per instance and place of the events of a ragged list: (n, num_pois) float64."""
    num_pois = instances.log.num_pois
    cell = np.repeat(np.arange(len(instances)) * num_pois, np.diff(offsets)) + instances.log.poi_row[events]
    if chosen is not None:
        cell = cell[chosen]
    return np.bincount(cell, minlength=len(instances) * num_pois).reshape(-1, num_pois).astype(np.float64)


def _training_visits(instances: Instances) -> np.ndarray:
    log, users = instances.log, instances.log.user[instances.target]
    events, offsets = expand_ranges(log.user_offsets[users], log.user_offsets[users + 1])
    return _count(instances, events, offsets, instances.training[events])


def _relative(counts: np.ndarray) -> np.ndarray:
    """Counts over their maximum in each row; zeros stay zeros."""
    return counts / np.maximum(counts.max(axis=-1, keepdims=True), 1)


def _training_popularity(instances: Instances) -> np.ndarray:
    """Visits of anyone to each place in training: (num_pois,)."""
    return np.bincount(instances.log.poi_row[instances.training], minlength=instances.log.num_pois)


def _known_visits(instances: Instances) -> np.ndarray:
    """Visits of anyone to each place that are known at each target: (n, num_pois)."""
    log = instances.log
    training = _training_popularity(instances)
    if instances.knowledge == "same":
        return np.broadcast_to(training, (len(instances), log.num_pois))
    # Instances are in rising order of time, so each row is the one before plus the events between.
    row = np.searchsorted(instances.target_time, log.timestamp, side="right")
    later = ~instances.training & (row < len(instances))
    cell = row[later] * log.num_pois + log.poi_row[later]
    new = np.bincount(cell, minlength=len(instances) * log.num_pois).reshape(-1, log.num_pois)
    return training + np.cumsum(new, axis=0)


def _global_transitions(instances: Instances, last: np.ndarray) -> np.ndarray:
    """How often anyone went from `last` (n,) to each place, as far as is known at the target: (n, num_pois).

    Steps inside training always count; under `stream` those that ended strictly before the target's time too.
    """
    log = instances.log
    origin = np.full(len(log), -1, np.int64)
    origin[1:] = np.where(np.diff(log.user) == 0, log.poi_row[:-1], -1)
    in_training = instances.training.copy()
    in_training[1:] &= instances.training[:-1]
    earliest = log.timestamp.min()
    known_since = np.where(in_training, 0, log.timestamp - earliest + 1)
    asked_at = np.zeros_like(last) if instances.knowledge == "same" else instances.target_time - earliest
    # One key for (origin, time): one sorted search finds the steps from a place that are known at a time.
    span = known_since.max() + 1
    key = np.where(origin >= 0, origin * span + known_since, -1)
    steps = np.argsort(key, kind="stable")
    firsts = np.searchsorted(key, last * span, side="left", sorter=steps)
    ends = np.searchsorted(key, last * span + asked_at, side="right", sorter=steps)
    positions, offsets = expand_ranges(firsts, np.where(last >= 0, ends, firsts))
    return _count(instances, steps[positions], offsets)


def _levels(*levels: np.ndarray) -> np.ndarray:
    """Join counts (n, num_pois) into one score that ranks by the first, ties by the second, and so on."""
    score = np.zeros(levels[0].shape)
    for level in reversed(levels):
        score += level * (score.max(axis=1, keepdims=True) + 1)
    assert score.max(initial=0) < 2**53, "counts too large to be joined exactly"
    return score
