import numpy as np

from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.instances import Instances, Targets, build_instances
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.evaluation.slices import Slicing, breakdown, slicings
from tests.spacetime_gr.evaluation.logs import log_of

# Training visits of places 0 to 3: 5, 3, 1, 1; of users 0 to 2: 7, 2, 1.
ROWS = [
    *((0, place, day, "train") for day, place in enumerate([0, 0, 0, 1, 1, 2, 3])),
    *((1, place, day, "train") for day, place in enumerate([0, 1])),
    (2, 0, 0.0, "train"),
    (0, 0, 10.0, "test"),
    (0, 0, 10.5, "test"),
    (1, 2, 11.0, "test"),
    (1, 2, 12.0, "test"),
    (2, 3, 13.25, "test"),
]
CATALOGUE = Catalogue(
    latitude=np.array([40.0, 40.0, 40.01, 40.2]),
    longitude=np.zeros(4),
    category=np.array([0, 1, -1, 1]),
    categories=["bar", "café"],
    modes=["local", "in_trip"],
)


def grouped(instances: Instances, catalogue: Catalogue | None = CATALOGUE) -> dict[str, list[str | None]]:
    """Label of each target by slicing."""
    found = slicings(instances, instances.is_discovery(), catalogue)
    return {s.name: [s.labels[code] if code >= 0 else None for code in s.code] for s in found}


def test_groups_by_hand() -> None:
    groups = grouped(build_instances(time_split(log_of(ROWS, num_pois=4))))
    # The busiest place holds visits 0 to 50 % (begins below 20 %), the next 50 to 80 %, the last two the rest.
    assert groups["popularity"] == ["head", "head", "tail", "tail", "tail"]
    assert groups["seen"] == ["in training", "in training", "never", "since training", "never"]
    assert groups["activity"] == ["high", "high", "middle", "middle", "low"]
    assert groups["hour"] == ["00", "12", "00", "00", "06"]
    # From place 3 (22 km), from 0 itself, from 1 (1.1 km), from 2 itself, from 0 (22 km).
    assert groups["distance"] == ["16-32 km", "same place", "1-2 km", "same place", "16-32 km"]
    assert groups["category"] == ["bar", "bar", None, None, "café"]
    assert "mode" not in groups


def test_without_a_catalogue_what_needs_none_is_left() -> None:
    groups = grouped(build_instances(time_split(log_of(ROWS, num_pois=4))), catalogue=None)
    assert list(groups) == ["popularity", "seen", "activity", "hour"]


def test_cold_places_modes_and_users_without_history() -> None:
    log = EventLog.from_arrays(
        user=np.array([0, 0, 1]),
        poi_row=np.array([0, 1, 1]),
        timestamp=np.array([0, 50, 60]),
        split=np.array([0, 2, 2]),
        num_pois=4,
        mode=np.array([0, 1, 0]),
    )
    groups = grouped(build_instances(Targets(log=log, index=np.array([1, 2]), training=log.split == 0)))
    assert groups["popularity"] == ["cold", "cold"]
    assert groups["mode"] == ["in_trip", "local"]
    assert groups["distance"] == ["under 0.5 km", None]


def test_returns_and_discoveries_are_apart_in_every_group() -> None:
    slicing = Slicing("half", "", ["a", "b", "empty"], np.array([0, 0, 0, 1, -1]))
    ranks = {"one": np.array([1.0, 20.0, 2.0, 1.0, 1.0])}
    discovery = np.array([False, False, True, True, False])
    groups = breakdown([slicing], ranks, discovery)["half"]["groups"]
    a, b, empty = groups["a"], groups["b"], groups["empty"]
    assert (a["num_targets"], a["num_returns"], a["num_discoveries"]) == (3, 2, 1)
    assert a["systems"]["one"]["all"] == {"hr@1": 1 / 3, "hr@10": 2 / 3, "mrr": (1 + 1 / 20 + 1 / 2) / 3}
    assert a["systems"]["one"]["return"]["hr@10"] == 0.5
    assert a["systems"]["one"]["discovery"] == {"hr@1": 0.0, "hr@10": 1.0, "mrr": 0.5}
    assert b["systems"]["one"]["return"] == {"hr@1": None, "hr@10": None, "mrr": None}
    assert empty["num_targets"] == 0
