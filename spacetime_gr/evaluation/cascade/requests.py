"""A batch of requests as the cascade sees them: when, after which place, and the user's own history."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from spacetime_gr.evaluation.cascade.known import KnownEvents
from spacetime_gr.evaluation.counts import counts_before
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.index.geometry import EARTH_RADIUS_KM

DAY = 86_400.0
HOUR_WIDTH = 1.5  # standard deviation of the kernel over the time of day, hours
RECENT_EVENTS = 30


class Requests:
    """n requests and their histories.

    `now` (n,) int64 is the moment as of which all is counted: timed, that of the request; blind, the second after the
    user's last known event, so that nothing can depend on the time of the request. `last_poi` (n,) int64 is -1
    without a history, and `now` then the first second of the log. `row` and `poi` (h,) int64 are the events of all
    histories, `age` (h,) float64 their age in days.

    Tables over all places are (n, num_pois), over categories (n, num_categories), float64.

    Args:
        model_scores: (n, num_pois) log-probabilities of a generative model, for a ranker of its candidates.
    """

    def __init__(
        self, instances: Instances, known: KnownEvents, timed: bool, model_scores: np.ndarray | None = None
    ) -> None:
        log = instances.log
        self.known, self.timed, self.model_scores = known, timed, model_scores
        self.num_pois = log.num_pois
        event, self.offsets = instances.history()
        self.length = np.diff(self.offsets)
        self.row = np.repeat(np.arange(len(instances)), self.length)
        self.poi = log.poi_row[event]
        last = instances.last_event()
        has_history = last >= 0
        self.last_poi = instances.last_place()
        last_time = np.where(has_history, log.timestamp[last], log.timestamp.min())
        self.now = instances.target_time if timed else last_time + has_history
        self.gap_hours = np.where(has_history, (self.now - last_time) / 3600, np.nan)
        self.age = (self.now[self.row] - log.timestamp[event]) / DAY

        local_minute = log.timestamp // 60 + log.tz_offset_minutes
        # Blind, the request's own local time must not be touched; the features that need it are left out as well.
        self.local_minute = local_minute[instances.target] if timed else np.full(len(instances), -1, np.int64)
        self.event_minute = local_minute[event]

    def __len__(self) -> int:
        return len(self.now)

    @property
    def hour(self) -> np.ndarray:
        """(n,) int64 local hour of the request; timed only."""
        assert self.timed
        return self.local_minute // 60 % 24

    @property
    def weekend(self) -> np.ndarray:
        """(n,) bool: the request falls on a Saturday or Sunday, local time; timed only."""
        assert self.timed
        return _is_weekend(self.local_minute)

    def own(self, weight: np.ndarray | None = None) -> np.ndarray:
        """Sum of a weight (h,) over the user's own visits to each place: (n, num_pois); None counts them."""
        return _table(self.row, self.poi, weight, len(self), self.num_pois)

    def own_categories(self, weight: np.ndarray | None = None) -> np.ndarray:
        """The same for categories: (n, num_categories)."""
        known = self.known
        return _table(self.row, known.category[self.poi], weight, len(self), known.num_categories)

    @cached_property
    def own_visits(self) -> np.ndarray:
        """The user's visits: (n, num_pois)."""
        return self.own()

    @cached_property
    def hour_weight(self) -> np.ndarray:
        """(h,) nearness of each own visit's time of day to the request's: exp(-d^2 / 2 w^2), d round the clock.

        Timed only.
        """
        assert self.timed
        apart = np.abs(self.event_minute - self.local_minute[self.row]) % 1440
        hours = np.minimum(apart, 1440 - apart) / 60
        return np.exp(-0.5 * (hours / HOUR_WIDTH) ** 2)

    @cached_property
    def week_hour_weight(self) -> np.ndarray:
        """(h,) the same on days of the request's kind (working day, weekend) only."""
        return self.hour_weight * (_is_weekend(self.event_minute) == self.weekend[self.row])

    @cached_property
    def is_first_visit(self) -> np.ndarray:
        """(h,) bool: the user had not been there before."""
        first = np.unique(self.row * self.num_pois + self.poi, return_index=True)[1]
        is_first = np.zeros(len(self.row), bool)
        is_first[first] = True
        return is_first

    @cached_property
    def steps_ago(self) -> np.ndarray:
        """(h,) int64: 0 for the user's last event, 1 for the one before it, and so on."""
        return self.offsets[1:][self.row] - 1 - np.arange(len(self.row))

    @cached_property
    def follows_last(self) -> np.ndarray:
        """(h,) bool: the event before it in the same history was at the last place."""
        follows = np.zeros(len(self.row), bool)
        follows[1:] = (self.poi[:-1] == self.last_poi[self.row][1:]) & (self.row[:-1] == self.row[1:])
        return follows

    def rate_of_first_visits(self, last: int | None = None) -> np.ndarray:
        """(n,) share of first visits in the history, or in its last so many events; 1 without a history."""
        counted = np.ones(len(self.row), bool) if last is None else self.steps_ago < last
        total = np.bincount(self.row[counted], minlength=len(self))
        first = np.bincount(self.row[counted & self.is_first_visit], minlength=len(self))
        return np.where(total > 0, first / np.maximum(total, 1), 1.0)

    @cached_property
    def km_from_last(self) -> np.ndarray:
        """Distance in km from the last place: (n, num_pois), NaN without a history.

        From the chord between unit vectors, 2 R asin(|a - b| / 2): exact enough for short distances in float64.
        """
        position = self.known.position
        chord_squared = np.maximum(2 - 2 * (position[self.last_poi] @ position.T), 0)
        km = 2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(np.sqrt(chord_squared) / 2, 1))
        return np.where(self.last_poi[:, None] >= 0, km, np.nan)

    @cached_property
    def people(self) -> np.ndarray:
        """How many users have been at each place: (n, num_pois)."""
        known = self.known
        return counts_before(known.first_visit_poi, known.first_visit_time, self.now, self.num_pois).astype(np.float64)

    @cached_property
    def visits_of_all(self) -> np.ndarray:
        """Visits of anyone to each place: (n, num_pois) int64."""
        return counts_before(self.known.visit_poi, self.known.visit_time, self.now, self.num_pois)

    @cached_property
    def category_at_hour(self) -> np.ndarray:
        """Share of each category in everybody's visits within an hour of the request's hour: (n, num_categories)."""
        key = np.arange(self.known.num_categories) * 24
        counts = sum(
            self.known.category_hours.count(key + ((self.hour + shift) % 24)[:, None], self.now[:, None])
            for shift in (-1, 0, 1)
        )
        return counts / np.maximum(np.sum(counts, axis=1, keepdims=True), 1)


def _is_weekend(local_minute: np.ndarray) -> np.ndarray:
    # 1970-01-01 was a Thursday: day 2 of that count is a Saturday.
    return (local_minute // 1440 - 2) % 7 < 2


def _table(row: np.ndarray, column: np.ndarray, weight: np.ndarray | None, rows: int, columns: int) -> np.ndarray:
    cell = row * columns + column
    return np.bincount(cell, weights=weight, minlength=rows * columns).reshape(rows, columns).astype(np.float64)
