"""Windows, packing and expansion to rows.

A sequence longer than a row is cut into windows; a window begins with `overlap` actions of the one before it, as
context that is not supervised again. Windows are packed into rows best fit decreasing, and rows are written as
(num_rows, row_length) arrays. Lengths here are counted in actions until the last step.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
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


def expand_rows(
    tokens: Mapping[str, np.ndarray],
    pad_values: Mapping[str, int],
    windows: Windows,
    row_of: np.ndarray,
    place_of: np.ndarray,
    num_rows: int,
    capacity: int,
) -> dict[str, np.ndarray]:
    """Writes windows to their rows.

    tokens: field -> (num_actions, tokens_per_action). Returns field -> (num_rows, capacity * tokens_per_action), of the
    same dtypes, padded by `pad_values`, plus `position_ids` (int64): 0, 1, 2, ... in each window, 0 on padding.
    """
    within = _count_within(windows.length)
    source = np.repeat(windows.start, windows.length) + within
    target = np.repeat(row_of * capacity + place_of, windows.length) + within
    width = tokens["input_ids"].shape[1]
    rows: dict[str, np.ndarray] = {}
    for field, values in tokens.items():
        padded = np.full((num_rows * capacity, width), pad_values[field], dtype=values.dtype)
        padded[target] = values[source]
        rows[field] = padded
    rows["labels"][target[within < np.repeat(windows.context, windows.length)]] = IGNORE_LABEL
    positions = np.zeros((num_rows * capacity, width), dtype=np.int64)
    positions[target] = within[:, None] * width + np.arange(width)
    rows["position_ids"] = positions
    return {field: values.reshape(num_rows, capacity * width) for field, values in rows.items()}


def _count_within(counts: np.ndarray) -> np.ndarray:
    """0..counts[0]-1, 0..counts[1]-1, ... as one int64 array (sum of counts,)."""
    ends = np.cumsum(counts)
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(ends - counts, counts)
