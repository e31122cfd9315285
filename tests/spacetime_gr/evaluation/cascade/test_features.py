from dataclasses import replace

import numpy as np
import pytest

from spacetime_gr.evaluation.cascade.features import PairFeatures, fine_features
from spacetime_gr.evaluation.cascade.known import KnownEvents
from spacetime_gr.evaluation.cascade.requests import Requests
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.instances import KNOWLEDGE, Instances, build_instances
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.index.geometry import haversine_km
from tests.spacetime_gr.evaluation.cascade.extra import catalogue_of, needs_extra
from tests.spacetime_gr.evaluation.logs import log_of, random_log

pytestmark = needs_extra
NUM_POIS = 12


def features(instances: Instances, timed: bool) -> np.ndarray:
    """All features of every place for every instance: (n, num_pois, features)."""
    from spacetime_gr.evaluation.cascade.embedding import PlaceEmbedding

    num_pois = instances.log.num_pois
    factors = np.random.default_rng(0).normal(size=(num_pois, 4))
    requests = Requests(instances, KnownEvents(instances, catalogue_of(num_pois)), timed)
    row, poi = np.divmod(np.arange(len(instances) * num_pois), num_pois)
    matrix = PairFeatures(requests, row, poi, PlaceEmbedding(factors)).matrix(fine_features(timed))
    return matrix.reshape(len(instances), num_pois, -1)


def instances_of(log: EventLog, knowledge: str = "stream") -> Instances:
    return build_instances(time_split(log), knowledge)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_future_changes_nothing(seed: int, timed: bool) -> None:
    """Other places from a moment on, the targets' own included: no feature of a request up to then moves."""
    instances = instances_of(random_log(seed, num_pois=NUM_POIS))
    log, rng = instances.log, np.random.default_rng(seed)
    moment = int(np.median(instances.target_time))
    later = log.timestamp >= moment
    changed = np.where(later, (log.poi_row + rng.integers(1, NUM_POIS, len(log))) % NUM_POIS, log.poi_row)
    asked = instances.target_time <= moment
    before = features(instances.take(asked), timed)
    after = features(replace(instances, log=replace(log, poi_row=changed)).take(asked), timed)
    np.testing.assert_array_equal(before, after)
    assert not np.array_equal(
        features(instances.take(~asked), timed),
        features(replace(instances, log=replace(log, poi_row=changed)).take(~asked), timed),
        equal_nan=True,
    )


@pytest.mark.parametrize("timed", [True, False])
def test_blind_features_do_not_know_the_time_of_the_request(timed: bool) -> None:
    instances = instances_of(random_log(4, num_pois=NUM_POIS))
    last = instances.take(np.array([len(instances) - 1]))  # nothing of anyone lies between it and a later moment
    log, target = last.log, last.target[0]
    timestamp, offset = log.timestamp.copy(), log.tz_offset_minutes.copy()
    timestamp[target] += 5 * 3600
    offset[target] += 60
    shifted = replace(last, log=replace(log, timestamp=timestamp, tz_offset_minutes=offset))
    same = np.array_equal(features(last, timed), features(shifted, timed), equal_nan=True)
    assert same != timed


@pytest.mark.parametrize("knowledge", KNOWLEDGE)
def test_counts_are_of_what_may_be_known(knowledge: str) -> None:
    """Under `same` the held-out events of others are not known, nor the user's own outside the trajectory."""
    rows = [
        *((1, 0, 0.0, "train"), (1, 1, 0.2, "train"), (2, 1, 0.3, "train"), (2, 2, 0.5, "train")),
        *((2, 1, 3.0, "test"), (2, 2, 3.1, "test"), (1, 2, 3.2, "test"), (1, 1, 5.0, "test"), (1, 2, 5.2, "test")),
    ]
    instances = instances_of(log_of(rows, num_pois=4), knowledge)
    last = instances.take(np.array([len(instances) - 1]))  # user 1 at day 5.2, last at place 1
    matrix = dict(zip(fine_features(True), features(last, True)[0].T, strict=True))
    stream = knowledge == "stream"
    np.testing.assert_allclose(np.expm1(matrix["own_visits"]), [1, 2, 1 if stream else 0, 0], rtol=1e-6)
    np.testing.assert_allclose(np.expm1(matrix["people"]), [1, 2, 2 if stream else 1, 0], rtol=1e-6)
    # Steps from place 1: user 2 went to 2 in training; along the stream again, and user 1 went to 2 as well.
    np.testing.assert_allclose(np.expm1(matrix["steps_from_last"]), [0, 0, 3 if stream else 1, 0], rtol=1e-6)
    # A step joins two consecutive known events, as in the Markov counter: under `same` place 1 is followed by itself.
    np.testing.assert_allclose(matrix["own_step_share"], [0, 0, 1, 0] if stream else [0, 1, 0, 0])
    np.testing.assert_array_equal(matrix["is_new"], [0, 0, not stream, 1])
    np.testing.assert_allclose(matrix["own_recency_days"][:2], [5.2, 0.2], rtol=1e-4)
    np.testing.assert_array_equal(matrix["is_last"], [0, 1, 0, 0])
    place = catalogue_of(4)
    km = haversine_km(place.latitude[1], place.longitude[1], place.latitude, place.longitude)
    np.testing.assert_allclose(np.expm1(matrix["km_from_last"]), km, atol=1e-4)
    np.testing.assert_allclose(matrix["gap_hours"], 4.8, rtol=1e-5)


def test_a_request_without_a_history_has_features() -> None:
    rows = [(1, 0, 1.0, "train"), (2, 1, 2.0, "train"), (1, 1, 1.0, "test")]
    instances = build_instances(time_split(log_of(rows, num_pois=3)))
    assert instances.history_lengths.tolist() == [0]
    matrix = dict(zip(fine_features(True), features(instances, True)[0].T, strict=True))
    assert np.isnan(matrix["km_from_last"]).all()
    assert np.isnan(matrix["gap_hours"]).all()
    assert matrix["is_new"].tolist() == [1, 1, 1]
    assert matrix["explore_rate"].tolist() == [1, 1, 1]
