"""Stable sorting of long keys by sorts of plain integers.

`np.sort` on uint64 is vectorised and about ten times faster than `np.argsort`. So a key is cut into pieces that fit
beside the element's number in 64 bits, and each sort moves both. Where the first bits of a key tell nearly all elements
apart, `sort_by_prefix` sorts by these and `tied` finds the few that need more.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

# Rows worked on at a time where a formula has many steps: their temporaries stay in the cache.
CHUNK = 1 << 14


def chunks(size: int, length: int = CHUNK) -> Iterable[slice]:
    """Slices of `length` that cover `range(size)`."""
    return (slice(start, min(start + length, size)) for start in range(0, size, length))


def number_bits(size: int) -> int:
    """Bits that the numbers 0 .. size - 1 take, at least one."""
    return max(1, int(size - 1).bit_length())


def ones(bits: int) -> np.uint64:
    """A mask of the lowest `bits` bits."""
    return np.uint64((1 << bits) - 1)


def sort_by_prefix(values: NDArray[np.uint64], bits: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Stable argsort of values below 2^bits, and the sorted values; both shape (n,).

    Args:
        values: shape (n,); used up (its memory holds the order).
        bits: with the bits of n at most 64.
    """
    row_bits = _pack_and_sort(values, bits)
    ordered = values >> np.uint64(row_bits)
    values &= ones(row_bits)
    return values.view(np.int64), ordered


def argsort(values: NDArray[np.uint64], bits: int) -> NDArray[np.int64]:
    """As `sort_by_prefix`, the order only."""
    values &= ones(_pack_and_sort(values, bits))
    return values.view(np.int64)


def _pack_and_sort(values: NDArray[np.uint64], bits: int) -> int:
    """Put each value's number below it and sort, in place; returns the bits that the numbers take."""
    row_bits = number_bits(len(values))
    assert bits + row_bits <= 64
    for part in chunks(len(values)):
        values[part] <<= np.uint64(row_bits)
        values[part] |= np.arange(part.start, part.stop, dtype=np.uint64)
    values.sort()
    return row_bits


def tied(ordered: NDArray[np.uint64], more_than: int = 1) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Positions in sorted values that lie in runs of more than `more_than` equal ones, and the number of their run."""
    hits = [np.empty(0, np.uint64)]
    for part in chunks(len(ordered) - more_than):
        here = ordered[part]
        hits.append(here[here == ordered[part.start + more_than : part.stop + more_than]])
    values = np.unique(np.concatenate(hits))
    starts, stops = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    lengths = stops - starts
    runs = np.repeat(np.arange(len(values), dtype=np.uint64), lengths)
    inside = np.arange(len(runs)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.repeat(starts, lengths) + inside, runs


def stable_argsort(keys: Iterable[tuple[NDArray[np.uint64], int]], size: int) -> NDArray[np.int64]:
    """Stable argsort by several keys, the least significant first, as `np.lexsort` takes them (LSD radix sort).

    Args:
        keys: (values, bits) pairs: uint64 values below 2^bits, shape (size,); read one at a time, left as they are.
        size: number of elements.

    Returns:
        int64 positions, shape (size,).
    """
    room = 64 - number_bits(size)
    order: NDArray[np.int64] | None = None
    for values, bits in keys:
        for shift in range(0, bits, room):
            taken = min(room, bits - shift)
            piece = np.empty(size, np.uint64)
            for part in chunks(size):
                source = values[part] if order is None else values[order[part]]
                piece[part] = (source >> np.uint64(shift)) & ones(taken)
            positions = argsort(piece, taken)
            order = positions if order is None else order[positions]
    return np.arange(size) if order is None else order


def sort_runs(
    order: NDArray[np.int64],
    positions: NDArray[np.int64],
    runs: NDArray[np.uint64],
    keys: list[tuple[NDArray[np.uint64], int]],
) -> None:
    """Put the elements of each run that `tied` found in the order of more keys, in place.

    Args:
        order: of all elements, as `sort_by_prefix` gives it.
        positions, runs: from `tied`.
        keys: as for `stable_argsort`, of the elements at `positions`.
    """
    if len(positions):
        by_run = (runs, number_bits(int(runs[-1]) + 1))
        order[positions] = order[positions[stable_argsort([*keys, by_run], len(positions))]]
