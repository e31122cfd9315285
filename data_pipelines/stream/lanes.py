"""Lanes: each row of the global batch has its own endless order of units, and a cursor in it.

The units of epoch 0, 1, 2, ... are laid end to end, each epoch in its own seeded order, and dealt out like cards:
lane i gets the units at i, i + num_lanes, i + 2 * num_lanes, ... So every unit is used exactly once per epoch, and a
lane never runs dry, even where there are more lanes than units.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from data_pipelines.stream.hashing import UNIT_ORDER, permutation
from data_pipelines.stream.rows import VIEWS, UnitRows, View

logger = logging.getLogger(__name__)

# So many units without a row make a lane ask whether any unit has one.
_PATIENCE = 32


@dataclass(frozen=True)
class Cursor:
    """Where a lane stands in one view: the next row is `row` of the unit at `position` in the order of `epoch`."""

    epoch: int
    position: int
    row: int


class UnitOrder:
    """The order of units: a pure function of (seed, epoch)."""

    def __init__(self, num_units: int, num_lanes: int, seed: int) -> None:
        self.num_units = num_units
        self.num_lanes = num_lanes
        self.seed = seed
        self._epoch_order = lru_cache(maxsize=4)(self._make_epoch_order)

    def unit(self, cursor: Cursor) -> int:
        """The unit under the cursor."""
        return int(self._epoch_order(cursor.epoch)[cursor.position])

    def first(self, lane: int) -> Cursor:
        """Where lane `lane` starts."""
        return Cursor(lane // self.num_units, lane % self.num_units, 0)

    def following(self, cursor: Cursor) -> Cursor:
        """The first row of the lane's next unit."""
        position = cursor.position + self.num_lanes
        return Cursor(cursor.epoch + position // self.num_units, position % self.num_units, 0)

    def _make_epoch_order(self, epoch: int) -> np.ndarray:
        return permutation((self.seed, UNIT_ORDER, epoch), self.num_units)


class UnitFeed:
    """Makes the rows of units, ahead of time in threads if there are workers. The result does not depend on them."""

    def __init__(self, make: Callable[[View, int, int], UnitRows], num_units: int, num_workers: int) -> None:
        self.counts: Counter[str] = Counter()
        self._make = make
        self._num_units = num_units
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="units") if num_workers else None
        self._ahead: dict[tuple[View, int, int], Future[UnitRows]] = {}
        self._empty: dict[View, set[int]] = {view: set() for view in VIEWS}
        self._fruitful: set[View] = set()

    def request(self, view: View, epoch: int, unit: int) -> None:
        """Starts making a unit in a thread (does nothing without workers)."""
        key = (view, epoch, unit)
        if self._pool is not None and key not in self._ahead and unit not in self._empty[view]:
            self._ahead[key] = self._pool.submit(self._make, *key)

    def take(self, view: View, epoch: int, unit: int) -> UnitRows | None:
        """The rows of a unit; None if it has none. Whether a unit has rows does not depend on the epoch."""
        future = self._ahead.pop((view, epoch, unit), None)
        if unit in self._empty[view]:
            return None
        rows = future.result() if future is not None else self._make(view, epoch, unit)
        self.counts.update(rows.counts)
        if rows.num_rows == 0:
            self._empty[view].add(unit)
            return None
        self._fruitful.add(view)
        return rows

    def require_rows(self, view: View) -> None:
        """Raises ValueError if no unit of the whole split gives a row in this view; stops at the first that does."""
        if view in self._fruitful:
            return
        logger.warning("units without a single row so far; looking through all %d units", self._num_units)
        for unit in range(self._num_units):
            if self.take(view, 0, unit) is not None:
                return
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()) if count)
        raise ValueError(
            f"all {self._num_units} units of the split were read and not one row is left ({reasons}); relax "
            "cleaning.min_actions, cleaning.min_distinct_ratio, cleaning.min_entropy or the functional rules "
            "(cleaning.functional_actions, functional_categories, num_anchors), or check that the POIs are known"
        )

    def forget(self) -> None:
        """Drops what was made ahead."""
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()

    def close(self) -> None:
        """Stops the threads; the feed then works without them."""
        self.forget()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None


class Lane:
    """One row of the global batch. Its only state is one cursor per view that was used."""

    def __init__(self, lane: int, order: UnitOrder, feed: UnitFeed, units_ahead: int) -> None:
        self.lane = lane
        self.cursors: dict[View, Cursor] = {}
        self._order = order
        self._feed = feed
        self._units_ahead = units_ahead
        self._loaded: dict[View, UnitRows] = {}

    def prepare(self, view: View) -> None:
        """Lets the workers start on what `next_row` will need."""
        if view not in self._loaded:
            self._request(view, self._cursor(view))

    def next_row(self, view: View) -> dict[str, np.ndarray]:
        """The next row of a view: field -> (row_length,). Raises ValueError if the split has no rows at all."""
        cursor = self._cursor(view)
        rows = self._loaded.get(view)
        num_without_rows = 0
        while rows is None or cursor.row >= rows.num_rows:
            if rows is not None:
                cursor = self._order.following(cursor)
            rows = self._feed.take(view, cursor.epoch, self._order.unit(cursor))
            if rows is not None:
                self._request_following(view, cursor)
                continue
            cursor = self._order.following(cursor)
            num_without_rows += 1
            if num_without_rows == min(self._order.num_units, _PATIENCE):
                self._feed.require_rows(view)
        self._loaded[view] = rows
        self.cursors[view] = replace(cursor, row=cursor.row + 1)
        return {name: values[cursor.row] for name, values in rows.fields.items()}

    def restore(self, cursors: Mapping[View, Cursor]) -> None:
        """Moves the lane to the given cursors."""
        self.cursors = dict(cursors)
        self._loaded.clear()

    def _cursor(self, view: View) -> Cursor:
        return self.cursors.get(view, self._order.first(self.lane))

    def _request(self, view: View, cursor: Cursor) -> None:
        self._feed.request(view, cursor.epoch, self._order.unit(cursor))

    def _request_following(self, view: View, cursor: Cursor) -> None:
        for _ in range(self._units_ahead):
            cursor = self._order.following(cursor)
            self._request(view, cursor)
