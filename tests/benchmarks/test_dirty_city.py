"""The dirty city: only its training part differs, and cleaning finds what was added."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.dirty_city import soil
from data_pipelines.simulator import CitySettings, simulate


def test_dirt_lies_in_the_training_part_only(tmp_path: Path) -> None:
    simulate(tmp_path / "city", CitySettings(num_users=60, num_pois=100, num_events=6000))
    added = soil(tmp_path / "city", tmp_path / "dirty", seed=0)
    assert added["bots"] == 6 * 400
    assert added["one_place"] == 6 * 200
    clean, dirty = (pq.read_table(tmp_path / name / "events.parquet") for name in ("city", "dirty"))
    assert dirty.num_rows == clean.num_rows + sum(added.values())
    end = json.loads((tmp_path / "dirty" / "truth.json").read_text())["split"]["train_end"] * 1000
    held_out = [table.filter(pc.greater_equal(table["timestamp"].cast("int64"), end)) for table in (clean, dirty)]
    assert held_out[0].equals(held_out[1])
    one = dirty.filter(pc.starts_with(dirty["user_id"], "one"))
    assert one.group_by("user_id").aggregate([("poi_id", "count_distinct")])[
        "poi_id_count_distinct"
    ].unique().to_pylist() == [1]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    simulate(tmp_path / "city", CitySettings(num_users=20, num_pois=80, num_events=800))
    for name in ("a", "b"):
        soil(tmp_path / "city", tmp_path / name, seed=1)
    assert (tmp_path / "a" / "events.parquet").read_bytes() == (tmp_path / "b" / "events.parquet").read_bytes()
