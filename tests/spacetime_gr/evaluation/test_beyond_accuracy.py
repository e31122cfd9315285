import numpy as np
import pytest

from spacetime_gr.evaluation import beyond_accuracy as module
from spacetime_gr.evaluation.beyond_accuracy import beyond_accuracy, calibration
from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.index.geometry import haversine_km
from tests.spacetime_gr.evaluation.logs import log_of

ROWS = [
    *((0, place, day, "train") for day, place in enumerate([0, 0, 0, 1])),
    (1, 2, 0.0, "train"),
    (0, 2, 10.0, "test"),
    (0, 0, 11.0, "test"),
]
CATALOGUE = Catalogue(
    latitude=np.array([40.0, 40.1, 40.3, 40.6]),
    longitude=np.zeros(4),
    category=np.array([0, 1, -1, 1]),
    categories=["bar", "café", "park"],
)


@pytest.fixture
def instances() -> Instances:
    return build_instances(time_split(log_of(ROWS, num_pois=4)))


def test_coverage_and_distances_by_hand(instances: Instances) -> None:
    lists = {"one": np.array([[0, 2], [0, 1]])}
    result = beyond_accuracy(instances, lists, {"one": np.array([2.0, 1.0])}, CATALOGUE)["one"]
    assert result["coverage"] == 3 / 4
    # The first target is asked for at place 1, the second at place 2.
    degree = float(haversine_km(40.0, 0.0, 41.0, 0.0))
    assert result["recommended_km"] == pytest.approx(0.2 * degree)  # .1, .2, .3, .2 degrees
    assert result["hit_km"] == pytest.approx(0.25 * degree)  # 1 to 2 and 2 to 0: .2 and .3 degrees
    alone = beyond_accuracy(instances, lists, {"one": np.array([3.0, 3.0])}, CATALOGUE)["one"]
    assert alone["hit_km"] is None


def test_calibration_by_hand(instances: Instances) -> None:
    """The history is 3/4 bar and 1/4 café (place 2 has no category); the lists are half and half, or all café."""
    p, q = np.array([0.75, 0.25]), np.array([0.5, 0.5])
    smoothed, middle = 0.99 * q + 0.01 * p, (p + q) / 2
    kl = (p * np.log(p / smoothed)).sum()
    js = ((p * np.log(p / middle)).sum() + (q * np.log(q / middle)).sum()) / 2
    found = calibration(instances, {"one": np.array([[0, 1], [0, 3]])}, CATALOGUE)["one"]
    assert found["calibration_kl"] == pytest.approx(kl)
    assert found["calibration_js"] == pytest.approx(js)
    only = calibration(instances, {"one": np.array([[1, 3], [2, 1]])}, CATALOGUE)["one"]
    assert only["calibration_kl"] == pytest.approx(0.75 * np.log(0.75 / 0.0075) + 0.25 * np.log(0.25 / 0.9925))


def test_chunks_do_not_matter(instances: Instances, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {"one": np.array([[0, 1], [1, 3]])}
    whole = calibration(instances, lists, CATALOGUE)
    monkeypatch.setattr(module, "_CELLS_PER_CHUNK", 1)
    assert calibration(instances, lists, CATALOGUE)["one"] == pytest.approx(whole["one"])


def test_unknown_categories_give_no_figure(instances: Instances) -> None:
    found = calibration(instances, {"one": np.array([[2, 2], [2, 2]])}, CATALOGUE)["one"]
    assert found == {"calibration_kl": None, "calibration_js": None}
    bare = Catalogue(CATALOGUE.latitude, CATALOGUE.longitude)
    result = beyond_accuracy(instances, {"one": np.array([[0], [1]])}, {"one": np.ones(2)}, bare)["one"]
    assert result["calibration_js"] is None
    assert result["recommended_km"] is not None
