"""When a user was last at a place: what makes a recommended place new, and a target a discovery."""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.counts import NO_TIME, EventsByKey
from spacetime_gr.evaluation.events import EventLog

NEVER = -1


class LastVisits:
    """Last visit of any user at any place strictly before any time, exactly.

    Memory: at most 16 bytes an event, whatever the number of users and places.
    """

    def __init__(self, log: EventLog) -> None:
        known = log.poi_row >= 0
        pair = log.user[known] * np.int64(log.num_pois) + log.poi_row[known]
        self._pairs, number = np.unique(pair, return_inverse=True)
        self._events = EventsByKey(number, log.timestamp[known])
        self._num_pois = log.num_pois

    def age(self, user: np.ndarray, poi_row: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Seconds from the user's last visit at the place strictly before `when`, int64; `NEVER` without one.

        Args:
            user, poi_row, when: dense user numbers, places and Unix seconds, of shapes that broadcast.
        """
        user, poi_row, when = np.broadcast_arrays(user, poi_row, when)
        if not len(self._pairs):
            return np.full(user.shape, NEVER, np.int64)
        pair = user * np.int64(self._num_pois) + poi_row
        number = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        last = self._events.latest(np.where(self._pairs[number] == pair, number, -1), when)
        return np.where(last == NO_TIME, NEVER, when - last)


def is_new(age: np.ndarray, days: float) -> np.ndarray:
    """Whether places of these ages (seconds, `NEVER`) are new to their users: no visit in the so many days before."""
    return (age == NEVER) | (age > days * 86_400)
