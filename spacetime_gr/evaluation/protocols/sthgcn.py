"""The rule of STHGCN (and of LLM4POI after it), on files whose places and users have been filtered already.

1. A trajectory ends where the gap to the user's next check-in exceeds 24 h, or is the source's own.
2. Isolated check-ins (more than 24 h from both neighbours) are dropped: exactly the trajectories of one step.
3. The training samples are the training check-ins that are not the first of their trajectory. A user or a place is
   known if it occurs in them. (Their code drops the first check-ins before it asks what is known.)
4. The target is the last check-in of each trajectory, whichever split the earlier ones are in; it counts for
   the split of its own. It is dropped if its user or its place is not known.
"""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.events import TEST, TRAIN, EventLog
from spacetime_gr.evaluation.instances import Targets


def sthgcn(log: EventLog, split: int = TEST) -> Targets:
    """Targets in `split`."""
    first, end = log.trajectory_bounds()
    log = log.select(end - first > 1)
    first, end = log.trajectory_bounds()
    position = np.arange(len(log))
    known_user, known_poi = log.known(training_samples(log))
    is_target = (log.split == split) & (position == end - 1)
    is_target &= known_user[log.user] & (log.poi_row >= 0) & known_poi[log.poi_row]
    # A place that is unknown in training cannot be an input either; it did hold its trajectory together.
    keep = log.poi_row >= 0
    log = log.select(keep)
    return Targets(log=log, index=np.flatnonzero(is_target[keep]), training=log.split == TRAIN)


def training_samples(log: EventLog) -> np.ndarray:
    """(N,) bool: training check-ins that are not the first of their trajectory."""
    return (log.split == TRAIN) & (np.arange(len(log)) > log.trajectory_bounds()[0])
