"""The embedding channel: matrix factorisation by `implicit`, its user side computed from the history at hand.

Hu, Koren, Volinsky, Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008. Only the factors of the places
are kept. A user's factors are the least-squares solution for his known visits, so they move along the stream, exist
for users who came later, and hold no event but those of the history that is passed in: two towers, a tower of places
that is fitted, and a tower of users that is computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

FACTORS = 48
REGULARISATION = 0.05
CONFIDENCE = 4.0  # weight of a visit against that of a place not visited
ITERATIONS = 15


class PlaceEmbedding:
    """Factors of places (num_pois, factors) float32, and of any user from his visits."""

    def __init__(self, factors: np.ndarray) -> None:
        self.factors = np.ascontiguousarray(factors, np.float32)
        self._model = _model(self.factors.shape[1], seed=0)
        self._model.item_factors = self.factors
        norm = np.linalg.norm(self.factors, axis=1, keepdims=True)
        self.unit = self.factors / np.maximum(norm, 1e-12)

    @classmethod
    def fit(cls, user: np.ndarray, poi: np.ndarray, num_users: int, num_pois: int, seed: int) -> PlaceEmbedding:
        """Fit on visits: dense user and place of each event, (m,) int64."""
        visits = np.ones(len(user), np.float32)
        matrix = sparse.csr_matrix((visits, (user, poi)), shape=(num_users, num_pois))
        model = _model(min(FACTORS, num_users, num_pois), seed)
        model.fit(_confidence(matrix), show_progress=False)
        return cls(model.item_factors)

    def users(self, visits: np.ndarray) -> np.ndarray:
        """Factors (n, factors) float32 of users with these visits (n, num_pois)."""
        matrix = _confidence(sparse.csr_matrix(visits, dtype=np.float32))
        return self._model.recalculate_user(np.arange(len(visits)), matrix)


def _confidence(visits: sparse.csr_matrix) -> sparse.csr_matrix:
    # The tenth visit to the gym says less about taste than the first.
    visits.data = np.log1p(visits.data)
    return visits


def _model(factors: int, seed: int) -> Any:
    from implicit.cpu.als import AlternatingLeastSquares

    # One thread, so that sums are added in one order and a seed gives one result.
    return AlternatingLeastSquares(
        factors=factors,
        regularization=REGULARISATION,
        alpha=CONFIDENCE,
        iterations=ITERATIONS,
        num_threads=1,
        random_state=seed,
    )
