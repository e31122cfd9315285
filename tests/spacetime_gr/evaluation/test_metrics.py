import numpy as np
import pytest

from spacetime_gr.evaluation.metrics import METRICS, expected_ranks, new_place_ranks, summarise, top_places


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


def test_ranks_in_a_list_of_new_places_leave_the_others_out() -> None:
    scores = np.array([[3.0, 2.0, 2.0, 1.0, 2.0], [5.0, 4.0, 3.0, 2.0, 1.0]])
    targets = np.array([1, 0])
    visited = np.array([0, 0, 1]), np.array([0, 4, 0])  # the best and one of the ties; the second target itself
    ranks = new_place_ranks(scores, targets, expected_ranks(scores, targets), visited)
    assert ranks[0] == expected_ranks(scores[:1, [2, 1, 3]], np.array([1]))[0] == 1.5
    assert np.isnan(ranks[1])


def test_new_place_ranks_equal_those_of_the_places_left() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (50, 9)).astype(float)
    targets, seen = rng.integers(0, 9, 50), rng.random((50, 9)) < 0.4
    ranks = new_place_ranks(scores, targets, expected_ranks(scores, targets), np.nonzero(seen))
    for row, target in enumerate(targets):
        left = np.flatnonzero(~seen[row])
        if seen[row, target]:
            assert np.isnan(ranks[row])
        else:
            place = np.flatnonzero(left == target)
            assert ranks[row] == expected_ranks(scores[row : row + 1, left], place)[0]


def test_top_places_take_ties_in_the_order_of_the_columns() -> None:
    scores = np.array([[1.0, 3.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0, 0.0, 7.0], [-np.inf] * 5])
    assert top_places(scores, 3).tolist() == [[1, 2, 3], [4, 0, 1], [0, 1, 2]]
