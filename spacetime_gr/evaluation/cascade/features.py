"""Features of (request, candidate) pairs. Each is one short method; all are vectorised over the pairs.

What is not known is NaN, which the trees of the fine ranker take as it is (the coarse ranker reads 0).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from spacetime_gr.evaluation.cascade.embedding import PlaceEmbedding
from spacetime_gr.evaluation.cascade.requests import DAY, RECENT_EVENTS, Requests
from spacetime_gr.index.geometry import haversine_km

# Those that need the time of the request: left out where it is hidden.
TIMED_FEATURES = (
    "own_visits_hour",
    "own_visits_week_hour",
    "own_category_hour",
    "place_hour",
    "category_hour",
    "hour",
    "weekend",
    "gap_hours",
)
BLIND_FEATURES = (
    "own_visits",
    "own_share",
    "own_visits_week",
    "own_visits_month",
    "own_recency_days",
    "own_events_since",
    "own_steps_from_last",
    "own_step_share",
    "own_category_share",
    "is_new",
    "is_last",
    "explore_rate",
    "recent_explore_rate",
    "num_events",
    "popularity",
    "popularity_month",
    "people",
    "visits_per_person",
    "steps_from_last",
    "step_share",
    "category_step_share",
    "km_from_last",
    "km_from_favourite",
    "embedding_score",
    "embedding_similarity_to_last",
)
# Of a fine ranker that is given a generative model's log-probabilities.
MODEL_FEATURES = ("model_score", "model_margin", "model_rank")
# Cheap, and enough to tell the unlikely.
COARSE_TIMED = ("own_visits_hour", "category_hour")
COARSE_BLIND = (
    *("own_visits", "own_visits_month", "own_step_share", "own_category_share", "is_new"),
    *("popularity", "step_share", "km_from_last", "embedding_score"),
)


def fine_features(timed: bool, with_model: bool = False) -> tuple[str, ...]:
    """Names of the fine ranker's features."""
    return BLIND_FEATURES + (TIMED_FEATURES if timed else ()) + (MODEL_FEATURES if with_model else ())


def coarse_features(timed: bool) -> tuple[str, ...]:
    """Names of the coarse ranker's features."""
    return COARSE_BLIND + COARSE_TIMED if timed else COARSE_BLIND


