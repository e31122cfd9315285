from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.stream.modes import single_mode_offsets


@given(st.lists(st.lists(st.integers(0, 2), max_size=12), max_size=6))
def test_runs_have_one_mode_and_are_as_long_as_can_be(sequences: list[list[int]]) -> None:
    mode = np.array([value for sequence in sequences for value in sequence], dtype=np.int8)
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(np.int64)
    runs = single_mode_offsets(mode, offsets)
    assert set(offsets) <= set(runs)
    assert (np.diff(runs) > 0).all()
    assert all(len(set(mode[a:b])) == 1 for a, b in pairwise(runs))
    assert all(mode[cut - 1] != mode[cut] for cut in set(runs) - set(offsets))
