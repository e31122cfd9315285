"""Every held-out event of a user and a place that training knows: the rule for one's own data.

`time_split`: all events of the test split. `last_per_user`: of these, the last of each user (the leave-one-out of
sequential recommendation, but behind a split by time, so that nothing later than a target was trained on).
"""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.events import TEST, TRAIN, EventLog
from spacetime_gr.evaluation.instances import Targets


def time_split(log: EventLog) -> Targets:
    """All test events of known users at known places."""
    known_user, known_poi = log.known(log.split == TRAIN)
    log = log.select((log.poi_row >= 0) & known_poi[log.poi_row])
    index = np.flatnonzero((log.split == TEST) & known_user[log.user])
    return Targets(log=log, index=index, training=log.split == TRAIN)


def last_per_user(log: EventLog) -> Targets:
    """The last of these events of each user."""
    targets = time_split(log)
    user = targets.log.user[targets.index]
    last = np.ones(len(user), bool)
    last[:-1] = np.diff(user) != 0
    return Targets(log=targets.log, index=targets.index[last], training=targets.training)
