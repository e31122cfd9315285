import numpy as np

from spacetime_gr.evaluation.cascade.ranking import CoarseRanker, Pairs
from tests.spacetime_gr.evaluation.cascade.extra import needs_extra

PAIRS = Pairs(row=np.array([0, 0, 0, 2, 2]), poi=np.array([4, 5, 6, 4, 7]), num_requests=3)
SCORES = np.array([0.5, 2.0, 0.5, -1.0, 3.0])


def test_the_best_of_each_request() -> None:
    assert PAIRS.best(SCORES, 2).tolist() == [True, True, False, True, True]
    assert PAIRS.best(SCORES, 1).tolist() == [False, True, False, False, True]


def test_ranks_of_targets_among_candidates() -> None:
    # A tie of two below one, a request without candidates, a target that is no candidate.
    assert PAIRS.target_ranks(SCORES, np.array([6, 4, 9])).tolist() == [2.5, np.inf, np.inf]
    assert PAIRS.target_ranks(SCORES, np.array([5, 4, 4])).tolist() == [1, np.inf, 2]


@needs_extra
def test_the_coarse_ranker_learns_a_direction_and_scores_with_weights_alone() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(400, 2)).astype(np.float32) * [1, 100]
    label = matrix[:, 0] - 0.001 * matrix[:, 1] > 0.5
    matrix[0, 1] = np.nan
    ranker = CoarseRanker.fit(("a", "b"), matrix, label, np.ones(400), seed=0)
    scores = ranker.score(matrix)
    assert np.isfinite(scores).all()
    assert scores[label].min() > np.median(scores[~label])
    assert ranker.weights[0] > 0 > ranker.weights[1]
