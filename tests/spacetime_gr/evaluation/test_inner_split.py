import numpy as np
import pytest

from spacetime_gr.evaluation.events import TRAIN
from spacetime_gr.evaluation.inner_split import inner_instances, time_at, training_log
from spacetime_gr.evaluation.protocols import time_split
from tests.spacetime_gr.evaluation.logs import log_of, random_log


def test_windows_lie_inside_training() -> None:
    log = training_log(time_split(random_log(1)))
    assert (log.split == TRAIN).all()
    middle, end = time_at(log, 0.7), time_at(log, 1.0)
    instances = inner_instances(log, (middle, end), time_split)
    assert instances.target_time.min() >= middle
    assert instances.log.timestamp[instances.training].max() < middle
    assert instances.log.timestamp.max() == log.timestamp.max() == end - 1
    earlier = inner_instances(log, (time_at(log, 0.4), middle), time_split)
    assert earlier.log.timestamp.max() < middle


def test_samples_stay_in_order() -> None:
    log = training_log(time_split(random_log(1)))
    instances = inner_instances(log, (time_at(log, 0.5), time_at(log, 1.0)), time_split)
    few = instances.sample(10, np.random.default_rng(0))
    assert len(few) == 10
    assert (np.diff(few.target_time) >= 0).all()
    assert instances.sample(len(instances), np.random.default_rng(0)) is instances


def test_too_little_training_is_said() -> None:
    log = training_log(time_split(log_of([(1, 0, 0, "train"), (2, 1, 1, "train")])))
    with pytest.raises(ValueError, match=r"training part \(2 events\) is too small"):
        inner_instances(log, (time_at(log, 0.9), time_at(log, 1.0)), time_split)
