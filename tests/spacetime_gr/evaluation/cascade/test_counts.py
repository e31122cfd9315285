import numpy as np
import pytest

from spacetime_gr.evaluation.cascade.counts import EventsByKey, counts_before


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_strictly_earlier_events(seed: int) -> None:
    rng = np.random.default_rng(seed)
    key, time, value = rng.integers(0, 5, 60), rng.integers(100, 120, 60), rng.integers(0, 4, 60)
    events = EventsByKey(key, time, value)
    ask, before = rng.integers(-1, 6, 40), rng.integers(95, 125, 40)
    lists, offsets = events.values(ask, before)
    table = counts_before(value, time, before, 4)
    for i in range(40):
        seen = time < before[i]
        assert events.count(ask, before)[i] == (seen & (key == ask[i])).sum()
        assert sorted(lists[offsets[i] : offsets[i + 1]]) == sorted(value[seen & (key == ask[i])])
        np.testing.assert_array_equal(table[i], np.bincount(value[seen], minlength=4))


def test_no_events() -> None:
    none = np.zeros(0, np.int64)
    assert EventsByKey(none, none).count(np.array([0, 3]), np.array([5, 5])).tolist() == [0, 0]
    assert counts_before(none, none, np.array([5]), 3).tolist() == [[0, 0, 0]]


def test_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 63 bits"):
        EventsByKey(np.array([2**50, 0]), np.array([2**20, 0]))
