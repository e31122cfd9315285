import numpy as np
import pytest

from spacetime_gr.evaluation.counts import NO_TIME, EventsByKey, counts_before, expand_ranges


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_strictly_earlier_events(seed: int) -> None:
    rng = np.random.default_rng(seed)
    key, time, value = rng.integers(0, 5, 60), rng.integers(100, 120, 60), rng.integers(0, 4, 60)
    events = EventsByKey(key, time, value)
    ask, before = rng.integers(-1, 6, 40), rng.integers(95, 125, 40)
    lists, offsets = events.values(ask, before)
    latest = events.latest(ask, before)
    table = counts_before(value, time, before, 4)
    for i in range(40):
        seen = time < before[i]
        assert events.count(ask, before)[i] == (seen & (key == ask[i])).sum()
        assert latest[i] == max(time[seen & (key == ask[i])], default=NO_TIME)
        assert sorted(lists[offsets[i] : offsets[i + 1]]) == sorted(value[seen & (key == ask[i])])
        np.testing.assert_array_equal(table[i], np.bincount(value[seen], minlength=4))


def test_no_events() -> None:
    none = np.zeros(0, np.int64)
    events = EventsByKey(none, none)
    assert events.count(np.array([0, 3]), np.array([5, 5])).tolist() == [0, 0]
    assert events.latest(np.array([0, 3]), np.array([5, 5])).tolist() == [NO_TIME] * 2
    assert counts_before(none, none, np.array([5]), 3).tolist() == [[0, 0, 0]]


def test_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 63 bits"):
        EventsByKey(np.array([2**50, 0]), np.array([2**20, 0]))


def test_expand_ranges() -> None:
    values, offsets = expand_ranges(np.array([3, 5, 9]), np.array([5, 5, 12]))
    assert values.tolist() == [3, 4, 9, 10, 11]
    assert offsets.tolist() == [0, 2, 2, 5]
