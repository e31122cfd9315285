"""Every event of the test split whose user and place training knows: the rule for one's own data."""

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
