"""What everybody's events tell: places' popularity, hours, and the steps between places, as of any moment."""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.counts import EventsByKey
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.index.geometry import unit_vectors


class KnownEvents:
    """The events of a log that may be known (all under `stream`, training under `same`), filed for counting.

    Every count is asked for as of a moment and holds strictly earlier events only.

    visits, first_visits: by place; the second holds the first visit of each user there, so it counts people.
    place_hours: by place x 24 + local hour. category_hours: by category x 24 + local hour. steps: by origin x
    num_pois + destination, a step being two consecutive events of a user, at the time of the second. steps_from: by
    origin, gives destinations. steps_from_category: by the category of the origin, gives destinations.
    category_steps: by category x num_categories + category. all_visits: all under key 0.

    Args:
        instances: any selection of the instances to be scored.
    """

    def __init__(self, instances: Instances, catalogue: Catalogue) -> None:
        log = self._log = instances.log
        self._knowledge = instances.knowledge
        self.catalogue = catalogue
        self.num_pois = log.num_pois
        # Places of unknown category share one of their own.
        category = np.zeros(log.num_pois, np.int64) if catalogue.category is None else catalogue.category
        self.category = np.where(category < 0, category.max(initial=0) + 1, category)
        self.num_categories = int(self.category.max(initial=0)) + 1
        # The chord between two points is a matrix product away, for all places at once.
        self.position = unit_vectors(catalogue.latitude, catalogue.longitude)

        visible = np.flatnonzero(instances.training) if instances.knowledge == "same" else np.arange(len(log))
        poi, time, user = log.poi_row[visible], log.timestamp[visible], log.user[visible]
        hour = log.local_hour[visible]
        # The log is sorted by user and time, so the first of a (user, place) pair is its first visit.
        first = np.unique(user * np.int64(self.num_pois) + poi, return_index=True)[1]
        self.first_visit_poi, self.first_visit_time = poi[first], time[first]
        self.visit_poi, self.visit_time = poi, time
        self.visits = EventsByKey(poi, time)
        self.first_visits = EventsByKey(self.first_visit_poi, self.first_visit_time)
        self.place_hours = EventsByKey(poi * 24 + hour, time)
        self.category_hours = EventsByKey(self.category[poi] * 24 + hour, time)
        self.all_visits = EventsByKey(np.zeros_like(time), time)

        joined = user[1:] == user[:-1]
        origin, destination, arrived = poi[:-1][joined], poi[1:][joined], time[1:][joined]
        self.steps = EventsByKey(origin * self.num_pois + destination, arrived)
        self.steps_from = EventsByKey(origin, arrived, destination)
        self.steps_from_category = EventsByKey(self.category[origin], arrived, destination)
        self.category_steps = EventsByKey(
            self.category[origin] * self.num_categories + self.category[destination], arrived
        )

    def is_of(self, instances: Instances) -> bool:
        """Whether these are the known events of such instances."""
        return self._log is instances.log and self._knowledge == instances.knowledge
