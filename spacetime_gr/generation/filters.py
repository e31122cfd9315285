"""Which places may be recommended to whom, and which blocks hold any of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.generation.polygons import Fence, fences
from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import haversine_km

PAIR_CHUNK = 1 << 20  # places looked at at a time while blocks are counted; bounds the memory
SECONDS_PER_DAY = 86_400
_ROUNDING_KM, _ROUNDING_DEGREES = 1e-4, 1e-6  # stored coordinates are rounded, perhaps out of their block


class Filters:
    """The filters of one call of `recommend`, for all of its histories.

    Args:
        index: the places.
        columns, offsets: the histories as flat columns (of which `poi_row` and `timestamp` are read).
        when: time of each request, unix seconds, shape (histories,).
        points: latitude and longitude of each request, shape (histories, 2), or None.
        categories, within_km, within, exclude_visited, min_novelty_days: as for `recommend`.

    Raises:
        ValueError: a category is unknown, a polygon is none, `within_km` or `min_novelty_days` is not above 0, or
            `within_km` stands without the place of each request.
    """

    def __init__(
        self,
        index: POIIndex,
        columns: Mapping[str, NDArray[Any]],
        offsets: NDArray[np.int64],
        when: NDArray[np.integer],
        points: NDArray[np.float64] | None,
        categories: Sequence[str] | None,
        within_km: float | None,
        within: Any,
        exclude_visited: bool,
        min_novelty_days: float | None,
    ) -> None:
        self.index, self.size = index, len(offsets) - 1
        self.wanted = None if categories is None else _wanted(index, categories)
        if within_km is not None and not within_km > 0:
            raise ValueError(f"within_km is {within_km}; expected a distance above 0")
        if within_km is not None and (points is None or np.isnan(points).any()):
            raise ValueError("within_km needs where=(latitude, longitude), for each history")
        self.points, self.within_km = points, within_km
        self.fences = None if within is None else fences(within, self.size)
        if min_novelty_days is not None and not min_novelty_days > 0:
            raise ValueError(f"min_novelty_days is {min_novelty_days}; expected a number of days above 0")
        history = np.repeat(np.arange(self.size), np.diff(offsets))
        known = columns["poi_row"] >= 0
        self.past = history[known], columns["poi_row"][known]
        self.actions_ago = (offsets[1:][history] - np.arange(len(history)))[known]
        days = np.inf if exclude_visited else 0.0 if min_novelty_days is None else min_novelty_days
        age = when[history] - columns["timestamp"]
        # Distinct (history, place) pairs in one number each, sorted.
        visited = history * index.num_pois + columns["poi_row"]
        self.excluded = np.unique(visited[known & (age <= days * SECONDS_PER_DAY) & (days > 0)])

    def allowed(self, history: NDArray[np.integer], rows: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Which candidates may be recommended.

        Args:
            history: number of the history of each line, shape (n,).
            rows: POI rows, -1 no place, shape (n, m).

        Returns:
            Shape (n, m).
        """
        allowed = (rows >= 0) & ~self.index.is_retired(rows)
        if self.wanted is not None:
            allowed &= self.wanted[self.index.categories(rows)]
        if len(self.excluded):
            allowed &= ~np.isin(history[:, None] * self.index.num_pois + rows, self.excluded)
        if self.within_km is None and self.fences is None:
            return allowed
        line, column = np.nonzero(allowed)
        latitude, longitude = self.index.coordinates(rows[line, column])
        owner = history[line]
        inside = np.ones(len(line), bool)
        if self.within_km is not None:
            assert self.points is not None
            here = self.points[owner]
            inside &= haversine_km(here[:, 0], here[:, 1], latitude, longitude) <= self.within_km
        for fence, members in self._distinct_fences():
            mine = members[owner]
            inside[mine] &= np.any([polygon.contains(latitude[mine], longitude[mine]) for polygon in fence], axis=0)
        allowed[line, column] = inside
        return allowed

    def counts(self) -> NDArray[np.int64]:
        """How many places each block holds for each history that may be recommended, shape (histories, num_blocks).

        What does not depend on the history is counted once. A geofence first drops the blocks whose bounds it does not
        touch; only the places of the others are looked at.
        """
        counts = np.tile(self._counts_for_all(), (self.size, 1))
        touched = self._touched()
        if touched is None:
            excluded_history, excluded_row = np.divmod(self.excluded, self.index.num_pois)
            counted = ~self.index.is_retired(excluded_row)
            if self.wanted is not None:
                counted &= self.wanted[self.index.categories(excluded_row)]
            blocks, _ = self.index.encode(excluded_row[counted], rows=True)
            np.subtract.at(counts, (excluded_history[counted], blocks), 1)
            return counts
        counts[~touched] = 0
        history, block = np.nonzero(counts)
        inner = np.arange(self.index.num_inner)
        step = max(1, PAIR_CHUNK // len(inner))
        for start in range(0, len(history), step):
            part = slice(start, start + step)
            rows = self.index.decode_rows(block[part, None], inner)
            counts[history[part], block[part]] = self.allowed(history[part], rows).sum(axis=1)
        return counts

    def past_blocks(self, max_actions: int | None) -> NDArray[np.bool_]:
        """Blocks of the allowed places among the last `max_actions` of each history, shape (histories, num_blocks)."""
        history, row = self.past
        keep = self.allowed(history, row[:, None])[:, 0]
        if max_actions is not None:
            keep &= self.actions_ago <= max_actions
        blocks, _ = self.index.encode(row[keep], rows=True)
        past = np.zeros((self.size, self.index.num_blocks), bool)
        past[history[keep], blocks] = True
        return past

    def _counts_for_all(self) -> NDArray[np.int64]:
        """Places of each block that are open and of a wanted category, shape (num_blocks,)."""
        index = self.index
        if self.wanted is None:
            retired, _ = index.encode(index.retired, rows=True)
            return index.block_sizes - np.bincount(retired, minlength=index.num_blocks)
        rows = np.flatnonzero(self.wanted[index.categories(np.arange(index.num_pois))])
        blocks, _ = index.encode(rows[~index.is_retired(rows)], rows=True)
        return np.bincount(blocks, minlength=index.num_blocks)

    def _touched(self) -> NDArray[np.bool_] | None:
        """Blocks of which some part may lie inside each history's geofence, shape (histories, num_blocks)."""
        if self.within_km is None and self.fences is None:
            return None
        touched = np.ones((self.size, self.index.num_blocks), bool)
        if self.within_km is not None:
            assert self.points is not None
            touched[:] = False
            for number, (latitude, longitude) in enumerate(self.points):
                touched[number, self.index.blocks_within(latitude, longitude, self.within_km + _ROUNDING_KM)] = True
        boxes = self.index.block_bounds() + np.array([-1, -1, 1, 1]) * _ROUNDING_DEGREES
        for fence, members in self._distinct_fences():
            touched[members] &= np.any([polygon.overlaps(boxes) for polygon in fence], axis=0)
        return touched

    def _distinct_fences(self) -> list[tuple[Fence, NDArray[np.bool_]]]:
        """Each fence once, with the histories that it holds for, shape (histories,)."""
        kinds = {id(fence): fence for fence in self.fences or ()}
        numbers = np.array([id(fence) for fence in self.fences or ()])
        return [(fence, numbers == number) for number, fence in kinds.items()]


def _wanted(index: POIIndex, categories: Sequence[str]) -> NDArray[np.bool_]:
    """Table by category id, of which the last entry stands for 'no category' (-1)."""
    unknown = [name for name in categories if name not in index.category_names]
    if unknown:
        raise ValueError(f"unknown categories {unknown}; the index knows {', '.join(index.category_names[:20])} …")
    wanted = np.zeros(len(index.category_names) + 1, bool)
    wanted[[index.category_names.index(name) for name in categories]] = True
    return wanted
