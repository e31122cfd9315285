"""How many people have been at each place by some moment of the stream: what a nightly job would tell the model."""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.counts import EventsByKey
from spacetime_gr.evaluation.instances import Instances

DAY = 86_400


class StreamVisitors:
    """Visitors of all places, renewed every so many days: those of training, and all who came before the renewal.

    Args:
        instances: any selection of the instances to be scored, under `stream`.
        days: between renewals; they fall on whole multiples of this time since 1970.
        blind: the time of a request is not known; that of the person's last known event stands for it.
    """

    def __init__(self, instances: Instances, days: float, blind: bool) -> None:
        log = self.log = instances.log
        self.width, self.blind, self.num_pois = max(1, round(days * DAY)), blind, log.num_pois
        known = np.flatnonzero(log.poi_row >= 0)
        # Events are sorted by user and time, so the first of a (user, place) pair is the first visit.
        pair = log.user[known] * np.int64(log.num_pois) + log.poi_row[known]
        first = known[np.unique(pair, return_index=True)[1]]
        time = np.where(instances.training[first], log.timestamp.min(), log.timestamp[first])
        self.first_visits = EventsByKey(log.poi_row[first], time)

    def renewals(self, instances: Instances) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each renewal that some of the instances see: which do, and the visitors of all places, (num_pois,)."""
        moment = instances.target_time
        if self.blind:
            last = instances.last_event()
            moment = np.where(last >= 0, self.log.timestamp[last], self.log.timestamp.min())
        # At least behind the first second, at which all of training stands.
        renewed = np.maximum(moment // self.width * self.width, self.log.timestamp.min() + 1)
        places = np.arange(self.num_pois)
        return [(np.flatnonzero(renewed == one), self.first_visits.count(places, one)) for one in np.unique(renewed)]
