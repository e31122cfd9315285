from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.packing import Windows, cut_windows, lay_out, pack_best_fit, supervised_windows
from data_pipelines.stream.rows import UnitRows, as_rows

LENGTHS = st.lists(st.integers(0, 60), max_size=12)


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def flat(starts: np.ndarray, stops: np.ndarray) -> list[int]:
    return [i for a, b in zip(starts, stops, strict=True) for i in range(a, b)]


@settings(max_examples=80, deadline=None)
@given(LENGTHS, st.integers(1, 10), st.data())
def test_windows_supervise_every_action_once_and_never_cross_sequences(
    lengths: list[int], capacity: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, capacity - 1))
    offsets = offsets_of(lengths)
    windows = cut_windows(offsets, capacity, overlap)
    assert sorted(flat(windows.start + windows.context, windows.start + windows.length)) == list(range(offsets[-1]))
    assert ((windows.length >= 1) & (windows.length <= capacity)).all()
    assert ((windows.context == 0) | (windows.context == overlap)).all()
    first = np.searchsorted(offsets, windows.start, side="right")
    last = np.searchsorted(offsets, windows.start + windows.length - 1, side="right")
    assert np.array_equal(first, last)


def test_windows_that_supervise_nothing_are_found() -> None:
    windows = cut_windows(np.array([0, 6]), capacity=4, overlap=2)
    assert supervised_windows(windows, np.array([1, 0, 0, 1, 0, 0], dtype=bool)).tolist() == [True, False]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=60))
def test_packing_never_overlaps_never_loses_and_wastes_little(lengths: list[int]) -> None:
    capacity = 9
    row_of, place_of, num_rows = pack_best_fit(np.array(lengths, dtype=np.int64), capacity)
    taken = [(row, place + i) for row, place, n in zip(row_of, place_of, lengths, strict=True) for i in range(n)]
    assert len(set(taken)) == len(taken) == sum(lengths)
    assert all(0 <= place < capacity for _, place in taken)
    assert set(row_of) == set(range(num_rows))
    filled = np.bincount(row_of, weights=lengths, minlength=num_rows)
    assert (filled <= capacity / 2).sum() <= 1  # two such rows would have been one


def test_best_fit_fills_the_fullest_row_first() -> None:
    row_of, place_of, num_rows = pack_best_fit(np.array([2, 6, 5, 4, 3]), capacity=10)
    assert num_rows == 2
    assert row_of.tolist() == [1, 0, 1, 0, 1]
    assert place_of.tolist() == [8, 0, 0, 6, 5]


def test_expansion_pads_restarts_positions_and_masks_context() -> None:
    ids = np.arange(10, 34).reshape(6, 4)
    tokens = {"input_ids": ids, "labels": ids.copy()}
    windows = Windows(start=np.array([0, 2, 5]), length=np.array([3, 2, 1]), context=np.array([0, 1, 0]))
    layout = lay_out(windows, np.array([1, 0, 1]), np.array([0, 0, 3]), 2, capacity=4)
    unit = UnitRows(tokens, layout, {"input_ids": 0, "labels": -100}, Counter())
    batch = unit.new_batch(2)
    for row in range(2):
        unit.write(row, batch, row)
    rows = as_rows(batch)
    assert rows["input_ids"].tolist() == [
        [18, 19, 20, 21, 22, 23, 24, 25, 0, 0, 0, 0, 0, 0, 0, 0],
        [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 30, 31, 32, 33],
    ]
    assert rows["labels"][0].tolist() == [-100] * 4 + [22, 23, 24, 25] + [-100] * 8
    assert rows["labels"][1].tolist() == rows["input_ids"][1].tolist()
    assert rows["position_ids"].tolist() == [[*range(8), *[0] * 8], [*range(12), *range(4)]]
    assert tokens["labels"].tolist() == ids.tolist()


def test_no_windows_make_no_rows() -> None:
    windows = cut_windows(offsets_of([0, 0]), 4, 2)
    assert pack_best_fit(windows.length, 4)[2] == 0
