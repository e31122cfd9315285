"""A ready split's training part, as tables that prepare reads."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.training_tables import main
from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.prepared import PreparedFolder

HEAD = "user_idx,poi_idx,cat,lat,lon,unix_s,hour,dow,traj_id,block\n"
HOUR = 3600


def row(user: int, place: int, hour: int, block: str) -> str:
    # 1970-01-01 was a Thursday; local time is two hours behind UTC.
    local = 3 * 24 + hour - 2
    when = f"{hour * HOUR},{local % 24},{local // 24 % 7}"
    return f"{user},{place},Bar,{40 + place / 100},-74.0,{when},{user}_1,{block}\n"


def test_the_training_part_can_be_cut_again(tmp_path: Path) -> None:
    source = tmp_path / "split"
    source.mkdir()
    training = [row(hour % 3, hour % 5, hour, "T0") for hour in range(20)]
    later = [row(1, 7, 30, "T1"), row(2, 1, 31, "T2")]
    (source / "checkins.csv").write_text("".join([HEAD, *training, *later]))
    main([str(source), str(tmp_path / "tables"), "--format", "lessismore"])
    events = pq.read_table(tmp_path / "tables" / "events.parquet")
    assert events["timestamp"].cast("int64").to_pylist() == [hour * HOUR for hour in range(20)]
    assert set(events["tz_offset_minutes"].cast("int64").to_pylist()) == {-120}
    options = PrepareOptions(catalogue="all", train_fraction=0.55, validation_fraction=0.33)
    prepare_folder(tmp_path / "tables", "tables", tmp_path / "early", options, key="k")
    early = PreparedFolder(tmp_path / "early")
    assert early.manifest["split"]["train_end"] == 11 * HOUR
    assert sorted(early.pois()["poi_id"].to_pylist()) == ["0", "1", "2", "3", "4"]


def test_the_format_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path / "out")])
