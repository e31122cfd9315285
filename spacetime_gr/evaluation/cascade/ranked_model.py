"""A generative model and a ranker of its candidates, as one scorer of all places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spacetime_gr.evaluation.baselines import Scorer
from spacetime_gr.evaluation.cascade.calibration import LOWEST, log_sum
from spacetime_gr.evaluation.cascade.requests import Requests
from spacetime_gr.evaluation.cascade.scorer import Cascade
from spacetime_gr.evaluation.instances import Instances


class RankedModel:
    """Call it with `Instances`, get (settings, n, num_pois) float64 log-probabilities.

    The ranker orders the candidates, a `Calibration` weighs them against each other and against all other places. To
    explore is to go where the user is not known to have been: factors on its odds multiply the mass of all those
    places, before all are normalised. (The gate of the model alone has the chance of a softmax over all places, those
    visited among them.)

    Args:
        ranker: a cascade that was fitted with a model's scores.
        model: log-probabilities of a batch of instances, (1, n, num_pois) or (n, num_pois).
        explore_odds: settings of the discovery knob.
    """

    def __init__(self, ranker: Cascade, model: Scorer, explore_odds: Sequence[float] = (1.0,)) -> None:
        assert ranker.calibration is not None, "a cascade without a model has no calibrated scores"
        self.ranker, self.model = ranker, model
        self.explore_odds = tuple(explore_odds)

    def __call__(self, instances: Instances) -> np.ndarray:
        """(settings, n, num_pois) float64."""
        model_scores = self.model(instances).reshape(len(instances), instances.log.num_pois)
        found = np.empty((len(self.explore_odds), *model_scores.shape))
        for rows, requests in self.ranker.requests(instances, model_scores):
            found[:, rows] = self._score(requests)
        return found

    def _score(self, requests: Requests) -> np.ndarray:
        """(settings, n, num_pois) log-probabilities of a chunk of requests."""
        calibration, model_scores = self.ranker.calibration, requests.model_scores
        assert calibration is not None
        assert model_scores is not None
        found, fine = self.ranker.rank(requests)
        row, poi = found.final.row, found.final.poi
        is_new = requests.own_visits == 0
        scores = calibration.power * np.maximum(model_scores, LOWEST)
        scores[row, poi] = calibration.logits(fine, is_new[row, poi])
        settings = np.stack([scores + np.log(odds) * is_new for odds in self.explore_odds])
        return settings - log_sum(settings)
