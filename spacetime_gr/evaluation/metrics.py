"""Ranking metrics over the full catalogue, with ties ranked at their expectation.

The rank of a target is r = (number of places scored higher) + (number of places scored equal, itself included + 1) / 2:
its expectation when ties are broken at random. A tie of two at the top gives r = 1.5 to each. All metrics are read from
r as from an ordinary rank: a hit at k is r <= k (so neither of those two is a hit at 1, both are at 2), the reciprocal
rank is 1 / r, and the gain of NDCG is 1 / log2(1 + r). This is the counting of Laswell1551/less-is-more-nextpoi
(`ranking.py`, `getnext_compare.py`), whose published figures it reproduces. It differs from the expectation of the
metric itself (.5 hits at 1 in the example), and is never more optimistic than that for a hit at 1.
"""

from __future__ import annotations

import numpy as np

HIT_CUTOFFS = (1, 5, 10, 20)
NDCG_CUTOFFS = (5, 10)
METRICS = (*(f"hr@{k}" for k in HIT_CUTOFFS), *(f"ndcg@{k}" for k in NDCG_CUTOFFS), "mrr")


def expected_ranks(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank of each target among all places, ties at their expectation.

    Args:
        scores: (n, num_pois), higher is better; -inf marks a place that is ruled out.
        targets: (n,) column of the target.

    Returns:
        (n,) float64, 1 is best.

    Raises:
        ValueError: a score is NaN, which would compare as a better rank than it is.
    """
    if np.isnan(scores).any():
        rows = np.flatnonzero(np.isnan(scores).any(axis=1))
        raise ValueError(
            f"{len(rows)} of {len(scores)} instances have NaN scores, expected numbers or -inf: the model's weights or "
            "activations have overflowed; evaluate an earlier checkpoint, or in fp32"
        )
    target_score = np.take_along_axis(scores, targets[:, None], axis=1)
    greater = (scores > target_score).sum(axis=1)
    equal = (scores == target_score).sum(axis=1)
    return greater + (equal + 1) / 2


def new_place_ranks(
    scores: np.ndarray, targets: np.ndarray, ranks: np.ndarray, visited: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Rank of each target in a list of new places only: the places where the user has been are left out.

    Args:
        scores, targets: as for `expected_ranks`, whose result is `ranks`.
        visited: rows and columns of `scores` where the user has been before, each pair once.

    Returns:
        (n,) float64; NaN where the user has been at the target.
    """
    row, column = visited
    seen, target = scores[row, column], scores[row, targets[row]]
    better = np.bincount(row[seen > target], minlength=len(scores))
    equal = np.bincount(row[seen == target], minlength=len(scores))
    new_ranks = ranks - better - equal / 2
    new_ranks[row[column == targets[row]]] = np.nan
    return new_ranks


def top_places(scores: np.ndarray, k: int) -> np.ndarray:
    """(n, k) int32 columns of the highest scores of each row, best first; ties in the order of the columns."""
    edge = np.partition(scores, -k, axis=1)[:, -k, None]
    row, column = np.nonzero(scores >= edge)
    at_edge = scores[row, column] == edge[row, 0]
    # Of the places that tie at the edge, as many as there is room for after those above it.
    room = k - np.bincount(row[~at_edge], minlength=len(scores))
    so_far = np.concatenate([[0], np.cumsum(at_edge)])
    number = so_far[1:] - so_far[np.searchsorted(row, np.arange(len(scores)))][row]
    columns = column[~at_edge | (number <= room[row])].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1).astype(np.int32)


def contributions(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """What each target adds to each of `METRICS`: (n,) float64 arrays, whose mean is the metric."""
    gain, reciprocal = 1 / np.log2(1 + ranks), 1 / ranks
    values = {f"hr@{k}": (ranks <= k).astype(np.float64) for k in HIT_CUTOFFS}
    values |= {f"ndcg@{k}": np.where(ranks <= k, gain, 0.0) for k in NDCG_CUTOFFS}
    return values | {"mrr": reciprocal}


def summarise(ranks: np.ndarray) -> dict[str, float | None]:
    """Means of all `METRICS` over ranks (n,); None for each when there is no rank."""
    if len(ranks) == 0:
        return dict.fromkeys(METRICS)
    return {name: float(values.mean()) for name, values in contributions(ranks).items()}
