"""Damaged and odd shards: each is one line that names the file and the remedy, or does no harm."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines import PreparedFolder, TokenStream
from data_pipelines.stream.units import Units

from .folders import make_users, stamps_supervised, write_folder
from .test_token_stream import open_stream, take


def small(path: Path, **columns: Any) -> Path:
    return write_folder(path / "data", [make_users([6, 7, 8], **columns)], users_per_row_group=1)


def shard(folder: Path) -> Path:
    return folder / "train" / "part-00000.parquet"


def with_column(folder: Path, name: str, values: pa.Array) -> None:
    """Rewrites the shard with another column, same row groups."""
    table = pq.read_table(shard(folder))
    table = table.set_column(table.schema.get_field_index(name), name, values)
    pq.write_table(table, shard(folder), row_group_size=1)


def lists(change: Callable[[np.ndarray], Any], kind: pa.DataType) -> pa.Array:
    return pa.array(
        [list(change(np.arange(start, stop))) for start, stop in ((0, 6), (6, 13), (13, 21))], pa.list_(kind)
    )


POINTS = {"user_latitude": lambda t: t * 0.0, "user_longitude": lambda t: t * 0.0}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        (
            "poi_row",
            lists(lambda t: t * 0 - 2, pa.int32()),
            r"row group \d of .*'poi_row' holds -2, expected -1",
        ),
        (
            "poi_row",
            lists(lambda t: t * 0 + 100, pa.int32()),
            "holds 100, the tokenizer's index has 100 POIs",
        ),
        ("action", lists(lambda t: t * 0 + 2, pa.int16()), "'action' holds 2, expected 0 to 1"),
        ("timestamp", lists(lambda t: -t, pa.int64()), r"row 0: timestamps fall; they must be in time order"),
        (
            "timestamp",
            lists(lambda t: map(str, t), pa.string()),
            r"'timestamp' has type list<.*string>, expected lists",
        ),
        ("user_latitude", lists(lambda t: t + np.inf, pa.float64()), "'user_latitude' holds inf, expected -90 to 90"),
        ("user_longitude", lists(lambda t: t * 0 - 181.0, pa.float64()), "holds -181.0, expected -180 to 180"),
        ("tz_offset_minutes", pa.array([[0], [0], [0]], pa.list_(pa.int16())), "one value per action"),
    ],
)
def test_values_that_cannot_be(tmp_path: Path, column: str, values: pa.Array, message: str) -> None:
    folder = small(tmp_path, **POINTS)
    with_column(folder, column, values)
    with pytest.raises(ValueError, match=message) as caught:
        next(open_stream(folder))
    assert "part-00000.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_user_places_are_no_damage(tmp_path: Path) -> None:
    nowhere = {name: lambda t: np.where(t % 2, np.nan, 0.0) for name in POINTS}
    assert take(open_stream(small(tmp_path, **nowhere)), 3)


def test_a_truncated_shard(tmp_path: Path) -> None:
    folder = small(tmp_path)
    content = shard(folder).read_bytes()
    shard(folder).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"part-00000.parquet.*prepare.*--overwrite") as caught:
        next(open_stream(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_shard_that_is_replaced_during_a_run(tmp_path: Path, num_workers: int) -> None:
    folder = small(tmp_path)
    stream = open_stream(folder, num_lanes=1, num_workers=num_workers)
    next(stream)
    with_column(folder, "poi_row", lists(lambda t: t * 0, pa.int32()))
    with pytest.raises(ValueError, match=r"part-00000.parquet was replaced or removed while the stream was reading it"):
        take(stream, 9)
    stream.close()


def test_a_shard_that_is_replaced_after_its_footer_was_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipelines.stream.units._MAX_FOOTERS", 1)
    users = make_users([6, 7, 8, 9])
    folder = write_folder(tmp_path / "data", [users[:3], users[3:]], users_per_row_group=1)
    units = Units(PreparedFolder(folder), "train")
    for unit in (0, 3):
        units.read(unit)
    os.utime(shard(folder), (1, 1))
    for unit in (1, 3):  # the same file with another time is the same
        units.read(unit)
    with_column(folder, "poi_row", lists(lambda t: t * 0, pa.int32()))
    with pytest.raises(ValueError, match=r"part-00000.parquet was replaced or removed while the stream was reading it"):
        units.read(1)


def test_a_shard_that_was_changed_between_two_runs(tmp_path: Path) -> None:
    folder = small(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["bytes"] = shard(folder).stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    next(open_stream(folder))
    with_column(folder, "poi_row", lists(lambda t: t * 0, pa.int32()))
    with pytest.raises(ValueError, match=r"part-00000.parquet has [\d,]+ bytes, its manifest says [\d,]+; .*prepare"):
        next(open_stream(folder))


def test_a_shard_that_is_copied_anew_is_the_same(tmp_path: Path) -> None:
    folder = small(tmp_path)
    expected = take(open_stream(folder), 12)
    stream = open_stream(folder)
    found = take(stream, 4)
    shutil.copy(shard(folder), tmp_path / "copy")
    os.utime(tmp_path / "copy", (1, 1))
    os.replace(tmp_path / "copy", shard(folder))
    found += take(stream, 8)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(left["stamp"], right["stamp"])


def test_a_shard_that_is_removed_during_a_run(tmp_path: Path) -> None:
    folder = small(tmp_path)
    stream = open_stream(folder, num_lanes=1)
    next(stream)
    shard(folder).unlink()
    with pytest.raises(ValueError, match=r"was replaced or removed"):
        take(stream, 9)


def test_a_user_in_several_shards_is_several_sequences(tmp_path: Path) -> None:
    users = make_users([5, 6, 7])
    for user in users:
        user["user_hash"] = 7
    folder = write_folder(tmp_path / "data", [users[:1], users[1:]])
    stamps = [stamp for batch in open_stream(folder).rows_once() for stamp in stamps_supervised(batch)]
    assert sorted(stamps) == list(range(18))


def test_another_schema_version(tmp_path: Path) -> None:
    folder = small(tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    with pytest.raises(ValueError, match=r"has schema_version 99, this version reads .*prepare the source again"):
        open_stream(folder)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_unit_left_of_many_still_feeds_every_lane(tmp_path: Path, num_workers: int) -> None:
    folder = write_folder(tmp_path / "data", [make_users([2] * 40 + [9]), []], users_per_row_group=1)
    stream = open_stream(folder, num_lanes=8, curriculum=None, cleaning={"min_actions": 3}, num_workers=num_workers)
    for batch in take(stream, 6):
        assert all(stamps_supervised({k: v[lane : lane + 1] for k, v in batch.items()}) for lane in range(8))
    stream.close()


def test_more_ranks_than_shards(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [make_users([9, 9])], users_per_row_group=1)
    streams: list[TokenStream] = [open_stream(folder, num_lanes=8, rank=rank, world_size=8) for rank in range(8)]
    whole = open_stream(folder, num_lanes=8)
    for _ in range(5):
        expected = next(whole)["stamp"]
        np.testing.assert_array_equal(np.concatenate([next(stream)["stamp"] for stream in streams]), expected)
