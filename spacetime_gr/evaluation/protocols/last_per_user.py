"""The rule of one target per user: of the events that `time_split` predicts, the last of each user.

It is the leave-one-out of sequential recommendation, but behind a split by time: nothing later than a target was
trained on. Every user counts once, however active he is.
"""

from __future__ import annotations

import numpy as np

from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.instances import Targets
from spacetime_gr.evaluation.protocols.time_split import time_split


def last_per_user(log: EventLog) -> Targets:
    """The last test event of each known user at a known place."""
    targets = time_split(log)
    user = targets.log.user[targets.index]
    last = np.ones(len(user), bool)
    last[:-1] = np.diff(user) != 0
    return Targets(log=targets.log, index=targets.index[last], training=targets.training)
