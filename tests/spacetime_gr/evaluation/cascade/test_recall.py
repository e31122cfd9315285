import numpy as np

from spacetime_gr.evaluation.cascade.recall import top_positive


def test_a_channel_names_its_best_and_no_more() -> None:
    scores = np.array([[3.0, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, -1.0]])
    assert top_positive(scores, 2).tolist() == [
        [True, False, False, True],
        [False, False, True, False],
        [False, False, False, False],
    ]
    assert top_positive(scores, 9).tolist() == (scores > 0).tolist()


def test_ties_at_the_edge_are_cut_to_the_limit() -> None:
    scores = np.array([[1.0, 2.0, 1.0, 1.0]])
    assert top_positive(scores, 2).tolist() == [[True, True, False, False]]
