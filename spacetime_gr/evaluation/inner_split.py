"""A validation part cut from the training part, for baselines that have something to tune.

Not every public split has a validation part, and where there is one a protocol may predict it (the later time blocks of
less-is-more). What is cut from training is always free to use.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from spacetime_gr.evaluation.events import TEST, TRAIN, EventLog
from spacetime_gr.evaluation.instances import Instances, Targets, build_instances
from spacetime_gr.evaluation.protocols import Protocol


def training_log(targets: Targets) -> EventLog:
    """The training events of a protocol, and nothing else.

    Raises:
        ValueError: there are none.
    """
    if not targets.training.any():
        raise ValueError(f"the protocol leaves no training events among {len(targets.log)}; check the split")
    return targets.log.select(targets.training)


def time_at(log: EventLog, share: float) -> int:
    """The second before which so large a share of the events lies; 1 gives the second after the last event."""
    if share >= 1:
        return int(log.timestamp.max()) + 1
    return int(np.quantile(log.timestamp, share))


def inner_instances(log: EventLog, window: tuple[int, int], rule: Protocol) -> Instances:
    """Instances at events of a window of time, from `window[0]` on and before `window[1]`, chosen by a protocol's rule
    as if the window were its test part and all before it its training part.

    Raises:
        ValueError: no target is left in the window.
    """
    past = log.select(log.timestamp < window[1])
    past = replace(past, split=np.where(past.timestamp < window[0], TRAIN, TEST).astype(np.int8))
    try:
        return build_instances(rule(past))
    except ValueError as error:
        raise ValueError(
            f"the training part ({len(log):,} events) is too small to cut a validation part from: {error}"
        ) from error
