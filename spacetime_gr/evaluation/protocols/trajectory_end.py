"""The rule of GETNext, and of less-is-more on its own split: the last step of each held-out trajectory.

1. Places not in training are removed from the held-out trajectories.
2. A trajectory counts if its user is in training and at least 3 of its steps remain (2 inputs and the target).
3. Its last remaining step is the target, ranked among all places of training.

GETNext's files (`getnext`): the trajectories of the test file, read by itself: one that began in the validation file
has only the steps in the test file. The validation file is history only.
Less-is-more (`lessismore`): training is the time block T0, and the trajectories of all later blocks are held out.
"""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.events import TEST, TRAIN, EventLog
from spacetime_gr.evaluation.instances import Targets

MIN_STEPS = 3


def getnext(log: EventLog) -> Targets:
    """Targets in the test split only."""
    return _last_known_steps(log, log.split == TEST)


def lessismore(log: EventLog) -> Targets:
    """Targets in every block after the training block."""
    return _last_known_steps(log, log.split != TRAIN)


def _last_known_steps(log: EventLog, held_out: np.ndarray) -> Targets:
    known_user, known_poi = log.known(log.split == TRAIN)
    keep = (log.poi_row >= 0) & known_poi[log.poi_row]
    log, held_out = log.cut_at_splits().select(keep), held_out[keep]
    first, end = log.trajectory_bounds()
    position = np.arange(len(log))
    is_target = held_out & known_user[log.user] & (position == end - 1) & (end - first >= MIN_STEPS)
    return Targets(log=log, index=np.flatnonzero(is_target), training=log.split == TRAIN)
