"""Damaged inputs through the command line: one line that names the remedy, or rows set aside and counted."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepared import SCHEMA_VERSION
from spacetime_gr.cli import main

from .cities import START, event_table, write


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of the command."""
    monkeypatch.setattr("sys.argv", ["spacetime-gr", *arguments])
    monkeypatch.setenv("SPACETIME_GR_USER_KEY", "k")
    with pytest.raises(SystemExit) as exit:
        main.main()
    captured = capsys.readouterr()
    return int(exit.value.code or 0), captured.out, captured.err


def _torn(source: Path) -> None:
    file = write(event_table(), source)
    file.write_bytes(file.read_bytes()[:-100])


def _torn_inside(source: Path) -> None:
    file = write(event_table(num_events=4000), source)
    content = bytearray(file.read_bytes())
    chunk = pq.read_metadata(file).row_group(0).column(3)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(content)


def _torn_archive(source: Path) -> None:
    source.mkdir()
    (source / "events.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 not an archive")


def _with_type(name: str, values: pa.Array) -> Callable[[Path], None]:
    def damage(source: Path) -> None:
        table = event_table()
        position = table.column_names.index(name)
        write(table.set_column(position, name, pa.array([values] * table.num_rows)), source)

    return damage


def _without_user(source: Path) -> None:
    write(event_table().drop_columns("user_id"), source)


def _empty_folder(source: Path) -> None:
    source.mkdir()


def _empty_events_folder(source: Path) -> None:
    (source / "events").mkdir(parents=True)


def _empty_file(source: Path) -> None:
    source.mkdir()
    (source / "events.csv").write_bytes(b"")


def _no_rows(source: Path) -> None:
    write(event_table().slice(0, 0), source)


def _not_utf8_at_all(source: Path) -> None:
    source.mkdir()
    text = "user_id,poi_id,timestamp,latitude,longitude\n" + "a,b,1700000000,1,2\n" * 5
    (source / "events.csv").write_bytes(text.encode("utf-16"))


def _all_in_the_future(source: Path) -> None:
    table = event_table()
    write(table.set_column(3, "timestamp", pa.array(np.full(table.num_rows, 4_000_000_000))), source)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_torn, r"events\.parquet is not a complete Parquet file.*write or copy it again"),
        (_torn_inside, r"could not read the source"),
        (_torn_archive, r"events\.csv\.gz cannot be read"),
        (_with_type("timestamp", True), r"column timestamp has type bool.*: expected text, numbers or timestamps"),
        (_with_type("latitude", [1.0]), r"column latitude has type .*: expected text or numbers"),
        (_with_type("user_id", {"id": 7}), r"column user_id has type .*: expected text or numbers"),
        (_without_user, r"events\.parquet lacks the column\(s\) user_id; it has poi_id, .*Rename"),
        (_empty_folder, r"holds no events: expected events\.csv"),
        (_empty_events_folder, r"holds no events: expected events\.csv"),
        (_empty_file, r"events\.csv is empty: expected a header line"),
        (_no_rows, r"no event is left to train on \(no row was rejected\); check --format"),
        (_not_utf8_at_all, r"events\.csv lacks the column\(s\) user_id"),
        (_all_in_the_future, r"no event is left to train on \(400 rows: future time\)"),
    ],
)
def test_one_line_with_the_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    said: str,
) -> None:
    damage(tmp_path / "in")
    arguments = ["prepare", "--source", str(tmp_path / "in"), "--format", "tables", "--out", str(tmp_path / "out")]
    code, _, errors = run(arguments, monkeypatch, capsys)
    assert code == 2
    line = errors[errors.index("error:") :].strip()
    assert "\n" not in line
    assert "Traceback" not in errors
    assert re.search(said, line), line
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_bad_rows_are_set_aside_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same users in several files, repeated rows, milliseconds, the future, NaN and values out of range."""
    table = event_table(num_events=100)
    events = tmp_path / "in" / "events"
    write(table, events, "a.parquet")
    write(table.slice(0, 60), events, "b.parquet")  # the same events again, of the same users
    milliseconds = pa.array(table["timestamp"].to_numpy()[:20] * 1000)
    write(table.slice(0, 20).set_column(3, "timestamp", milliseconds), events, "c.parquet")
    bad = table.slice(0, 4).set_column(3, "timestamp", pa.array([START + 1, START + 2, START + 3, 4_000_000_000]))
    bad = bad.set_column(5, "latitude", pa.array([91.0, float("nan"), float("inf"), 1.0]))
    write(bad.set_column(1, "poi_id", pa.array(["w", "x", "y", "z"])), events, "d.parquet")
    out = tmp_path / "out"
    arguments = ["prepare", "--source", str(tmp_path / "in"), "--format", "tables", "--out", str(out)]
    code, shown, _ = run([*arguments, "--dry-run"], monkeypatch, capsys)
    assert code == 0
    assert "nothing was written" in shown
    assert "1 shard(s)" in shown
    assert not out.exists()
    code, shown, _ = run(arguments, monkeypatch, capsys)
    assert code == 0
    counts = json.loads((out / "manifest.json").read_text())
    assert counts["rejected"] == {
        "coordinates not a number": 1,
        "coordinates out of range": 2,
        "duplicate": 80,
        "future time": 1,
    }
    assert counts["counts"]["actions"] == 100
    assert "rejected, duplicate: 80" in shown
    assert run(["check-leaks", str(out)], monkeypatch, capsys)[0] == 0
    shard = next((out / "test").iterdir())
    first = next((out / "train").iterdir())
    shard.write_bytes(first.read_bytes())
    code, shown, _ = run(["check-leaks", str(out)], monkeypatch, capsys)
    assert code == 1
    assert "FAIL" in shown
    manifest = out / "manifest.json"
    manifest.write_text(manifest.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 1'))
    code, _, errors = run(["check-leaks", str(out)], monkeypatch, capsys)
    assert code == 2
    assert f"has schema_version 1, this version reads {SCHEMA_VERSION}; prepare the source again" in errors
