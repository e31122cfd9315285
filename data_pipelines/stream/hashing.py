"""Randomness as a pure function of named integers.

Every random choice of the stream (order of units, order of rows, curriculum, corpus, blind actions, ...) is a hash of
(seed, purpose, where). So it needs no generator state, is the same on every rank, and does not change when the
random generators of a library do.
"""

from collections.abc import Sequence

import numpy as np

# What a hash is used for: two uses with the same numbers must not be correlated.
UNIT_ORDER, ROW_ORDER, USER_ORDER, VIEW_CHOICE, BLIND, RICHNESS, CORPUS, CORPUS_CHOICE = range(1, 9)

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_MASK_64 = (1 << 64) - 1


def _mix(state: np.ndarray) -> np.ndarray:
    """One step of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) on an array of uint64; wraps around silently."""
    state = state + _INCREMENT
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


def hash_integers(keys: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Hashes each of `values` (integers, shape (n,)) under the given keys; returns uint64 (n,)."""
    state = np.zeros(1, dtype=np.uint64)
    for key in keys:
        state = _mix(state ^ np.uint64(key & _MASK_64))
    return _mix(_mix(state ^ values.astype(np.uint64)))


def uniform(keys: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64, one for each of `values` under the given keys."""
    return (hash_integers(keys, values) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(keys: Sequence[int], size: int) -> np.ndarray:
    """A permutation of 0..size-1 (int64) that depends on the keys only."""
    return np.argsort(hash_integers(keys, np.arange(size)), kind="stable")
