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


def summarise(ranks: np.ndarray) -> dict[str, float | None]:
    """Means of all `METRICS` over ranks (n,); None for each when there is no rank."""
    if len(ranks) == 0:
        return dict.fromkeys(METRICS)
    summary: dict[str, float | None] = {f"hr@{k}": float((ranks <= k).mean()) for k in HIT_CUTOFFS}
    gain = 1 / np.log2(1 + ranks)
    summary |= {f"ndcg@{k}": float(np.where(ranks <= k, gain, 0.0).mean()) for k in NDCG_CUTOFFS}
    summary["mrr"] = float((1 / ranks).mean())
    return summary
