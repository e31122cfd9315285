import numpy as np
import pytest

from spacetime_gr.evaluation.metrics import METRICS, expected_ranks, summarise


def test_ranks_with_ties_are_expectations() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 5.0, -np.inf, -np.inf], [4.0, 4.0, 1.0, 0.0]])
    assert expected_ranks(scores, np.array([1, 0, 3, 1])).tolist() == [2.5, 2.5, 3.5, 1.5]


def test_half_integer_ranks_are_read_as_ranks() -> None:
    summary = summarise(np.array([1.0, 1.5, 5.5, 10.0, 20.5]))
    assert summary["hr@1"] == 1 / 5
    assert summary["hr@5"] == 2 / 5
    assert summary["hr@10"] == 4 / 5
    assert summary["hr@20"] == 4 / 5
    assert summary["mrr"] == pytest.approx((1 + 2 / 3 + 2 / 11 + 1 / 10 + 2 / 41) / 5)
    gains = [1.0, 1 / np.log2(2.5), 1 / np.log2(6.5), 1 / np.log2(11)]
    assert summary["ndcg@5"] == pytest.approx(sum(gains[:2]) / 5)
    assert summary["ndcg@10"] == pytest.approx(sum(gains) / 5)


def test_no_target_gives_no_figure() -> None:
    assert summarise(np.empty(0)) == dict.fromkeys(METRICS)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 instances have NaN"):
        expected_ranks(np.array([[1.0, np.nan], [1.0, 2.0]]), np.array([0, 0]))
