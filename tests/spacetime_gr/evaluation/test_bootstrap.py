from itertools import product

import numpy as np
import pytest

from spacetime_gr.evaluation import bootstrap
from spacetime_gr.evaluation.bootstrap import (
    Resampling,
    bootstrap_ratios,
    percentile_intervals,
    sign_flip_p_values,
    user_sums,
)

ONE_PART = np.zeros(1, np.int64)


def test_user_sums_keep_users_without_targets() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert user_sums(values, np.array([2, 0, 2]), 4).tolist() == [[3, 4], [0, 0], [6, 8], [0, 0]]
    assert user_sums(np.empty((0, 2)), np.empty(0, np.int64), 2).tolist() == [[0, 0], [0, 0]]


def test_targets_of_a_user_stay_together() -> None:
    """Two users with means 0 and 1: a resample has one of three means, weighted by the targets of the users drawn."""
    draws = bootstrap_ratios(np.array([[0.0], [1.0]]), np.array([[3.0], [1.0]]), ONE_PART, Resampling(resamples=4000))
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0.0, 0.25, 1.0]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    rng = np.random.default_rng(3)
    hits = (rng.random(800) < 0.3).astype(float)
    draws = bootstrap_ratios(hits[:, None], np.ones((800, 1)), ONE_PART, Resampling(resamples=4000))
    low, high = percentile_intervals(draws, 0.95)[0]
    half = 1.96 * np.sqrt(hits.mean() * (1 - hits.mean()) / 800)
    assert (low, high) == pytest.approx((hits.mean() - half, hits.mean() + half), abs=0.004)


def test_blocks_of_resamples_give_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sums, counts = rng.random((20, 3)), rng.integers(1, 5, (20, 2)).astype(float)
    part = np.array([0, 1, 1])
    whole = bootstrap_ratios(sums, counts, part, Resampling(resamples=50))
    monkeypatch.setattr(bootstrap, "_WEIGHTS_PER_BLOCK", 140)
    assert bootstrap_ratios(sums, counts, part, Resampling(resamples=50)) == pytest.approx(whole)
    assert not np.allclose(bootstrap_ratios(sums, counts, part, Resampling(resamples=50, seed=1)), whole)


def test_no_target_has_no_interval() -> None:
    draws = bootstrap_ratios(np.zeros((3, 1)), np.zeros((3, 1)), ONE_PART, Resampling(resamples=10))
    assert np.isnan(percentile_intervals(draws, 0.95)).all()


def test_the_p_value_is_that_of_all_sign_flips() -> None:
    differences = np.array([3.0, 1.0, 2.0, -1.0, 2.0, 1.0])
    flips = np.array(list(product([-1, 1], repeat=6)))
    exact = (np.abs(flips @ differences) >= abs(differences.sum())).mean()
    assert sign_flip_p_values(differences[:, None], Resampling(resamples=20_000))[0] == pytest.approx(exact, abs=0.01)


def test_no_difference_has_a_p_value_of_one() -> None:
    assert sign_flip_p_values(np.zeros((5, 1)), Resampling(resamples=100)).tolist() == [1.0]