class PairFeatures:
    """Features of m pairs: request `row` (m,) and candidate `poi` (m,), int64. Every method gives (m,) numbers.

    Counts stand as log(1 + count), shares of a whole as they are.
    """

    def __init__(self, requests: Requests, row: np.ndarray, poi: np.ndarray, embedding: PlaceEmbedding) -> None:
        self.requests, self.row, self.poi, self.embedding = requests, row, poi, embedding
        self.known = requests.known
        self.now = requests.now[row]
        self.last = requests.last_poi[row]
        self.last_category = np.where(self.last >= 0, self.known.category[self.last], -1)

    def matrix(self, names: tuple[str, ...]) -> np.ndarray:
        """(m, len(names)) float32."""
        matrix = np.empty((len(self.row), len(names)), np.float32)
        for column, name in enumerate(names):
            matrix[:, column] = getattr(self, name)()
        return matrix

    def _own(self, weight: np.ndarray | None = None) -> np.ndarray:
        return self.requests.own(weight)[self.row, self.poi]

    def _of_history(self, values: np.ndarray) -> np.ndarray:
        return values / np.maximum(self.requests.length[self.row], 1)

    @cached_property
    def _visits(self) -> np.ndarray:
        return self.requests.own_visits[self.row, self.poi]

    @cached_property
    def _place_visits(self) -> np.ndarray:
        return self.known.visits.count(self.poi, self.now)

    @cached_property
    def _people(self) -> np.ndarray:
        return self.known.first_visits.count(self.poi, self.now)

    @cached_property
    def _steps(self) -> np.ndarray:
        pair = np.where(self.last >= 0, self.last * self.known.num_pois + self.poi, -1)
        return self.known.steps.count(pair, self.now)

    @cached_property
    def _own_steps(self) -> np.ndarray:
        return self._own(self.requests.follows_last.astype(np.float64))

    # The user and the place.

    def own_visits(self) -> np.ndarray:
        """The user's visits to the place."""
        return np.log1p(self._visits)

    def own_share(self) -> np.ndarray:
        """Share of the place in the user's history."""
        return self._of_history(self._visits)

    def own_visits_week(self) -> np.ndarray:
        """Visits, halved every week."""
        return self._own(0.5 ** (self.requests.age / 7))

    def own_visits_month(self) -> np.ndarray:
        """Visits, halved every 30 days."""
        return self._own(0.5 ** (self.requests.age / 30))

    def own_recency_days(self) -> np.ndarray:
        """Days since the user was there last; NaN: never."""
        table = np.full((len(self.requests), self.requests.num_pois), np.nan)
        # Events are in rising order of time: the last one written is the latest.
        table[self.requests.row, self.requests.poi] = self.requests.age
        return table[self.row, self.poi]

    def own_events_since(self) -> np.ndarray:
        """The user's events since he was there last; NaN: never."""
        table = np.full((len(self.requests), self.requests.num_pois), np.nan)
        table[self.requests.row, self.requests.poi] = self.requests.steps_ago
        return table[self.row, self.poi]

    def own_steps_from_last(self) -> np.ndarray:
        """How often the user went there from the last place."""
        return np.log1p(self._own_steps)

    def own_step_share(self) -> np.ndarray:
        """Share of the place in the user's own steps from the last place."""
        follows = np.bincount(self.requests.row, weights=self.requests.follows_last, minlength=len(self.requests))
        return self._own_steps / np.maximum(follows[self.row], 1)

    def own_visits_hour(self) -> np.ndarray:
        """Visits weighed by the nearness of their time of day to that of the request."""
        return self._own(self.requests.hour_weight)

    def own_visits_week_hour(self) -> np.ndarray:
        """The same on days of the request's kind only (working days, weekends)."""
        return self._own(self.requests.week_hour_weight)

    def own_category_share(self) -> np.ndarray:
        """Share of the place's category in the user's history."""
        return self._of_history(self.requests.own_categories()[self.row, self.known.category[self.poi]])

    def own_category_hour(self) -> np.ndarray:
        """Share of the place's category in the user's history near this time of day."""
        table = self.requests.own_categories(self.requests.hour_weight)
        table /= np.maximum(table.sum(axis=1, keepdims=True), 1e-9)
        return table[self.row, self.known.category[self.poi]]

    def is_new(self) -> np.ndarray:
        """1 if the user was never there."""
        return self._visits == 0

    def is_last(self) -> np.ndarray:
        """1 if it is the last place."""
        return self.poi == self.last

    # The user and the moment.

    def explore_rate(self) -> np.ndarray:
        """Share of first visits in the user's history."""
        return self.requests.rate_of_first_visits()[self.row]

    def recent_explore_rate(self) -> np.ndarray:
        """Share of first visits in the user's last events."""
        return self.requests.rate_of_first_visits(RECENT_EVENTS)[self.row]

    def num_events(self) -> np.ndarray:
        """Length of the user's history."""
        return np.log1p(self.requests.length)[self.row]

    def hour(self) -> np.ndarray:
        """Local hour of the request."""
        return self.requests.hour[self.row]

    def weekend(self) -> np.ndarray:
        """1 on Saturdays and Sundays."""
        return self.requests.weekend[self.row]

    def gap_hours(self) -> np.ndarray:
        """Hours since the user's last event."""
        return self.requests.gap_hours[self.row]

    # The place.

    def popularity(self) -> np.ndarray:
        """Visits of anyone, per 10,000 of all places."""
        total = self.known.all_visits.count(np.zeros_like(self.requests.now), self.requests.now)
        return np.log1p(1e4 * self._place_visits / np.maximum(total, 1)[self.row])

    def popularity_month(self) -> np.ndarray:
        """Share of the place's visits that fell in the last 30 days."""
        earlier = self.known.visits.count(self.poi, self.now - int(30 * DAY))
        return (self._place_visits - earlier) / np.maximum(self._place_visits, 1)

    def people(self) -> np.ndarray:
        """How many users have been there."""
        return np.log1p(self._people)

    def visits_per_person(self) -> np.ndarray:
        """Visits per user who has been there: a home or an office has many."""
        return self._place_visits / np.maximum(self._people, 1)

    def place_hour(self) -> np.ndarray:
        """Share of the place's visits within an hour of the request's hour."""
        hour = self.requests.hour[self.row]
        near = sum(self.known.place_hours.count(self.poi * 24 + (hour + shift) % 24, self.now) for shift in (-1, 0, 1))
        return near / np.maximum(self._place_visits, 1)

    def category_hour(self) -> np.ndarray:
        """Share of the place's category in everybody's visits within an hour of the request's hour."""
        return self.requests.category_at_hour[self.row, self.known.category[self.poi]]

    # The last place and the place.

    def steps_from_last(self) -> np.ndarray:
        """Steps of anyone from the last place to this one."""
        return np.log1p(self._steps)

    def step_share(self) -> np.ndarray:
        """Share of the place in everybody's steps from the last place."""
        total = self.known.steps_from.count(self.requests.last_poi, self.requests.now)
        return self._steps / np.maximum(total, 1)[self.row]

    def category_step_share(self) -> np.ndarray:
        """Share of the place's category in everybody's steps from places of the last place's category."""
        known = self.known
        pair = self.last_category * known.num_categories + known.category[self.poi]
        steps = known.category_steps.count(np.where(self.last >= 0, pair, -1), self.now)
        return steps / np.maximum(known.steps_from_category.count(self.last_category, self.now), 1)

    def km_from_last(self) -> np.ndarray:
        """Distance from the last place, log(1 + km); NaN without one."""
        return np.log1p(self.requests.km_from_last[self.row, self.poi])

    def km_from_favourite(self) -> np.ndarray:
        """Distance from the user's most visited place, log(1 + km); NaN without a history."""
        place, request = self.known.catalogue, self.requests
        favourite = request.own_visits.argmax(axis=1)[self.row]
        km = haversine_km(
            place.latitude[favourite], place.longitude[favourite], place.latitude[self.poi], place.longitude[self.poi]
        )
        return np.where(request.length[self.row] > 0, np.log1p(km), np.nan)

    # The embedding.

    def embedding_score(self) -> np.ndarray:
        """Product of the user's and the place's factors."""
        users = self.embedding.users(self.requests.own_visits)
        return np.einsum("mf,mf->m", users[self.row], self.embedding.factors[self.poi])

    def embedding_similarity_to_last(self) -> np.ndarray:
        """Cosine between the factors of the last place and of this one; NaN without a last place."""
        cosine = np.einsum("mf,mf->m", self.embedding.unit[self.last], self.embedding.unit[self.poi])
        return np.where(self.last >= 0, cosine, np.nan)

    # The generative model.

    @cached_property
    def _model_scores(self) -> np.ndarray:
        """(n, num_pois) log-probabilities."""
        scores = self.requests.model_scores
        assert scores is not None, "these features need a model's scores"
        return scores

    def model_score(self) -> np.ndarray:
        """Log-probability of the place."""
        return self._model_scores[self.row, self.poi]

    def model_margin(self) -> np.ndarray:
        """Log-probability of the place against the likeliest one's."""
        return self.model_score() - self._model_scores.max(axis=1)[self.row]

    def model_rank(self) -> np.ndarray:
        """Rank among all places, log."""
        order = np.argsort(-self._model_scores, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(1, order.shape[1] + 1)[None], axis=1)
        return np.log(rank[self.row, self.poi])
