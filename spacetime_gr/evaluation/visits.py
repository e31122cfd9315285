"""When a user was last at a place: what makes a recommended place new, and a target a discovery."""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.events import EventLog

NEVER = -1


class LastVisits:
    """Last visit of any user at any place strictly before any time, exactly, from one sorted array.

    Memory: 40 bytes an event, whatever the number of users and places.
    """

    def __init__(self, log: EventLog) -> None:
        known = log.poi_row >= 0
        pair = log.user[known] * np.int64(log.num_pois) + log.poi_row[known]
        timestamp = log.timestamp[known]
        order = np.lexsort((timestamp, pair))
        self._timestamp = timestamp[order]
        self._pairs, self._first, counts = np.unique(pair[order], return_index=True, return_counts=True)
        self._num_pois = log.num_pois
        self._begin, end = (int(timestamp.min()), int(timestamp.max())) if len(timestamp) else (0, 0)
        # One key that sorts by pair, then by time: seconds since the first event in the low digits.
        self._span = end - self._begin + 2
        self._key = np.repeat(np.arange(len(counts)), counts) * self._span + (self._timestamp - self._begin)

    def age(self, user: np.ndarray, poi_row: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Seconds from the user's last visit at the place strictly before `when`, int64; `NEVER` without one.

        Args:
            user, poi_row, when: dense user numbers, places and Unix seconds, of shapes that broadcast.
        """
        user, poi_row, when = np.broadcast_arrays(user, poi_row, when)
        pair = user * np.int64(self._num_pois) + poi_row
        number = np.minimum(np.searchsorted(self._pairs, pair), max(len(self._pairs) - 1, 0))
        if len(self._pairs) == 0:
            return np.full(pair.shape, NEVER, np.int64)
        offset = np.clip(when - self._begin, 0, self._span - 1)
        last = np.searchsorted(self._key, number * self._span + offset, side="left") - 1
        found = (self._pairs[number] == pair) & (last >= self._first[number])
        return np.where(found, when - self._timestamp[last], NEVER)


def is_new(age: np.ndarray, days: float) -> np.ndarray:
    """Whether places of these ages (seconds, `NEVER`) are new to their users: no visit in the so many days before."""
    return (age == NEVER) | (age > days * 86_400)
