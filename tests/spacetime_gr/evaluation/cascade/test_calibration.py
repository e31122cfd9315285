"""The calibration finds the parameters by which targets were drawn."""

import numpy as np
import pytest

from spacetime_gr.evaluation.cascade.calibration import POWERS, Calibration, Rest, log_sum
from spacetime_gr.evaluation.cascade.ranking import Pairs
from tests.spacetime_gr.evaluation.cascade.extra import needs_extra

pytestmark = needs_extra
NUM_REQUESTS, NUM_POIS, NUM_CANDIDATES = 6000, 12, 8


def drawn(calibration: Calibration, seed: int) -> tuple[Pairs, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Candidates 0..7, their scores, which are new, targets, and a model's log-probabilities of all places."""
    rng = np.random.default_rng(seed)
    model = rng.normal(size=(NUM_REQUESTS, NUM_POIS)) * 2
    model -= log_sum(model)
    row, poi = np.divmod(np.arange(NUM_REQUESTS * NUM_CANDIDATES), NUM_CANDIDATES)
    scores, is_new = rng.normal(size=row.shape), rng.random(row.shape) < 0.5
    logits = calibration.power * model
    logits[row, poi] = calibration.logits(scores, is_new)
    target = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return Pairs(row, poi, NUM_REQUESTS), scores, is_new, target, model


def test_it_finds_the_parameters_by_which_targets_were_drawn() -> None:
    true = Calibration(return_scale=2.0, return_offset=0.5, new_scale=0.7, new_offset=-1.0, power=POWERS[2])
    pairs, scores, is_new, target, model = drawn(true, seed=0)
    found = Calibration.fit(pairs, scores, is_new, target, Rest.of(model, pairs, target))
    assert found.power == true.power
    for name, value in vars(true).items():
        assert getattr(found, name) == pytest.approx(value, abs=0.15), name


def test_the_rest_is_what_is_no_candidate() -> None:
    model = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    pairs = Pairs(row=np.array([0, 1, 1]), poi=np.array([0, 1, 2]), num_requests=2)
    rest = Rest.of(model, pairs, np.array([2, 1]))
    np.testing.assert_allclose(rest.log_sums[:, POWERS.index(1.0)], np.log([0.5, 0.1]))
    np.testing.assert_allclose(rest.target, [np.log(0.2), np.nan])
    both = Rest.join([rest, rest])
    assert both.log_sums.shape == (4, len(POWERS))


def test_candidates_may_be_all_places() -> None:
    model = np.log(np.array([[0.5, 0.5]]))
    pairs = Pairs(row=np.array([0, 0]), poi=np.array([0, 1]), num_requests=1)
    rest = Rest.of(model, pairs, np.array([1]))
    assert np.isneginf(rest.log_sums).all()
    found = Calibration.fit(pairs, np.array([0.0, 1.0]), np.array([False, False]), np.array([1]), rest)
    assert max(vars(found).values()) < 15  # a target elsewhere would cost no more nats than that


def test_targets_out_of_reach_are_named() -> None:
    pairs, scores, is_new, target, model = drawn(Calibration(1, 0, 1, 0, 1.0), seed=1)
    beyond = np.full_like(target, NUM_POIS - 1)
    with pytest.raises(ValueError, match="no target of the validation requests is a candidate"):
        Calibration.fit(pairs, scores, is_new, beyond, Rest.of(model, pairs, beyond))
