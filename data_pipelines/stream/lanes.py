"""Lanes: each row of the global batch has its own endless order of units, and a cursor in it.

The units of epoch 0, 1, 2, ... are laid end to end, each epoch in its own seeded order, and dealt out like cards:
lane i gets the units at i, i + num_lanes, i + 2 * num_lanes, ... So every unit is used exactly once per epoch, and a
lane never runs dry, even where there are more lanes than units. Each corpus has such an order of its own, and a lane a
cursor in each corpus and view.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipelines.stream.hashing import UNIT_ORDER, permutation
from data_pipelines.stream.rows import VIEWS, UnitRows, View

logger = logging.getLogger(__name__)

# What a lane has a cursor in: a corpus (by its number) in one view.
Walk = tuple[int, View]

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
    """Makes the rows of the units of one corpus, ahead of time where there is a pool of threads.

    Args:
        make: the rows of (view, epoch, unit).
        num_units: units of the corpus.
        what: the corpus, for messages.
        epochs_alike: whether a unit without rows in one epoch has none in any other.
    """

    def __init__(
        self,
        make: Callable[[View, int, int], UnitRows],
        num_units: int,
        what: str,
        pool: ThreadPoolExecutor | None = None,
        epochs_alike: bool = True,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._make = make
        self._num_units = num_units
        self._what = what
        self._pool = pool
        self._epochs_alike = epochs_alike
        self._ahead: dict[tuple[View, int, int], Future[UnitRows]] = {}
        self._empty: dict[View, set[int]] = {view: set() for view in VIEWS}
        self._fruitful: set[View] = set()

    def request(self, view: View, epoch: int, unit: int) -> None:
        """Starts making a unit in a thread (does nothing without a pool)."""
        key = (view, epoch, unit)
        if self._pool is not None and key not in self._ahead and unit not in self._empty[view]:
            self._ahead[key] = self._pool.submit(self._make, *key)

    def take(self, view: View, epoch: int, unit: int) -> UnitRows | None:
        """The rows of a unit; None if it has none."""
        future = self._ahead.pop((view, epoch, unit), None)
        if unit in self._empty[view]:
            return None
        rows = future.result() if future is not None else self._make(view, epoch, unit)
        self.counts.update(rows.counts)
        if rows.num_rows == 0:
            if self._epochs_alike:
                self._empty[view].add(unit)
            return None
        self._fruitful.add(view)
        return rows

    def require_rows(self, view: View) -> None:
        """Raises ValueError if no unit of the corpus gives a row in this view; stops at the first that does."""
        if view in self._fruitful:
            return
        logger.warning("%s: no row so far; looking through all %d units", self._what, self._num_units)
        for unit in range(self._num_units):
            if self.take(view, 0, unit) is not None:
                return
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.counts.items()) if count)
        raise ValueError(
            f"all {self._num_units} units of {self._what} were read and not one row is left ({reasons}); relax the "
            "settings of cleaning that these counts name, or check that the POIs are known"
        )

    def forget(self) -> None:
        """Drops what was made ahead."""
        for future in self._ahead.values():
            future.cancel()
        self._ahead.clear()

    def detach(self) -> None:
        """Works without the pool from now on."""
        self.forget()
        self._pool = None


@dataclass(frozen=True)
class Source:
    """What a lane reads one corpus through."""

    order: UnitOrder
    feed: UnitFeed


class Lane:
    """One row of the global batch. Its only state is one cursor per corpus and view that was used."""

    def __init__(self, lane: int, sources: Sequence[Source], units_ahead: int) -> None:
        self.lane = lane
        self.cursors: dict[Walk, Cursor] = {}
        self.last: tuple[Walk, Cursor] | None = None  # the row that was given last
        self._sources = sources
        self._units_ahead = units_ahead
        self._loaded: dict[Walk, UnitRows] = {}

    def prepare(self, walk: Walk) -> None:
        """Lets the workers start on what `next_row` will need."""
        if walk not in self._loaded:
            self._request(walk, self._cursor(walk))

    def next_row(self, walk: Walk) -> tuple[UnitRows, int]:
        """The next row of a walk: the rows of its unit, and its number. Raises ValueError if the corpus has none."""
        corpus, view = walk
        order, feed = self._sources[corpus].order, self._sources[corpus].feed
        cursor = self._cursor(walk)
        rows = self._loaded.get(walk)
        num_without_rows = 0
        while rows is None or cursor.row >= rows.num_rows:
            if rows is not None:
                cursor = order.following(cursor)
            rows = feed.take(view, cursor.epoch, order.unit(cursor))
            if rows is not None:
                self._request_following(walk, cursor)
                continue
            cursor = order.following(cursor)
            num_without_rows += 1
            if num_without_rows == min(order.num_units, _PATIENCE):
                feed.require_rows(view)
        self._loaded[walk] = rows
        self.cursors[walk] = Cursor(cursor.epoch, cursor.position, cursor.row + 1)
        self.last = (walk, cursor)
        return rows, cursor.row

    def restore(self, cursors: Mapping[Walk, Cursor]) -> None:
        """Moves the lane to the given cursors."""
        self.cursors = dict(cursors)
        self.last = None
        self._loaded.clear()

    def _cursor(self, walk: Walk) -> Cursor:
        return self.cursors.get(walk, self._sources[walk[0]].order.first(self.lane))

    def _request(self, walk: Walk, cursor: Cursor) -> None:
        source = self._sources[walk[0]]
        source.feed.request(walk[1], cursor.epoch, source.order.unit(cursor))

    def _request_following(self, walk: Walk, cursor: Cursor) -> None:
        for _ in range(self._units_ahead):
            cursor = self._sources[walk[0]].order.following(cursor)
            self._request(walk, cursor)
