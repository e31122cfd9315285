"""Dirty rows: each is set aside with its reason, and what is left is right."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.prepare.users import hash_user_ids
from data_pipelines.prepare.validate import REASONS
from data_pipelines.prepared import PreparedFolder

KEY = "k"
WHOLE = PrepareOptions(train_fraction=1.0, validation_fraction=0.0, latest_time=2_000_000_000)
HEADER = b"user_id,poi_id,timestamp,latitude,longitude,mode\n"


def run(source: Path, options: PrepareOptions = WHOLE) -> PreparedFolder:
    return prepare_folder(source, "tables", source.parent / "out", options, key=KEY).folder


def rejected(folder: PreparedFolder) -> list[tuple[int, str]]:
    rows = pq.read_table(folder.path / "rejected.parquet").to_pylist()
    assert {row["reason"] for row in rows} <= set(REASONS)
    return [(row["source_row"], row["reason"]) for row in rows]


def test_every_kind_of_dirt_has_its_reason(tmp_path: Path) -> None:
    lines = {
        b"1,a,1700000300,1.0,2.0,local": None,
        b"1,a,1700000100,1.0,2.0,": None,  # unsorted
        b",a,1700000000,1.0,2.0,": "missing user",
        b"1,  ,1700000000,1.0,2.0,": "missing POI",
        b"1,a,,1.0,2.0,": "missing time",
        b"1,a,soon,1.0,2.0,": "unparsable time",
        b"1,a,-5,1.0,2.0,": "time before 1970",
        b"1,a,2100-01-01T00:00:00Z,1.0,2.0,": "future time",
        b"1,a,1700000001,north,2.0,": "unparsable coordinates",
        b"1,a,1700000002,91,2.0,": "coordinates out of range",
        b"1,a,1700000003,1.0,-180.5,": "coordinates out of range",
        b"1,a,1700000004,inf,2.0,": "coordinates out of range",
        b"1,a,1700000005,1.0,2.0,flying": "unknown mode",
        b"1,a,1700000300,,,": "duplicate",
        b"1,b,1700000006,,2.0,": "missing coordinates",
        b"1,c,1700000007,nan,2.0,": "coordinates not a number",
        b"1,d,1700000008,0,0.0,": "coordinates 0,0",
        b"1,a": "malformed row",
        b"1,caf\xe9,1700000009,1.0,2.0,": "undecodable text",
        b"": None,
        b"1,a,1700000200,nan,,": None,  # placed by its other rows
        b'2,"q, ""x""",1700000400,1.0,2.0,': None,
    }
    source = tmp_path / "events.csv"
    source.write_bytes(HEADER + b"\n".join(lines) + b"\n")
    folder = run(source)
    expected = [(number, reason) for number, reason in enumerate(lines.values(), start=2) if reason]
    assert sorted(rejected(folder)) == sorted(expected)
    assert sum(folder.manifest["rejected"].values()) == len(expected) == folder.manifest["counts"]["rows_rejected"]
    assert folder.manifest["counts"]["rows_read"] == len(lines) - 1  # but the blank line
    rows = {row["user_hash"]: row for row in folder.read("train").to_pylist()}
    first, second = (rows[int(value)] for value in hash_user_ids(["1", "2"], KEY))
    assert first["timestamp"] == [1700000100, 1700000200, 1700000300]
    assert first["mode"] == [-1, -1, 0]
    assert second["timestamp"] == [1700000400]
    assert folder.pois()["poi_id"].to_pylist() == ["a", 'q, "x"']
    assert folder.manifest["counts"]["places_recovered"] == 1


def test_kinds_of_dirt_in_parquet_and_poi_table(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    events = {
        "user_id": pa.array([1.0, 1.0, None, 2.0, 2.0]),
        "poi_id": ["a", "gone", "a", "a", "nowhere"],
        "timestamp": pa.array([1_700_000_000_000] * 3 + [None, 1_700_000_000_000], pa.timestamp("ms")),
        "tz_offset_minutes": pa.array([60, 60, 60, 60, 60], pa.int16()),
    }
    pq.write_table(pa.table(events), source / "events.parquet")
    pois = {
        "poi_id": ["a", "nowhere", "far", "a", None],
        "latitude": [1.0, float("nan"), 99.0, 5.0, 1.0],
        "longitude": [2.0, 2.0, 2.0, 5.0, 1.0],
    }
    pq.write_table(pa.table(pois), source / "pois.parquet")
    folder = run(source)
    rows = pq.read_table(folder.path / "rejected.parquet").to_pylist()
    assert [(row["source_file"], row["source_row"], row["reason"]) for row in rows] == [
        ("events.parquet", 2, "missing coordinates"),
        ("events.parquet", 3, "missing user"),
        ("events.parquet", 4, "missing time"),
        ("events.parquet", 5, "missing coordinates"),
        ("pois.parquet", 2, "coordinates not a number"),
        ("pois.parquet", 3, "coordinates out of range"),
        ("pois.parquet", 4, "duplicate POI"),
        ("pois.parquet", 5, "missing POI"),
    ]
    assert rows[0]["user_hash"] == hash_user_ids(["1"], KEY)[0]  # 1.0 is the id 1
    assert folder.pois().select(["poi_id", "latitude"]).to_pylist() == [{"poi_id": "a", "latitude": 1.0}]


def test_broken_json_lines_are_rows_without_a_user(tmp_path: Path) -> None:
    source = tmp_path / "events.jsonl"
    source.write_text(
        '{"user_id": 7, "poi_id": "x, y", "timestamp": "2023-11-14T22:13:20Z", "latitude": 1.5, "longitude": 2}\n'
        "{broken\n\n[1]\n"
        '{"user_id": "7", "poi_id": "x, y", "timestamp": 1700000100, "latitude": null, "longitude": null}\n'
    )
    folder = run(source)
    assert rejected(folder) == [(2, "missing user"), (4, "missing user")]
    (row,) = folder.read("train").to_pylist()
    assert row["timestamp"] == [1700000000, 1700000100]
    assert folder.schema.names == ["user_hash", "poi_row", "action", "timestamp", "tz_offset_minutes"]


def test_lines_behind_an_open_quote_are_counted_one_by_one(tmp_path: Path) -> None:
    source = tmp_path / "events.csv"
    source.write_bytes(HEADER + b'1,a,1700000000,1.0,2.0,\n1,"open,1700000001,1,2,\n' + b"1,a,1700000002,1,2,\n" * 3)
    assert rejected(run(source)) == [(3, "malformed row")] * 4


def test_damage_and_line_numbers_across_blocks(tmp_path: Path, monkeypatch: object) -> None:
    import data_pipelines.sources.text as text

    lines = [b'%d,"p\n%d",%d,1.0,2.0,' % (i % 3, i % 5, 1_700_000_000 + i) for i in range(300)]
    lines[100] = b"\xff,a,1700000000,1.0,2.0,"
    lines[200] = b"short\xff"
    source = tmp_path / "events.csv"
    source.write_bytes(HEADER + b"\r\n".join(lines))  # no line break at the end
    whole = run(source)
    for size in (200, 1000):
        monkeypatch.setattr(text, "_BLOCK_BYTES", size)  # type: ignore[attr-defined]
        folder = prepare_folder(source, "tables", tmp_path / f"out{size}", WHOLE, key=KEY).folder
        assert folder.read("train").equals(whole.read("train"))
        assert rejected(folder) == rejected(whole) == [(102, "undecodable text"), (202, "malformed row")]
    assert whole.manifest["counts"]["actions"] == 298
