"""The two rankers: a logistic regression that thins out the candidates, and boosted trees that order what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

EARLY_STOPPING_ROUNDS = 40
MAX_ROUNDS = 600
# Common to every point of the grid. One order of summation, so that a seed gives one model.
_LIGHTGBM = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
    "learning_rate": 0.05,
    "lambdarank_truncation_level": 15,  # pairs below the list that is judged tell little
    "min_data_in_leaf": 50,
    "feature_fraction": 0.8,
    "lambda_l2": 1.0,
    "max_bin": 127,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class Pairs:
    """(request, candidate) pairs in rising order of request: `row`, `poi` (m,) int64, of `num_requests` requests."""

    row: np.ndarray
    poi: np.ndarray
    num_requests: int

    def take(self, keep: np.ndarray) -> Pairs:
        """The pairs where `keep` (m,) is true."""
        return Pairs(self.row[keep], self.poi[keep], self.num_requests)

    def best(self, scores: np.ndarray, limit: int) -> np.ndarray:
        """(m,) bool: the `limit` pairs of each request with the highest scores; ties by the order of the pairs."""
        order = np.lexsort((-scores, self.row))
        start = np.searchsorted(self.row, np.arange(self.num_requests))
        keep = np.empty(len(self.row), bool)
        keep[order] = np.arange(len(order)) - start[self.row[order]] < limit
        return keep

    def target_ranks(self, scores: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Rank of each request's target (n,) among its candidates, ties at their expectation; inf where it is none."""
        hit = self.poi == target[self.row]
        own = np.full(self.num_requests, np.inf)
        own[self.row[hit]] = scores[hit]
        greater = np.bincount(self.row[scores > own[self.row]], minlength=self.num_requests)
        equal = np.bincount(self.row[scores == own[self.row]], minlength=self.num_requests)
        return np.where(np.isfinite(own), greater + (equal + 1) / 2, np.inf)


@dataclass(frozen=True)
class CoarseRanker:
    """A linear score of few features: `weights` and `means` (f,) float64, of the features as they come."""

    features: tuple[str, ...]
    means: np.ndarray
    weights: np.ndarray

    @classmethod
    def fit(
        cls, features: tuple[str, ...], matrix: np.ndarray, label: np.ndarray, weight: np.ndarray, seed: int
    ) -> CoarseRanker:
        """Fit a logistic regression (scikit-learn) to pairs (m, f), whether each was the target and its weight (m,)."""
        from sklearn.linear_model import LogisticRegression

        filled = np.nan_to_num(matrix.astype(np.float64))
        means, scale = filled.mean(axis=0), np.maximum(filled.std(axis=0), 1e-9)
        model = LogisticRegression(max_iter=1000, random_state=seed).fit((filled - means) / scale, label, weight)
        return cls(features, means, model.coef_[0] / scale)

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """(m,) float64 log-odds up to a constant."""
        return (np.nan_to_num(matrix.astype(np.float64)) - self.means) @ self.weights


@dataclass(frozen=True)
class FineRanker:
    """A LightGBM ranker over `features`: the mean of boosted trees that differ by their seed alone."""

    features: tuple[str, ...]
    boosters: tuple[Any, ...]

    @classmethod
    def fit(
        cls,
        features: tuple[str, ...],
        training: tuple[np.ndarray, np.ndarray, np.ndarray],
        validation: tuple[np.ndarray, np.ndarray, np.ndarray],
        point: Mapping[str, Any],
        seeds: Sequence[int],
    ) -> FineRanker:
        """Boost until NDCG@10 on validation has not risen for 40 rounds, and keep the best round; once for each seed.

        Args:
            training, validation: features (m, f), whether each pair is the target (m,), and pairs per request (n,).
            point: LightGBM parameters of this point of the grid.
        """
        import lightgbm

        def dataset(part: tuple[np.ndarray, np.ndarray, np.ndarray], **options: Any) -> Any:
            matrix, label, group = part
            return lightgbm.Dataset(matrix, label, group=group, feature_name=list(features), **options)

        learn = dataset(training, params={"max_bin": _LIGHTGBM["max_bin"], "verbosity": -1})
        check = dataset(validation, reference=learn)
        boosters = []
        for seed in seeds:
            booster = lightgbm.train(
                {**_LIGHTGBM, **point, "seed": seed},
                learn,
                num_boost_round=MAX_ROUNDS,
                valid_sets=[check],
                callbacks=[lightgbm.early_stopping(EARLY_STOPPING_ROUNDS, verbose=False)],
            )
            # Through the text form at once: what is scored with is what is stored, cut at the best round.
            text = booster.model_to_string(num_iteration=booster.best_iteration)
            boosters.append(lightgbm.Booster(model_str=text))
        return cls(features, tuple(boosters))

    def score(self, matrix: np.ndarray) -> np.ndarray:
        """(m,) float64 scores; only their order within a request means anything."""
        return np.mean([booster.predict(matrix) for booster in self.boosters], axis=0)
