"""Home and work by hand."""

import numpy as np

from benchmarks.interest_targets import anchors


def test_anchors_are_the_two_most_visited_places_with_three_visits() -> None:
    visits = {(0, 4): 5, (0, 2): 3, (0, 1): 3, (1, 0): 2, (1, 3): 9, (2, 4): 3}
    user, poi = (np.repeat([key[at] for key in visits], list(visits.values())) for at in (0, 1))
    shuffled = np.random.default_rng(0).permutation(len(user))
    assert anchors(user[shuffled], poi[shuffled], 5).tolist() == [0 * 5 + 1, 0 * 5 + 4, 1 * 5 + 3, 2 * 5 + 4]
