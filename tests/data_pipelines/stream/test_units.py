import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepared import PreparedFolder
from data_pipelines.stream.units import Units, to_sequences

from .folders import make_users, write_folder


def test_units_are_the_row_groups_in_order(folder: Path) -> None:
    units = Units(PreparedFolder(folder), "train")
    groups = PreparedFolder(folder).row_groups("train")
    assert len(units) == len(groups) == 5
    for unit, (path, group, num_rows) in enumerate(groups):
        expected = pq.ParquetFile(path).read_row_group(group)
        read = units.read(unit)
        assert len(read) == num_rows
        assert read.user_hash.tolist() == expected["user_hash"].to_pylist()
        assert read.columns["timestamp"].tolist() == [t for times in expected["timestamp"].to_pylist() for t in times]
        assert read.lengths.tolist() == [len(times) for times in expected["timestamp"].to_pylist()]


def test_empty_files_hold_no_units_and_paths_may_hold_glob_signs(tmp_path: Path) -> None:
    users = make_users([2, 3, 4])
    folder = write_folder(tmp_path / "of [all] *", [[], users, []], users_per_row_group=2)
    units = Units(PreparedFolder(folder), "train")
    assert [len(units.read(unit)) for unit in range(len(units))] == [2, 1]


def test_optional_columns_are_read_where_present(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [make_users([2, 3], mode=lambda t: t % 3)])
    read = Units(PreparedFolder(folder), "train").read(0)
    assert read.columns["mode"].tolist() == [0, 1, 2, 0, 1]
    assert "user_latitude" not in read.columns


def test_reading_a_unit_touches_no_other_row_group(folder: Path, tmp_path: Path) -> None:
    copy = write_folder(tmp_path / "data", [make_users([50, 60, 70, 80])], users_per_row_group=1)
    path = copy / "train" / "part-00000.parquet"
    metadata = pq.ParquetFile(path).metadata.row_group(2)
    content = bytearray(path.read_bytes())
    for column in range(metadata.num_columns):
        chunk = metadata.column(column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(content)
    units = Units(PreparedFolder(copy), "train")
    assert [units.read(unit).num_actions for unit in (0, 1, 3)] == [50, 60, 80]
    with pytest.raises(ValueError, match=r"(?s)cannot read row group 2 of .*part-00000.parquet.*prepare --overwrite"):
        units.read(2)


def test_needs_no_network_and_leaves_nothing_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    assert Units(PreparedFolder(folder), "train").read(0).num_actions > 0
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert list(temporary.iterdir()) == []


def test_changed_files_and_missing_columns_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", [make_users([2, 3, 4])], users_per_row_group=1)
    path = folder / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path)
    with pytest.raises(ValueError, match="has 1 row groups of 3 users, its manifest says 3 of 3"):
        Units(PreparedFolder(folder), "train").read(0)
    pq.write_table(table.drop_columns("timestamp"), path)
    with pytest.raises(ValueError, match="lacks the column 'timestamp'"):
        Units(PreparedFolder(folder), "train")
    with pytest.raises(ValueError, match=r"split 'test' .* holds no user sequences"):
        Units(PreparedFolder(folder), "test")


def test_columns_of_different_length_and_nulls_are_refused() -> None:
    table = pa.table({"user_hash": [1, 2], "a": [[1], [2, 3]], "b": [[1], [2]], "c": [[1], [2, None]]})
    with pytest.raises(ValueError, match=r"here, row 1: column 'b' has 1 values, 'a' has 2"):
        to_sequences(table, ["a", "b"], "here")
    with pytest.raises(ValueError, match=r"here: column 'c' holds 1 nulls"):
        to_sequences(table, ["a", "c"], "here")
    assert np.array_equal(to_sequences(table, ["a"], "here").offsets, [0, 1, 3])
