"""From a ranker's scores of the candidates and a model's scores of all places to probabilities of all places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spacetime_gr.evaluation.cascade.ranking import Pairs

# Of the model's probabilities of places that are no candidates. They only share what candidates leave, so a few do.
POWERS = tuple(float(power) for power in np.arange(1, 6) / 5)
LOWEST = -100.0  # log-probabilities of a model below this count as this
_START = np.array([1.0, 0.0, 1.0, 0.0])
_BOUNDS = ((0.0, 20.0), (-30.0, 30.0)) * 2  # scale and offset
_RIDGE = 1e-5  # so that offsets stay finite where all targets are candidates, or none is new


def log_sum(scores: np.ndarray) -> np.ndarray:
    """log sum exp over the last axis, which stays as 1; -inf where all scores are."""
    top = scores.max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(scores - np.where(np.isfinite(top), top, 0.0)).sum(axis=-1, keepdims=True))


@dataclass(frozen=True)
class Rest:
    """What n requests' other places weigh: `log_sums` (n, len(POWERS)), the log of the sum of their probabilities to
    each power; `target` (n,), the log-probability of the target where it is one of them, NaN where it is a candidate.
    """

    log_sums: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, model_scores: np.ndarray, candidates: Pairs, target: np.ndarray) -> Rest:
        """Of a model's log-probabilities (n, num_pois), the candidates, and the targets (n,)."""
        others = np.maximum(model_scores, LOWEST)
        others[candidates.row, candidates.poi] = -np.inf
        log_sums = np.concatenate([log_sum(power * others) for power in POWERS], axis=1)
        of_target = others[np.arange(len(target)), target]
        return cls(log_sums, np.where(np.isneginf(of_target), np.nan, of_target))

    @classmethod
    def join(cls, parts: list[Rest]) -> Rest:
        """Several chunks of requests as one."""
        return cls(np.concatenate([part.log_sums for part in parts]), np.concatenate([part.target for part in parts]))


@dataclass(frozen=True)
class Calibration:
    """One softmax over all places: candidates by scale x score + offset, those where the user has been and those new to
    him apart; all other places by power x the model's log-probability."""

    return_scale: float
    return_offset: float
    new_scale: float
    new_offset: float
    power: float

    def logits(self, scores: np.ndarray, is_new: np.ndarray) -> np.ndarray:
        """Of candidates: the ranker's scores (m,), and whether each is new to the user (m,) bool."""
        return np.where(
            is_new, self.new_scale * scores + self.new_offset, self.return_scale * scores + self.return_offset
        )

    @classmethod
    def fit(cls, pairs: Pairs, scores: np.ndarray, is_new: np.ndarray, target: np.ndarray, rest: Rest) -> Calibration:
        """The likeliest for the targets (n,) of requests that the ranker's trees were not grown on.

        A conditional logit (McFadden 1974) of four parameters for each of `POWERS`, of which the best is taken.

        Raises:
            ValueError: no target is a candidate.
        """
        from scipy.optimize import minimize

        is_target = pairs.poi == target[pairs.row]
        if not is_target.any():
            raise ValueError("no target of the validation requests is a candidate; the training part is too small")
        columns = np.stack([~is_new * scores, ~is_new, is_new * scores, is_new], axis=1).astype(np.float64)
        num_requests = pairs.num_requests

        def loss(parameters: np.ndarray, number: int) -> tuple[float, np.ndarray]:
            """Mean negative log-likelihood and its gradient; log sums by request, the rest being one more candidate."""
            logits, others = columns @ parameters, rest.log_sums[:, number]
            top = others.copy()
            np.maximum.at(top, pairs.row, logits)
            weight = np.exp(logits - top[pairs.row])
            total = np.bincount(pairs.row, weight, num_requests) + np.exp(others - top)
            chosen = np.where(np.isnan(rest.target), 0.0, POWERS[number] * rest.target)
            likelihood = chosen.sum() + logits[is_target].sum() - (top + np.log(total)).sum()
            gradient = is_target @ columns - (weight / total[pairs.row]) @ columns
            away = parameters - _START
            return -likelihood / num_requests + _RIDGE / 2 * away @ away, _RIDGE * away - gradient / num_requests

        found = [
            minimize(loss, _START, args=(number,), jac=True, bounds=_BOUNDS, method="L-BFGS-B")
            for number in range(len(POWERS))
        ]
        best = min(range(len(POWERS)), key=lambda number: found[number].fun)
        return_scale, return_offset, new_scale, new_offset = (float(value) for value in found[best].x)
        return cls(return_scale, return_offset, new_scale, new_offset, POWERS[best])
