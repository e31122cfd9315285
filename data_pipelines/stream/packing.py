"""Windows, packing, and where each action stands in the rows.

A sequence longer than a row is cut into windows; a window begins with `overlap` actions of the one before it, as
context that is not supervised again. Windows are packed into rows best fit decreasing. Lengths are counted in actions.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass

import numpy as np

IGNORE_LABEL = -100


@dataclass(frozen=True)
class Windows:
    """Windows over flat actions: int64 arrays (num_windows,). The first `context` actions are not supervised."""

    start: np.ndarray
    length: np.ndarray
    context: np.ndarray

    def __len__(self) -> int:
        return len(self.start)

    def take(self, index: np.ndarray) -> "Windows":
        """The windows at `index` (integers or booleans), in that order."""
        return Windows(self.start[index], self.length[index], self.context[index])


def cut_windows(offsets: np.ndarray, capacity: int, overlap: int) -> Windows:
    """Cuts sequences into windows of at most `capacity` actions, the later ones with `overlap` actions of context.

    offsets: (num_sequences + 1,) int64. Every action lies behind the context of exactly one window.
    """
    assert 0 <= overlap < capacity
    stride = capacity - overlap
    lengths = np.diff(offsets)
    counts = np.where(lengths > 0, 1 + np.maximum(0, -((capacity - lengths) // stride)), 0)
    sequence = np.repeat(np.arange(len(lengths)), counts)
    number = _count_within(counts)
    start = offsets[:-1][sequence] + number * stride
    length = np.minimum(capacity, offsets[1:][sequence] - start)
    return Windows(start, length, np.where(number > 0, overlap, 0))


def supervised_windows(windows: Windows, supervised: np.ndarray) -> np.ndarray:
    """Which windows supervise anything: bool (num_windows,). supervised: bool (num_actions,)."""
    before = np.concatenate([[0], np.cumsum(supervised)])
    return before[windows.start + windows.length] > before[windows.start + windows.context]


def pack_best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Best fit decreasing: the longest window first, each into the fullest row that still holds it.

    lengths: (num_windows,) of 1..capacity; equal lengths keep their order. Returns the row of each window, its first
    place in that row (both int64 (num_windows,)) and the number of rows.
    """
    order = np.argsort(-lengths, kind="stable")
    rows: list[int] = []
    places: list[int] = []
    open_rows: dict[int, list[int]] = {}  # free places -> rows that have so many
    free_sizes: list[int] = []  # the keys of open_rows, rising
    num_rows = 0
    for length in lengths[order].tolist():
        i = bisect_left(free_sizes, length)
        if i == len(free_sizes):
            row, free = num_rows, capacity
            num_rows += 1
        else:
            free = free_sizes[i]
            row = open_rows[free].pop()
            if not open_rows[free]:
                del open_rows[free], free_sizes[i]
        rows.append(row)
        places.append(capacity - free)
        if left := free - length:
            if left not in open_rows:
                open_rows[left] = []
                insort(free_sizes, left)
            open_rows[left].append(row)
    row_of = np.empty(len(lengths), dtype=np.int64)
    place_of = np.empty(len(lengths), dtype=np.int64)
    row_of[order] = rows
    place_of[order] = places
    return row_of, place_of, num_rows


@dataclass(frozen=True)
class Layout:
    """Which action stands where; all arrays (num_rows, capacity), their first `used[row]` places hold actions.

    source: int64, number of the action; within: int64, its number in its window; context: bool, not supervised.
    used: int64 (num_rows,).
    """

    source: np.ndarray
    within: np.ndarray
    context: np.ndarray
    used: np.ndarray


def lay_out(windows: Windows, row_of: np.ndarray, place_of: np.ndarray, num_rows: int, capacity: int) -> Layout:
    """Puts windows at their places: `row_of` and `place_of` as `pack_best_fit` gives them."""
    within = _count_within(windows.length)
    source = np.repeat(windows.start, windows.length) + within
    target = np.repeat(row_of * capacity + place_of, windows.length) + within
    parts = {
        "source": source,
        "within": within,
        "context": within < np.repeat(windows.context, windows.length),
    }
    placed = {}
    for name, values in parts.items():
        placed[name] = np.zeros(num_rows * capacity, dtype=values.dtype)
        placed[name][target] = values
    used = np.bincount(row_of, weights=windows.length, minlength=num_rows).astype(np.int64)
    return Layout(**{name: values.reshape(num_rows, capacity) for name, values in placed.items()}, used=used)


def _count_within(counts: np.ndarray) -> np.ndarray:
    """0..counts[0]-1, 0..counts[1]-1, ... as one int64 array (sum of counts,)."""
    ends = np.cumsum(counts)
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(ends - counts, counts)
