"""Splits and selection: exact fractions, and nothing of later parts in training."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.prepared import PreparedFolder

from .cities import event_table, write

KEY = "k"


def prepared(
    table: pa.Table, folder: Path, options: PrepareOptions | None = None, pois: pa.Table | None = None
) -> PreparedFolder:
    write(table, folder / "in")
    if pois is not None:
        write(pois, folder / "in", "pois.parquet")
    return prepare_folder(folder / "in", "tables", folder / "out", options, key=KEY, overwrite=True).folder


def times(folder: PreparedFolder, split: str) -> np.ndarray:
    return folder.read(split, ["timestamp"])["timestamp"].combine_chunks().flatten().to_numpy()


def test_global_time_order_is_exact(tmp_path: Path) -> None:
    table = event_table(num_events=1000)
    folder = prepared(table, tmp_path)
    parts = [times(folder, split) for split in ("train", "validation", "test")]
    every = np.sort(np.concatenate(parts))
    assert parts[0].max() < parts[1].min() <= parts[1].max() < parts[2].min()
    boundaries = folder.manifest["split"]
    assert boundaries["train_end"] == every[int(0.8 * len(every))] == parts[1].min()
    assert boundaries["validation_end"] == every[int(0.9 * len(every))] == parts[2].min()


def test_fractions_may_leave_parts_empty(tmp_path: Path) -> None:
    folder = prepared(event_table(), tmp_path, PrepareOptions(train_fraction=1.0, validation_fraction=0.0))
    assert [len(times(folder, split)) for split in ("validation", "test")] == [0, 0]
    assert len(times(folder, "train")) == folder.manifest["counts"]["actions"]


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000))
def test_training_depends_on_training_only(tmp_path: Path, seed: int) -> None:
    """Later events may say anything, as long as their times stay: training, POI list and action ids do not move."""
    rng = np.random.default_rng(seed)
    table = event_table(seed).sort_by("timestamp")
    columns = {name: table[name].to_numpy(zero_copy_only=False).copy() for name in table.column_names}
    # Some rows have no coordinates: their POI is placed by another row of training, its first.
    hidden = rng.random(table.num_rows) < 0.3
    hidden[np.unique(columns["poi_id"], return_index=True)[1]] = False
    columns["latitude"][hidden] = np.nan
    options = PrepareOptions(duplicates="keep")
    true = prepared(pa.table(columns), tmp_path / "true", options)
    end = true.manifest["split"]["train_end"]
    later = columns["timestamp"] >= end
    for name in ("poi_id", "category", "user_id"):
        columns[name][later] = [f"{name} {number}" for number in rng.integers(12, size=later.sum())]
    columns["poi_id"][later & (rng.random(len(later)) < 0.5)] = columns["poi_id"][0]
    columns["action"][later] = "appear"
    columns["latitude"][later] = 10.0
    columns["longitude"][later] = 10.0
    altered = prepared(pa.table(columns), tmp_path / "altered", options)
    assert altered.manifest["split"] == true.manifest["split"]
    assert altered.read("train").equals(true.read("train"))
    assert altered.pois().equals(true.pois())
    assert altered.actions == [*true.actions, "appear"]
    assert not altered.read("test").equals(true.read("test"))


def test_places_of_later_events_do_not_place_training_events(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user_id": ["u"] * 10,
            "poi_id": ["a"] * 5 + ["late"] + ["a"] * 2 + ["late"] * 2,
            "timestamp": range(10),
            "latitude": [1.0] * 5 + [None] + [1.0] * 4,
            "longitude": [1.0] * 10,
        }
    )
    folder = prepared(table, tmp_path)
    assert folder.manifest["rejected"] == {"missing coordinates": 1}
    assert folder.pois()["poi_id"].to_pylist() == ["a"]
    assert folder.manifest["counts"]["splits"]["test"]["actions_at_unknown_pois"] == 1


def test_catalogue_and_visits_count_training_only(tmp_path: Path) -> None:
    table = event_table(num_events=600)
    pois = pa.table(
        {"poi_id": [f"poi-{n:03d}" for n in range(40)], "latitude": np.full(40, 1.0), "longitude": np.full(40, 2.0)}
    )
    folder = prepared(table, tmp_path, pois=pois)
    end = folder.manifest["split"]["train_end"]
    seen = table.filter(pc.less(table["timestamp"], end))
    counted = seen.group_by("poi_id").aggregate([("poi_id", "count"), ("user_id", "count_distinct")])
    listed = folder.pois()
    assert folder.manifest["rejected"].keys() <= {"duplicate"}
    visits = dict(zip(listed["poi_id"].to_pylist(), listed["train_visits"].to_pylist(), strict=True))
    if not folder.manifest["rejected"]:
        assert visits == dict(zip(counted["poi_id"].to_pylist(), counted["poi_id_count"].to_pylist(), strict=True))
    people = dict(zip(counted["poi_id"].to_pylist(), counted["user_id_count_distinct"].to_pylist(), strict=True))
    assert dict(zip(listed["poi_id"].to_pylist(), listed["train_visitors"].to_pylist(), strict=True)) == people
    assert listed["train_visits"].to_pylist() == sorted(visits.values(), reverse=True)
    assert set(listed["latitude"].to_pylist()) == {1.0}  # the table's place, not the events'
    rows = folder.read("train")["poi_row"].combine_chunks().flatten().to_numpy()
    assert np.array_equal(np.bincount(rows), listed["train_visits"].to_numpy())
    everything = prepared(table, tmp_path, PrepareOptions(catalogue="all"), pois)
    assert everything.pois().num_rows == 40
    assert everything.manifest["counts"]["splits"]["test"]["actions_at_unknown_pois"] == 0


def test_minimum_visits_and_events(tmp_path: Path) -> None:
    table = event_table(num_events=300, num_users=40)
    folder = prepared(table, tmp_path, PrepareOptions(min_poi_visits=5, min_user_events=6))
    counts = folder.manifest["counts"]
    assert counts["rows_read"] == counts["rows_rejected"] + counts["rows_filtered"] + counts["actions"]
    assert counts["rows_filtered"] > 0
    lengths = pc.list_value_length(folder.read("train")["poi_row"]).to_pylist()
    assert min(lengths) >= 6
    known = set(folder.read("train")["user_hash"].to_pylist())
    assert set(folder.read("test")["user_hash"].to_pylist()) <= known
    assert (folder.read("train")["poi_row"].combine_chunks().flatten().to_numpy() >= 0).all()
    assert counts["splits"]["test"]["actions_at_unknown_pois"] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_fraction": 0.0}, "train_fraction is 0.0"),
        ({"validation_fraction": 0.5}, "within 1"),
        ({"min_poi_visits": 0}, "min_poi_visits is 0"),
        ({"users_per_row_group": 0}, "users_per_row_group is 0"),
        ({"catalogue": "some"}, "catalogue is 'some'"),
        ({"duplicates": "some"}, "duplicates is 'some'"),
    ],
)
def test_settings_out_of_range_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PrepareOptions(**change)  # type: ignore[arg-type]


def test_a_memory_limit_that_is_no_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="memory_limit is 'lots'"):
        prepared(event_table(), tmp_path, PrepareOptions(memory_limit="lots"))


def test_the_whole_catalogue_needs_a_poi_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no POI table"):
        prepared(event_table(), tmp_path, PrepareOptions(catalogue="all"))
