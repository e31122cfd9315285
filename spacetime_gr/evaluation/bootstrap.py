"""Resampling whole users: their targets are not independent of each other, so they stay or go together.

Both procedures are one matrix product of random weights (resamples, users) with sums per user (users, quantities); the
weights are made in blocks, so memory does not grow with the number of resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_WEIGHTS_PER_BLOCK = 1 << 22


@dataclass(frozen=True)
class Resampling:
    """How often, from which seed, and what share of the resamples an interval holds."""

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise ValueError(f"the number of resamples is {self.resamples}, expected at least 1")


def user_sums(values: np.ndarray, user: np.ndarray, num_users: int) -> np.ndarray:
    """Sums over each user's targets: (n, quantities) -> (num_users, quantities)."""
    sums = np.zeros((num_users, values.shape[1]))
    order = np.argsort(user, kind="stable")
    present, first = np.unique(user[order], return_index=True)
    if len(present):
        sums[present] = np.add.reduceat(values[order], first, axis=0)
    return sums


def bootstrap_ratios(sums: np.ndarray, counts: np.ndarray, part: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Means over the targets of users drawn with replacement.

    Args:
        sums: (num_users, quantities) of what is averaged.
        counts: (num_users, parts) number of targets of each part.
        part: (quantities,) which part each quantity is averaged over.

    Returns:
        (resamples, quantities); NaN where a resample has no target.
    """
    both = np.concatenate([sums, counts], axis=1)
    results = np.concatenate([weights @ both for weights in _drawn_users(len(sums), resampling)])
    with np.errstate(invalid="ignore", divide="ignore"):
        return results[:, : sums.shape[1]] / results[:, sums.shape[1] :][:, part]


def percentile_intervals(draws: np.ndarray, level: float) -> np.ndarray:
    """Percentile interval of each column of (resamples, quantities): (quantities, 2); NaN where no draw has a value."""
    tail = (1 - level) / 2
    result = np.full((draws.shape[1], 2), np.nan)
    some = ~np.isnan(draws).all(axis=0)
    if some.any():
        result[some] = np.nanquantile(draws[:, some], [tail, 1 - tail], axis=0).T
    return result


def sign_flip_p_values(sums: np.ndarray, resampling: Resampling) -> np.ndarray:
    """Two-sided p-values of 'no difference' for paired differences: (quantities,).

    Permutation test: if two systems are alike, swapping them for all targets of a user changes nothing, so the sign of
    each user's sum of differences is random. p = (1 + number of |flipped sums| >= |observed|) / (1 + resamples).

    Args:
        sums: (num_users, quantities) of the differences.
    """
    observed = np.abs(sums.sum(axis=0))
    slack = 1e-12 * (1 + np.abs(sums).sum(axis=0))  # sums of the same numbers in another order
    extreme = np.zeros(sums.shape[1])
    rng = np.random.default_rng(resampling.seed)
    for size in _block_sizes(len(sums), resampling.resamples):
        signs = rng.integers(0, 2, (size, len(sums)), dtype=np.int8).astype(np.float64) * 2 - 1
        extreme += (np.abs(signs @ sums) >= observed - slack).sum(axis=0)
    return (1 + extreme) / (1 + resampling.resamples)


def _drawn_users(num_users: int, resampling: Resampling) -> Iterator[np.ndarray]:
    """How often each user is drawn: blocks of (some resamples, num_users) float64."""
    rng = np.random.default_rng(resampling.seed)
    for size in _block_sizes(num_users, resampling.resamples):
        drawn = rng.integers(0, num_users, (size, num_users)) + np.arange(size)[:, None] * num_users
        counts = np.bincount(drawn.ravel(), minlength=size * num_users)
        yield counts.reshape(size, num_users).astype(np.float64)


def _block_sizes(num_users: int, resamples: int) -> Iterator[int]:
    size = max(1, _WEIGHTS_PER_BLOCK // max(num_users, 1))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)
