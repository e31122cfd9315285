"""Recall: a few channels, each with a limit, that together name some hundred candidates for a request."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from spacetime_gr.evaluation.cascade.embedding import PlaceEmbedding
from spacetime_gr.evaluation.cascade.requests import Requests

NEAR_KM = 0.3  # places nearer than this are equally near
HISTORY_HALF_LIFE_DAYS = 60.0
LIMITS: dict[str, int] = {"nearby": 300, "history": 100, "covisits": 100, "embedding": 100}
# Where a generative model's scores are given. What it names has been ranked: the coarse ranker does not cut it.
MODEL_LIMITS: dict[str, int] = {"model": 100, "model_new": 100}


def channel_scores(name: str, requests: Requests, embedding: PlaceEmbedding) -> np.ndarray:
    """Scores of a channel, (n, num_pois) float64; places at or below 0 are never its candidates.

    nearby: users who have been there / (km from the last place + 0.3), times the share of the place's category at this
    hour where the time is known. history: the user's own visits, halved every 60 days; timed, those near this hour
    count double. covisits: steps from the last place, then (below one whole step) from places of its category.
    embedding: product of the user's and the place's factors. model: a generative model's probabilities. model_new: the
    same, of places new to the user.
    """
    known = requests.known
    if name == "nearby":
        # Without a last place every distance is NaN; popularity alone remains.
        nearness = 1 / (np.nan_to_num(requests.km_from_last) + NEAR_KM)
        score = requests.people * nearness
        return score * requests.category_at_hour[:, known.category] if requests.timed else score
    if name == "history":
        weight = 0.5 ** (requests.age / HISTORY_HALF_LIFE_DAYS)
        return requests.own(weight * (1 + requests.hour_weight) if requests.timed else weight)
    if name == "covisits":
        from_place = _destinations(requests, *known.steps_from.values(requests.last_poi, requests.now))
        category = np.where(requests.last_poi >= 0, known.category[requests.last_poi], -1)
        from_category = _destinations(requests, *known.steps_from_category.values(category, requests.now))
        return from_place + from_category / (from_category.max(axis=1, keepdims=True) + 1)
    if name == "embedding":
        return (embedding.users(requests.own_visits) @ embedding.factors.T).astype(np.float64)
    assert requests.model_scores is not None
    probability = np.exp(requests.model_scores)
    return probability if name == "model" else np.where(requests.own_visits > 0, 0.0, probability)


def recall(
    requests: Requests, embedding: PlaceEmbedding, limits: Mapping[str, int] = LIMITS
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Candidates of n requests: the union of the channels (n, num_pois) bool, and each channel's own."""
    channels = {name: top_positive(channel_scores(name, requests, embedding), limit) for name, limit in limits.items()}
    return np.logical_or.reduce(list(channels.values())), channels


def top_positive(scores: np.ndarray, limit: int) -> np.ndarray:
    """(n, num_pois) bool: the `limit` best places of each row with a score above 0; ties at the edge by row number."""
    if limit >= scores.shape[1]:
        return scores > 0
    # The score of the last place that gets in; of those that tie with it, as many as there is room for.
    edge = np.maximum(np.partition(scores, -limit, axis=1)[:, -limit], 0)[:, None]
    above, tied = scores > edge, (scores == edge) & (edge > 0)
    return above | (tied & (np.cumsum(tied, axis=1) <= limit - above.sum(axis=1, keepdims=True)))


def _destinations(requests: Requests, destination: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Count ragged lists of places: (n, num_pois) float64."""
    row = np.repeat(np.arange(len(requests)), np.diff(offsets))
    cell = row * requests.num_pois + destination
    counts = np.bincount(cell, minlength=len(requests) * requests.num_pois)
    return counts.reshape(-1, requests.num_pois).astype(np.float64)
