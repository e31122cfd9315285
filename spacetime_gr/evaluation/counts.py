"""Events before a moment: the one mechanism by which counts and ages can see the past and nothing else."""

from __future__ import annotations

import numpy as np

NO_TIME = np.iinfo(np.int64).min


class EventsByKey:
    """Events filed by a key and, inside a key, by time: those strictly before a moment are one slice.

    Args:
        key: (m,) int64, not negative.
        time: (m,) int64 seconds.
        value: (m,) int64 what `values` gives back; None: only counts are asked for.

    Raises:
        ValueError: the keys are too large to be joined with the times in 63 bits.
    """

    def __init__(self, key: np.ndarray, time: np.ndarray, value: np.ndarray | None = None) -> None:
        self._earliest = int(time.min(initial=np.iinfo(np.int64).max)) if len(time) else 0
        self._span = int(time.max()) - self._earliest + 2 if len(time) else 2
        if (int(key.max(initial=0)) + 1) * self._span >= 2**63:
            raise ValueError(
                f"{int(key.max()) + 1:,} keys over {self._span:,} seconds do not fit 63 bits; number the keys "
                "without gaps, or take fewer of them: the cascade's counts are meant for some hundred thousand places"
            )
        packed = key * self._span + (time - self._earliest)
        order = np.argsort(packed, kind="stable")
        self._packed = packed[order]
        self._value = None if value is None else value[order]

    def count(self, key: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Events of each key strictly before a moment, int64; the two broadcast. A negative key has none."""
        first, end = self._bounds(key, before)
        return end - first

    def latest(self, key: np.ndarray, before: np.ndarray) -> np.ndarray:
        """Time of the last event of each key strictly before a moment, int64, `NO_TIME` without one; as `count`."""
        first, end = np.broadcast_arrays(*self._bounds(key, before))
        if not len(self._packed):
            return np.full(end.shape, NO_TIME)
        return np.where(end > first, self._packed[end - 1] % self._span + self._earliest, NO_TIME)

    def values(self, key: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of the events of each key (n,) strictly before a moment (n,), concatenated, and their offsets."""
        assert self._value is not None
        positions, offsets = expand_ranges(*self._bounds(key, before))
        return self._value[positions], offsets

    def _bounds(self, key: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = key * self._span
        elapsed = np.clip(before - self._earliest, 0, self._span - 1)
        return np.searchsorted(self._packed, start), np.searchsorted(self._packed, start + elapsed)


def expand_ranges(firsts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate the ranges firsts[i]..ends[i]-1: the integers, and the (n + 1,) offsets of the ranges."""
    lengths = ends - firsts
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(offsets[-1]) + np.repeat(firsts - offsets[:-1], lengths), offsets


def counts_before(value: np.ndarray, time: np.ndarray, before: np.ndarray, num_values: int) -> np.ndarray:
    """How often each value occurs in the events (m,) strictly before each moment (n,): (n, num_values) int64."""
    order = np.argsort(before, kind="stable")
    row = np.searchsorted(before[order], time, side="right")
    seen = row < len(before)
    cell = row[seen] * num_values + value[seen]
    table = np.bincount(cell, minlength=len(before) * num_values).reshape(-1, num_values)
    counts = np.empty_like(table)
    counts[order] = np.cumsum(table, axis=0)
    return counts
