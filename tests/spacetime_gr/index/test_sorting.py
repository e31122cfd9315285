"""Sorting by packed keys gives what `np.lexsort` gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spacetime_gr.index import sorting
from spacetime_gr.index.sorting import chunks, number_bits, ones, sort_by_prefix, stable_argsort, tied


@given(data=st.data(), size=st.integers(0, 300), widths=st.lists(st.integers(1, 64), max_size=4))
@settings(max_examples=60, deadline=None)
def test_stable_argsort_is_lexsort(data: st.DataObject, size: int, widths: list[int]) -> None:
    keys = []
    for bits in widths:
        few = st.sampled_from([0, 1, (1 << bits) - 1])  # many ties
        values = hnp.arrays(np.uint64, size, elements=st.one_of(few, st.integers(0, (1 << bits) - 1)))
        keys.append((data.draw(values), bits))
    before = [values.copy() for values, _ in keys]
    order = stable_argsort(keys, size)
    expected = np.lexsort([values for values, _ in keys]) if keys else np.arange(size)
    np.testing.assert_array_equal(order, expected)
    assert order.dtype == np.int64
    for (values, _), old in zip(keys, before, strict=True):
        np.testing.assert_array_equal(values, old)


@pytest.mark.parametrize("size", [0, 1, 2, 3])
@pytest.mark.parametrize("bits", [1, 52, 64])
def test_small_arrays(size: int, bits: int) -> None:
    values = np.arange(size, dtype=np.uint64)[::-1].copy() & ones(bits)
    np.testing.assert_array_equal(stable_argsort([(values, bits)], size), np.argsort(values, kind="stable"))


def test_keys_may_come_from_a_generator_and_span_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting.chunks, "__defaults__", (7,))
    rng = np.random.default_rng(0)
    low, high = (
        rng.integers(0, 3, 100, dtype=np.uint64),
        rng.integers(0, 1 << 63, 100, dtype=np.uint64) >> np.uint64(61),
    )
    order = stable_argsort((pair for pair in [(low, 2), (high, 64)]), 100)
    np.testing.assert_array_equal(order, np.lexsort([low, high]))


@given(values=hnp.arrays(np.uint64, st.integers(0, 200), elements=st.integers(0, 15)))
def test_sort_by_prefix_gives_order_and_values(values: np.ndarray) -> None:
    """In the memory that it is given."""
    expected, expected_values = np.argsort(values, kind="stable"), np.sort(values)
    order, ordered = sort_by_prefix(values, 4)
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(ordered, expected_values)
    assert np.shares_memory(order, values) or not len(values)


@given(values=st.lists(st.integers(0, 12), max_size=60), more_than=st.integers(1, 70))
def test_tied_finds_the_runs(values: list[int], more_than: int) -> None:
    values.sort()
    long = [value for value in sorted(set(values)) if values.count(value) > more_than]
    positions, runs = tied(np.array(values, np.uint64), more_than)
    assert positions.tolist() == [place for place, value in enumerate(values) if value in long]
    assert runs.tolist() == [long.index(value) for value in values if value in long]


@given(st.integers(0, 1 << 40))
def test_number_bits_hold_the_largest_number(size: int) -> None:
    bits = number_bits(size)
    assert bits >= 1
    assert size <= 1 << bits
    assert bits == 1 or size > 1 << (bits - 1)


@pytest.mark.parametrize("size", [-1, 0, 1, 65535, 65536, 65537, 200_000])
def test_chunks_cover_the_range(size: int) -> None:
    covered = [number for part in chunks(size) for number in (part.start, part.stop)]
    assert covered == sorted(covered)
    assert sum(part.stop - part.start for part in chunks(size)) == max(size, 0)


def test_ones_fill_the_lowest_bits() -> None:
    assert [int(ones(bits)) for bits in (0, 1, 8, 64)] == [0, 1, 255, (1 << 64) - 1]
