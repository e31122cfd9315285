"""Visitors along the stream against a loop over events, and what must not move them."""

from dataclasses import replace

import numpy as np
import pytest

from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.evaluation.visitors import StreamVisitors
from tests.spacetime_gr.evaluation.logs import DAY, random_log

DAYS = 0.5


def instances_of(seed: int, num_pois: int = 12) -> Instances:
    return build_instances(time_split(random_log(seed=seed, num_pois=num_pois)))


@pytest.mark.parametrize("blind", [False, True])
def test_counts_by_hand(blind: bool) -> None:
    instances = instances_of(3)
    log = instances.log
    found = StreamVisitors(instances, DAYS, blind).renewals(instances)
    assert sorted(np.concatenate([rows for rows, _ in found]).tolist()) == list(range(len(instances)))
    assert len(found) > 2
    events, offsets = instances.history()
    for rows, visitors in found:
        for row in rows:
            moment = int(instances.target_time[row])
            if blind:
                moment = int(log.timestamp[events[offsets[row + 1] - 1]])
            renewed = moment - moment % int(DAYS * DAY)
            people = {
                (int(log.user[event]), int(log.poi_row[event]))
                for event in range(len(log))
                if log.poi_row[event] >= 0 and (instances.training[event] or log.timestamp[event] < renewed)
            }
            assert visitors.tolist() == [sum(place == one for _, place in people) for one in range(log.num_pois)]


def test_nothing_from_the_renewal_on_is_counted() -> None:
    instances = instances_of(4)
    log = instances.log
    chosen = instances.take(slice(len(instances) // 2, len(instances) // 2 + 1))
    late = log.timestamp >= chosen.target_time[0] // int(DAYS * DAY) * int(DAYS * DAY)
    assert late.sum() > 20
    moved = replace(chosen, log=replace(log, poi_row=np.where(late, (log.poi_row + 5) % 12, log.poi_row)))
    (_, before), (_, after) = (StreamVisitors(one, DAYS, False).renewals(one)[0] for one in (chosen, moved))
    assert before.tolist() == after.tolist()
    (_, whole) = StreamVisitors(chosen, 1e-4, False).renewals(instances)[-1]
    assert whole.sum() > before.sum()
