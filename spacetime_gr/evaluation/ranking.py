"""Rank every target with every system: the one pass over dense scores, from which all figures are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from spacetime_gr.evaluation.baselines import Scorer
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.metrics import expected_ranks, new_place_ranks, top_places
from spacetime_gr.evaluation.visits import LastVisits

# Scores of one chunk of instances, float64: about 128 MB for each setting of a system. The cut does not depend on the
# number of settings, since targets of one user that are cut apart do not share a reading of his history.
_SCORES_PER_CHUNK = 1 << 24

Progress = Callable[[int, int], None]  # (targets ranked, of; counted for each scorer)


@dataclass(frozen=True)
class Ranking:
    """What is kept of one system for n targets.

    rank: (n,) float64 among all places. new_rank: (n,) float64 among the places new to the user, NaN where the target
    is not. score: (n,) float64 of the target, a log-probability if the system is a model. places: (n, k) int32, the
    list, best first. age: (n, k) int64 seconds since the user was last at each, `visits.NEVER` if never.
    """

    rank: np.ndarray
    new_rank: np.ndarray
    score: np.ndarray
    places: np.ndarray
    age: np.ndarray

    @classmethod
    def empty(cls, count: int, k: int) -> Ranking:
        """Room for `count` targets with lists of k places."""
        rank, new_rank, score = (np.empty(count) for _ in range(3))
        return cls(rank, new_rank, score, np.empty((count, k), np.int32), np.empty((count, k), np.int64))

    @property
    def new_places_only(self) -> np.ndarray:
        """Ranks in lists of new places only, of the targets that are new."""
        return self.new_rank[~np.isnan(self.new_rank)]


@dataclass(frozen=True)
class System:
    """A scorer and the names of its settings.

    Args:
        scorer: (n, num_pois) scores of a batch of instances, or (settings, n, num_pois) if there are several.
        by_user: takes targets in the order of users (a model reads a history once for all of its targets) and not of
            time (as counters need).
    """

    names: Sequence[str]
    scorer: Scorer
    by_user: bool = False


def rank_targets(
    instances: Instances,
    systems: Sequence[System],
    k: int,
    last_visits: LastVisits,
    progress: Progress | None = None,
) -> dict[str, Ranking]:
    """A `Ranking` for every setting of every system, by name.

    Args:
        k: length of the lists that are kept, at most the number of places.
    """
    num_pois = instances.log.num_pois
    rankings = {name: Ranking.empty(len(instances), k) for system in systems for name in system.names}
    done = 0
    for system in systems:
        order = np.argsort(instances.target) if system.by_user else np.arange(len(instances))
        for rows in _chunks(order, num_pois):
            chunk = instances.take(rows)
            scores = system.scorer(chunk).reshape(-1, len(rows), num_pois)
            assert len(scores) == len(system.names)
            visited, targets = chunk.visited(), chunk.target_poi
            user, when = chunk.log.user[chunk.target], chunk.target_time
            for name, values in zip(system.names, scores, strict=True):
                ranking = rankings[name]
                ranking.rank[rows] = expected_ranks(values, targets)
                ranking.new_rank[rows] = new_place_ranks(values, targets, ranking.rank[rows], visited)
                ranking.score[rows] = np.take_along_axis(values, targets[:, None], axis=1)[:, 0]
                ranking.places[rows] = top_places(values, k)
                ranking.age[rows] = last_visits.age(user[:, None], ranking.places[rows], when[:, None])
            done += len(rows)
            if progress is not None:
                progress(done, len(instances) * len(systems))
    return rankings


def _chunks(order: np.ndarray, num_pois: int) -> Iterator[np.ndarray]:
    size = max(1, min(1024, _SCORES_PER_CHUNK // num_pois))
    for start in range(0, len(order), size):
        yield order[start : start + size]
