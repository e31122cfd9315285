"""The figures of a data report, gathered chunk by chunk from whole people.

Memory: one counter per POI, and small tables for everything else; the number of events does not matter.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipelines.prepared import SPLITS
from data_pipelines.stream.sequences import Sequences
from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import haversine_km
from spacetime_gr.index.sorting import chunks

BINS_PER_DECADE = 5
DISTANCE_KM = 10.0 ** (np.arange(-2 * BINS_PER_DECADE, 4.4 * BINS_PER_DECADE + 1) / BINS_PER_DECADE)
GAP_SECONDS = 10.0 ** (np.arange(0, 9 * BINS_PER_DECADE + 1) / BINS_PER_DECADE)
HOURS = 168
_MONDAY = 72  # hours from the Monday before 1970-01-01, a Thursday
_NUM_PARTS = len(SPLITS)
_POWERS = 48  # bins of powers of two: 1, 2-3, 4-7, ...
_RANKS = 200
_DAY = 86_400
_MAX_PERIODS = 72
_PLACES_AT_A_TIME = 1 << 20

Counts = NDArray[np.int64]


class Profile:
    """Gathers the figures.

    Args:
        index: the folder's POI index.
        num_actions, num_modes: how many action types and modes there are.
        chosen: the splits (indices into SPLITS) that the figures are of; `splits` compares all.
    """

    def __init__(self, index: POIIndex, num_actions: int, num_modes: int, chosen: tuple[int, ...]) -> None:
        self._index = index
        self._chosen = list(chosen)
        self._num_categories = len(index.category_names)
        self.poi_visits = np.zeros(index.num_pois, np.uint32)
        self._users, self._num_events, self._unknown = np.zeros((3, _NUM_PARTS), np.int64)
        self._same_place = np.zeros(_NUM_PARTS, np.int64)
        self._first_time = np.full(_NUM_PARTS, np.iinfo(np.int64).max)
        self._last_time = np.full(_NUM_PARTS, -1)
        self._hours = np.zeros((_NUM_PARTS, HOURS), np.int64)
        # One bin below the first edge and one above the last.
        self._distances = np.zeros((_NUM_PARTS, len(DISTANCE_KM) + 1), np.int64)
        self._gaps = np.zeros((_NUM_PARTS, len(GAP_SECONDS) + 1), np.int64)
        self._actions = np.zeros((_NUM_PARTS, num_actions), np.int64)
        self._modes = np.zeros((_NUM_PARTS, num_modes + 1), np.int64)  # the last: unknown
        self._history = np.zeros((_NUM_PARTS, _POWERS, 2), np.int64)  # discoveries, returns
        self._days = np.zeros((0, _NUM_PARTS, 2), np.int64)
        self._activity = np.zeros(_POWERS, np.int64)
        self._active_users = 0
        # Categories, then none, then places that training does not list.
        self._categories = np.zeros((3, self._num_categories + 2), np.int64)  # visits, returns, users

    def add(self, people: Sequences) -> None:
        """Count the actions of whole people: columns of `whole_people`, each person once in all calls."""
        columns, person = people.columns, people.sequence_of_action()
        part, poi, time = columns["part"].astype(np.int64), columns["poi_row"].astype(np.int64), columns["timestamp"]
        if poi.size and poi.max() >= self._index.num_pois:
            raise ValueError(
                f"a shard names POI row {poi.max()}, but the index has {self._index.num_pois} places: "
                "the tokenizer is of other data; run prepare --overwrite"
            )
        known = poi >= 0
        self._num_events += np.bincount(part, minlength=_NUM_PARTS)
        self._unknown += np.bincount(part[~known], minlength=_NUM_PARTS)
        self._users += np.bincount(np.unique(person * _NUM_PARTS + part) % _NUM_PARTS, minlength=_NUM_PARTS)
        np.minimum.at(self._first_time, part, time)
        np.maximum.at(self._last_time, part, time)
        local_hour = (time + 60 * columns["tz_offset_minutes"].astype(np.int64)) // 3600
        _count(self._hours, part, (local_hour + _MONDAY) % HOURS)
        _count(self._actions, part, columns["action"].astype(np.int64))
        if "mode" in columns:
            mode = columns["mode"].astype(np.int64)
            _count(self._modes, part, np.where(mode < 0, self._modes.shape[1] - 1, mode))
        self._add_steps(person, part, poi, time)
        returned = self._add_returns(person, part, poi, time)
        self._add_chosen(person, part, poi, returned)

    def _add_steps(self, person: Counts, part: Counts, poi: Counts, time: Counts) -> None:
        """Gaps and distances from the person's action before; a step belongs to the split of its second action."""
        second = 1 + np.flatnonzero(person[1:] == person[:-1])
        _count(self._gaps, part[second], np.searchsorted(GAP_SECONDS, time[second] - time[second - 1], side="right"))
        second = second[(poi[second] >= 0) & (poi[second - 1] >= 0)]
        same = poi[second] == poi[second - 1]
        self._same_place += np.bincount(part[second[same]], minlength=_NUM_PARTS)
        second = second[~same]
        km = haversine_km(*self._index.coordinates(poi[second - 1]), *self._index.coordinates(poi[second]))
        _count(self._distances, part[second], np.searchsorted(DISTANCE_KM, km, side="right"))

    def _add_returns(self, person: Counts, part: Counts, poi: Counts, time: Counts) -> Counts:
        """Returns and discoveries by day and by length of history; 1 return, 0 discovery, -1 place unknown."""
        known = np.flatnonzero(poi >= 0)
        _, first = np.unique(person[known] << 32 | poi[known], return_index=True)
        returned = np.where(poi >= 0, 1, -1)
        returned[known[first]] = 0
        earlier = np.arange(len(known)) - np.searchsorted(person[known], person[known])
        slots = np.stack([part[known], np.log2(earlier + 1).astype(np.int64), returned[known]])
        np.add.at(self._history, tuple(slots), 1)
        day = time[known] // _DAY
        missing = int(day.max(initial=-1)) + 1 - len(self._days)
        if missing > 0:
            self._days = np.concatenate([self._days, np.zeros((missing, *self._days.shape[1:]), np.int64)])
        np.add.at(self._days, (day, part[known], returned[known]), 1)
        return returned

    def _add_chosen(self, person: Counts, part: Counts, poi: Counts, returned: Counts) -> None:
        """What is counted of the chosen splits alone, as a person or a place may be in several."""
        chosen = np.isin(part, self._chosen)
        person, poi, returned = person[chosen], poi[chosen], returned[chosen]
        per_person = np.unique(person, return_counts=True)[1]
        self._active_users += len(per_person)
        self._activity += np.bincount(np.log2(per_person).astype(np.int64), minlength=_POWERS)
        places, visits = np.unique(poi[poi >= 0], return_counts=True)
        self.poi_visits[places] += visits.astype(np.uint32)
        category = self._index.categories(poi).astype(np.int64)
        category[category < 0] = self._num_categories
        category[poi < 0] = self._num_categories + 1
        num = self._num_categories + 2
        pairs = np.unique(person * num + category) % num
        for total, of in zip(self._categories, (category, category[returned == 1], pairs), strict=True):
            total += np.bincount(of, minlength=num)

    # ---------------------------------------------------------------- figures

    def block_visits(self) -> Counts:
        """Visits of the chosen splits in each block, shape (num_blocks,)."""
        visits = np.zeros(self._index.num_blocks, np.int64)
        for part in chunks(self._index.num_pois, _PLACES_AT_A_TIME):
            rows = part.start + np.flatnonzero(self.poi_visits[part])
            np.add.at(visits, self._index.encode(rows, rows=True)[0], self.poi_visits[rows])
        return visits

    def figures(self) -> dict[str, Any]:
        """All figures but those of single places and blocks, ready for JSON."""
        chosen = self._chosen
        num_events = int(self._num_events[chosen].sum())
        return {
            "num_events": num_events,
            "num_users": self._active_users,
            "splits": {name: self._split(part) for part, name in enumerate(SPLITS)},
            "hours_of_week": self._hours[chosen].sum(axis=0).tolist(),
            "distance_km": {
                "same_place": int(self._same_place[chosen].sum()),
                **_histogram(DISTANCE_KM, self._distances[chosen].sum(axis=0)),
            },
            "gap_seconds": _histogram(GAP_SECONDS, self._gaps[chosen].sum(axis=0)),
            "actions_per_user": {
                "mean": num_events / max(1, self._active_users),
                "at_least": (2 ** np.arange(_length(self._activity))).tolist(),
                "users": self._activity[: _length(self._activity)].tolist(),
            },
            "popularity": self._popularity(),
            "returns_by_time": self._periods(),
            "returns_by_history": self._histories(),
            "categories": self._category_rows(),
            "actions": self._actions[chosen].sum(axis=0).tolist(),
            "modes": self._modes[chosen].sum(axis=0).tolist() if self._modes.any() else None,
        }

    def _split(self, part: int) -> dict[str, Any]:
        if not self._num_events[part]:
            return {"actions": 0, "users": 0, "actions_at_unknown_pois": 0}
        discoveries, returns = self._history[part].sum(axis=0)
        return {
            "actions": int(self._num_events[part]),
            "users": int(self._users[part]),
            "actions_at_unknown_pois": int(self._unknown[part]),
            "first_time": int(self._first_time[part]),
            "last_time": int(self._last_time[part]),
            "return_share": _share(returns, discoveries + returns),
            "median_km": _histogram(DISTANCE_KM, self._distances[part])["median"],
            "median_gap_seconds": _histogram(GAP_SECONDS, self._gaps[part])["median"],
        }

    def _popularity(self) -> dict[str, Any]:
        ranked = np.sort(self.poi_visits)[::-1]
        visited = int(np.count_nonzero(ranked))
        ranks = np.unique(np.geomspace(1, max(1, visited), _RANKS).astype(np.int64))
        total = int(ranked.sum(dtype=np.int64))
        top = {share: max(1, int(visited * share)) for share in (0.01, 0.1)}
        return {
            "pois": len(ranked),
            "visited": visited,
            "visited_once": int(np.count_nonzero(ranked == 1)),
            "share_of_visits": {
                f"{share:.0%}": _share(ranked[:num].sum(dtype=np.int64), total) for share, num in top.items()
            },
            "rank": ranks.tolist() if visited else [],
            "visits": ranked[ranks - 1].tolist() if visited else [],
        }

    def _periods(self) -> dict[str, Any]:
        """Days summed to at most 72 periods of equal length; the last may be shorter."""
        days = self._days[:, self._chosen].sum(axis=1)
        used = np.flatnonzero(days.any(axis=1))
        if not len(used):
            return {"days": 1, "start": [], "discoveries": [], "returns": []}
        first, last = int(used[0]), int(used[-1])
        length = next(
            days for days in (1, 7, 28, 91, 364, 3640, 36400, 364000) if (last - first) // days < _MAX_PERIODS
        )
        starts = np.arange(first, last + 1, length)
        sums = np.add.reduceat(days, starts, axis=0)
        return {
            "days": length,
            "start": (starts * _DAY).tolist(),
            "discoveries": sums[:, 0].tolist(),
            "returns": sums[:, 1].tolist(),
        }

    def _histories(self) -> dict[str, Any]:
        counts = self._history[self._chosen].sum(axis=0)
        length = _length(counts.sum(axis=1))
        return {
            "earlier_at_least": (2 ** np.arange(length) - 1).tolist(),
            "discoveries": counts[:length, 0].tolist(),
            "returns": counts[:length, 1].tolist(),
        }

    def _category_rows(self) -> list[dict[str, Any]]:
        num = self._num_categories + 2
        places = np.zeros(num, np.int64)
        for part in chunks(self._index.num_pois, _PLACES_AT_A_TIME):
            category = self._index.categories(np.arange(part.start, part.stop))
            places += np.bincount(np.where(category < 0, self._num_categories, category), minlength=num)
        names = [*self._index.category_names, None, None]
        visits, returns, users = self._categories
        return [
            {
                "category": names[row],
                "known_place": bool(row < num - 1),
                "visits": int(visits[row]),
                "pois": int(places[row]),
                "users": int(users[row]),
                "return_share": _share(returns[row], visits[row]) if row < num - 1 else None,
            }
            for row in np.argsort(-visits, kind="stable")
            if visits[row] or places[row]
        ]


def _count(table: Counts, part: Counts, slot: Counts) -> None:
    """Add one to `table[part, slot]` for each pair."""
    num = table.shape[1]
    assert not slot.size or (slot.min() >= 0 and slot.max() < num)
    table += np.bincount(part * num + slot, minlength=table.size).reshape(table.shape)


def _share(some: Any, whole: Any) -> float | None:
    return float(some) / float(whole) if whole else None


def _length(counts: Counts) -> int:
    """Number of bins up to the last one that holds something."""
    return int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0


def _histogram(edges: NDArray[np.float64], counts: Counts) -> dict[str, Any]:
    """Counts below the first edge, between the edges and above the last, and the median read off the bins.

    The median assumes that a bin's values spread evenly on the logarithmic scale; it is null where there are none.
    """
    total, median = int(counts.sum()), None
    if total:
        before = np.concatenate([[0], np.cumsum(counts)])
        place = int(np.searchsorted(before, total / 2.0, side="left")) - 1
        low, high = edges[max(0, place - 1)], edges[min(place, len(edges) - 1)]
        inside = (total / 2.0 - before[place]) / counts[place]
        median = float(low * (high / low) ** inside)
    return {"edges": edges.tolist(), "counts": counts.tolist(), "median": median}
