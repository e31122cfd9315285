import numpy as np

from data_pipelines.stream.hashing import _mix, hash_integers, permutation, uniform


def test_values_are_fixed_for_ever() -> None:
    """A saved stream state means the same rows only while these numbers stay."""
    assert _mix(np.zeros(1, dtype=np.uint64))[0] == 0xE220A8397B1DCDAF  # first output of SplitMix64 from seed 0
    assert hash_integers((0, 1), np.arange(3)).tolist() == [
        15114123258453576503,
        18061167518983823241,
        9177511572909541326,
    ]
    assert permutation((5, 2), 8).tolist() == [3, 7, 5, 2, 4, 0, 6, 1]


def test_permutations_are_permutations_and_differ_by_key() -> None:
    orders = [tuple(permutation((seed, epoch), 50)) for seed in range(5) for epoch in range(5)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len(set(orders)) == 25
    assert len(permutation((1,), 0)) == 0


def test_uniform_fills_the_unit_interval_evenly() -> None:
    draws = uniform((3, 4, -1), np.arange(20_000))
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert np.abs(np.histogram(draws, bins=20, range=(0, 1))[0] / 1000 - 1).max() < 0.15
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.03
