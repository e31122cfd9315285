"""Small event logs."""

from collections.abc import Sequence

import numpy as np

from spacetime_gr.evaluation.events import SPLITS, EventLog

DAY = 86_400


def log_of(
    rows: Sequence[tuple[int, int, float, str]], num_pois: int = 6, trajectory: list[int] | None = None
) -> EventLog:
    """A log of (user, place, time in days, split) rows."""
    user, place, days, split = zip(*rows, strict=True)
    return EventLog.from_arrays(
        user=np.array(user),
        poi_row=np.array(place),
        timestamp=(np.array(days) * DAY).astype(np.int64),
        split=np.array([SPLITS.index(name) for name in split]),
        num_pois=num_pois,
        trajectory=None if trajectory is None else np.array(trajectory),
    )


def random_log(seed: int, num_events: int = 400, num_users: int = 7, num_pois: int = 12) -> EventLog:
    """Users who return often, cut in time at 60 %; with shared seconds and places unknown in training."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, num_users, num_events)
    favourite = rng.integers(0, num_pois, (num_users, 4))
    returned = favourite[user, rng.integers(0, 4, num_events)]
    place = np.where(rng.random(num_events) < 0.7, returned, rng.integers(-1, num_pois, num_events))
    time = np.sort(rng.integers(0, 40, num_events)) * 9_000
    split = np.where(time < np.quantile(time, 0.6), 0, np.where(time < np.quantile(time, 0.7), 1, 2))
    return EventLog.from_arrays(
        user=user,
        poi_row=place,
        timestamp=time,
        split=split,
        num_pois=num_pois,
        tz_offset_minutes=np.full(num_events, 90),
    )
