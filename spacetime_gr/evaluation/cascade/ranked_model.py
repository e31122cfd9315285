"""A generative model and a ranker of its candidates, as one scorer of all places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spacetime_gr.evaluation.baselines import Scorer
from spacetime_gr.evaluation.cascade.ranking import log_softmax
from spacetime_gr.evaluation.cascade.requests import Requests
from spacetime_gr.evaluation.cascade.scorer import Cascade
from spacetime_gr.evaluation.instances import Instances


class RankedModel:
    """Call it with `Instances`, get (settings, n, num_pois) float64 log-probabilities.

    The candidates of a request share the mass that candidates had of the validation targets, by a softmax of the
    ranker's scores; all other places share the rest as the model would have it. To explore is to go where the user was
    never before: factors on its odds multiply the mass of all those places, before all are normalised.

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
        calibration = self.ranker.calibration
        assert calibration is not None
        assert requests.model_scores is not None
        found, fine = self.ranker.rank(requests)
        final = found.final
        scores = requests.model_scores.copy()
        scores[final.row, final.poi] = -np.inf
        with np.errstate(divide="ignore"):
            scores += np.log1p(-calibration.share) - _log_sum(scores)
        scores[final.row, final.poi] = np.log(calibration.share) + log_softmax(final, calibration.scale * fine)
        is_new = requests.own_visits == 0
        settings = np.stack([scores + np.log(odds) * is_new for odds in self.explore_odds])
        return settings - _log_sum(settings)


def _log_sum(scores: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis, which stays; 0 where all are -inf, so that -inf minus it is -inf."""
    top = scores.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    total = np.exp(scores - top).sum(axis=-1, keepdims=True)
    return np.where(total > 0, top + np.log(np.maximum(total, np.finfo(float).tiny)), 0.0)
