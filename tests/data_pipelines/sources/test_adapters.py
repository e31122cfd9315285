"""Every format, from small made files through prepare to the shards."""

import dataclasses
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare import PrepareOptions, PrepareResult, prepare_folder
from data_pipelines.prepare.users import hash_user_ids
from data_pipelines.prepared import PreparedFolder

KEY = "key of the tests"
TRAIN_ONLY = PrepareOptions(train_fraction=1.0, validation_fraction=0.0, users_per_row_group=2)


def run(source: Path, format: str, options: PrepareOptions | None = None) -> PreparedFolder:
    out = source.parent / f"{source.name}-prepared"
    result: PrepareResult = prepare_folder(source, format, out, options, key=KEY)
    return result.folder


def events_of(folder: PreparedFolder, split: str = "train") -> dict[int, list[tuple[str | None, int]]]:
    """user_hash -> (poi id, timestamp) in stored order."""
    ids = folder.pois()["poi_id"].to_pylist()
    return {
        row["user_hash"]: [
            (ids[poi] if poi >= 0 else None, time) for poi, time in zip(row["poi_row"], row["timestamp"], strict=True)
        ]
        for row in folder.read(split).to_pylist()
    }


def user(name: str) -> int:
    return int(hash_user_ids([name], KEY)[0])


FOURSQUARE = [
    "7\tv1\tc1\tCafé\t40.7\t-74.0\t-240\tTue Apr 03 18:00:09 +0000 2012",
    '7\tv2\tc2\tBar "X"\t40.8\t-74.1\t-240\tTue Apr 03 17:00:09 +0000 2012',
    "8\tv1\tc1\tCafé\t40.70001\t-74.0\t-240\tWed Apr 04 18:00:09 +0000 2012",
    "8\tv1\tc1\tCafé\t40.7",
]


@pytest.mark.parametrize("packed", [False, True])
def test_foursquare_is_latin1_and_keeps_local_time(tmp_path: Path, packed: bool) -> None:
    content = ("\n".join(FOURSQUARE) + "\n").encode("latin-1")
    file = tmp_path / ("dataset_TSMC2014_NYC.txt" + (".gz" if packed else ""))
    file.write_bytes(gzip.compress(content) if packed else content)
    folder = run(file, "foursquare", TRAIN_ONLY)
    assert events_of(folder) == {
        user("7"): [("v2", 1333472409), ("v1", 1333476009)],
        user("8"): [("v1", 1333562409)],
    }
    pois = folder.pois().to_pylist()
    # The jitter of v1 is settled by its first training event.
    assert [(poi["poi_id"], poi["latitude"], poi["category"], poi["train_visits"]) for poi in pois] == [
        ("v1", 40.7, "Café", 2),
        ("v2", 40.8, 'Bar "X"', 1),
    ]
    assert folder.manifest["rejected"] == {"malformed row": 1}
    assert pq.read_table(folder.path / "rejected.parquet").to_pylist() == [
        {"source_file": file.name, "source_row": 4, "reason": "malformed row", "user_hash": None}
    ]
    assert {offset for row in folder.read("train").to_pylist() for offset in row["tz_offset_minutes"]} == {-240}
    assert folder.actions == ["check-in"]


def test_gowalla_places_and_rejects_rows_without_coordinates(tmp_path: Path) -> None:
    rows = [
        "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847",
        "0\t2010-10-18T22:17:43Z\t0.0\t0.0\t22847",
        "1\t2010-10-17T23:42:03Z\t0.0\t0.0\t316637",
        "1\t2010-10-17T19:26:05Z\t\t\t16516",
        "1\t\t\t\t00000000000000000000000000000000",
        "",
        "2\t2010-10-16T18:50:42Z\t30.26\t-97.74\t5535878",
    ]
    file = tmp_path / "loc-gowalla_totalCheckins.txt"
    file.write_text("\n".join(rows) + "\n")
    folder = run(file, "gowalla", TRAIN_ONLY)
    assert folder.manifest["rejected"] == {"coordinates 0,0": 1, "missing coordinates": 1, "missing time": 1}
    assert folder.manifest["counts"]["places_recovered"] == 1
    assert [poi for poi, _ in events_of(folder)[user("0")]] == ["22847", "22847"]
    lines = pq.read_table(folder.path / "rejected.parquet")["source_row"].to_pylist()
    assert lines == [3, 4, 5]
    assert folder.manifest["counts"]["rows_read"] == 6


def write_getnext(root: Path) -> Path:
    head = "user_id,POI_id,POI_catid,POI_catname,latitude,longitude,timezone,UTC_time,trajectory_id\n"
    source = root / "getnext"
    source.mkdir()
    (source / "NYC-G_train_poi_id2idx_dict.csv").write_text("item,idx\n")
    (source / "NYC_train.x.csv").write_text(
        head
        + "1,a,c,Bar,40.1,-74.0,-240,2012-04-03 18:00:09+00:00,1_0\n"
        + "1,a,c,Bar,40.1,-74.0,-240,2012-04-03 18:00:09+00:00,1_0\n"
        + "1,b,c,Bar,40.2,-74.0,-240,2012-04-04 18:00:09+00:00,1_1\n"
    )
    (source / "NYC_val.csv.gz").write_bytes(
        gzip.compress((head + "1,a,c,Bar,40.1,-74.0,-240,2012-05-03 18:00:09+00:00,1_1\n").encode())
    )
    (source / "NYC_test.csv").write_text(
        head
        + "1,z,c,Bar,40.9,-74.0,-240,2012-05-03 19:00:09+00:00,1_1\n"
        + "2,a,c,Bar,40.1,-74.0,-240,2012-06-03 19:00:09+00:00,2_0\n"
    )
    return source


def test_getnext_keeps_split_repetitions_and_trajectories(tmp_path: Path) -> None:
    folder = run(write_getnext(tmp_path), "getnext")
    assert folder.manifest["split"]["rule"] == "source"
    assert [poi for poi, _ in events_of(folder)[user("1")]] == ["a", "a", "b"]
    assert events_of(folder, "test")[user("1")] == [(None, 1336071609)]
    (train,) = folder.read("train")["trajectory"].to_pylist()
    (validation,) = folder.read("validation")["trajectory"].to_pylist()
    test = dict(
        zip(folder.read("test")["user_hash"].to_pylist(), folder.read("test")["trajectory"].to_pylist(), strict=True)
    )
    assert train[0] == train[1] != train[2]
    assert validation[0] not in train
    assert test[user("1")] == validation
    assert folder.pois()["poi_id"].to_pylist() == ["a", "b"]


def test_getnext_without_a_part_is_refused(tmp_path: Path) -> None:
    source = write_getnext(tmp_path)
    (source / "NYC_test.csv").unlink()
    with pytest.raises(ValueError, match="one test file"):
        run(source, "getnext")


def test_lessismore_blocks_and_offsets(tmp_path: Path) -> None:
    file = tmp_path / "checkins.csv"
    file.write_text(
        "user_idx,poi_idx,cat,lat,lon,unix_s,hour,dow,traj_id,block\n"
        "0,5,Bar,40.1,-74.0,1333909229,14,6,1_2,T0\n"  # Sunday 18:20 UTC, 14 h local
        "0,6,Bar,40.2,-74.0,1333932629,20,6,1_2,T0\n"  # Monday 00:50 UTC, Sunday 20 h local
        "0,5,Bar,40.1,-74.0,1343932629,3,4,1_9,T3\n"  # Thursday 18:37 UTC, Friday 3 h local
        "0,7,Bar,40.1,-74.0,1343932630,,,1_9,T5\n"
    )
    folder = run(file, "lessismore")
    (train,) = folder.read("train").to_pylist()
    (test,) = folder.read("test").to_pylist()
    assert train["tz_offset_minutes"] == [-240, -240]
    assert test["tz_offset_minutes"] == [540, 0]
    assert test["poi_row"][1] == -1
    assert folder.files("validation") == []
    assert folder.read("validation").num_rows == 0
    assert len(set(train["trajectory"])) == 1
    assert train["trajectory"][0] != test["trajectory"][0]


EVENTS = [
    {"user_id": 1, "poi_id": "a", "action": "click", "timestamp": 1700000000, "mode": "local"},
    {"user_id": 1, "poi_id": "b", "action": "navigate", "timestamp": 1700000100, "mode": "in-trip"},
    {"user_id": 2, "poi_id": "a", "action": "click", "timestamp": 1700000200, "mode": "1"},
]
POIS = [
    {"poi_id": "a", "latitude": 31.2, "longitude": 121.4, "category": "Tea", "name": "First, tea"},
    {"poi_id": "b", "latitude": 31.3, "longitude": 121.5, "category": None, "name": None},
    {"poi_id": "c", "latitude": 31.4, "longitude": 121.5, "category": "Park", "name": None},
]


def write_table(rows: list[dict[str, object]], file: Path) -> None:
    names = list(rows[0])
    match file.name.split(".", 1)[1]:
        case "parquet":
            pq.write_table(pa.Table.from_pylist(rows), file)
        case "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "jsonl.gz":
            file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        case kind:
            separator = "\t" if "tsv" in kind else ","
            quoted = [
                [f'"{row[name]}"' if "," in str(row[name]) else str(row[name] or "") for name in names] for row in rows
            ]
            text = "\n".join(separator.join(line) for line in [names, *quoted]) + "\n"
            file.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else ("\ufeff" + text).encode())


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "jsonl", "jsonl.gz", "parquet"])
def test_tables_of_every_kind_say_the_same(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    write_table(EVENTS, source / f"events.{kind}")
    write_table(POIS, source / f"pois.{kind}")
    folder = run(source, "tables", PrepareOptions(train_fraction=1.0, validation_fraction=0.0, catalogue="all"))
    rows = {row.pop("user_hash"): row for row in folder.read("train").to_pylist()}
    assert rows[user("1")] == {
        "poi_row": [0, 1],
        "action": [0, 1],
        "timestamp": [1700000000, 1700000100],
        "tz_offset_minutes": [0, 0],
        "mode": [0, 2],
    }
    assert rows[user("2")]["mode"] == [1]
    assert folder.actions == ["click", "navigate"]
    pois = folder.pois().to_pylist()
    assert [poi["poi_id"] for poi in pois] == ["a", "b", "c"]
    assert [poi["poi_row"] for poi in pois] == [0, 1, 2]
    assert [poi["train_visits"] for poi in pois] == [2, 1, 0]
    assert pois[0]["name"] == "First, tea"
    assert pois[1]["category"] is None
    assert folder.manifest["rejected"] == {}
    assert folder.manifest["counts"]["places_recovered"] == 0


def test_several_event_files_of_different_types_are_one_table(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "events").mkdir(parents=True)
    write_table(EVENTS[:1], source / "events" / "1.parquet")
    write_table([{**EVENTS[1], "user_id": "1"}], source / "events" / "2.csv")
    write_table(POIS, source / "pois.csv")
    folder = run(source, "tables", TRAIN_ONLY)
    assert [poi for poi, _ in events_of(folder)[user("1")]] == ["a", "b"]


ZONED = pa.timestamp("us", "Asia/Kolkata")
SECONDS = [1_700_000_000, 1_700_000_060]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("user_id", [pa.array([7, 7]), pa.array([7.0, 7.0]), pa.array(["7", " 7"])]),
        (
            "user_id",
            [pa.array([20_000_000, 20_000_000]), pa.array([2e7, 2e7]), pa.array(["20000000"] * 2)],
        ),
        ("poi_id", [pa.array([1, 1]), pa.array([1.0, 1.0])]),
        ("mode", [pa.array([2, None], pa.int8()), pa.array([2.0, None]), pa.array(["in_trip", ""])]),
        ("timestamp", [pa.array(SECONDS), pa.array([1_700_000_000.9, 1_700_000_060.0])]),
        (
            "timestamp",
            [pa.array([time * 10**9 for time in SECONDS]), pa.array([time * 1e9 for time in SECONDS])],
        ),
        ("timestamp", [pa.array([second * 1e3 + 0.25 for second in SECONDS]), pa.array(SECONDS, pa.timestamp("s"))]),
        ("timestamp", [pa.array([second * 10**6 for second in SECONDS], ZONED), pa.array(list(map(str, SECONDS)))]),
    ],
)
def test_files_that_type_one_column_differently_say_the_same(tmp_path: Path, name: str, values: list[pa.Array]) -> None:
    source = tmp_path / "source"
    (source / "events").mkdir(parents=True)
    for number, column in enumerate(values):
        columns = {
            "user_id": [7, 7],
            "poi_id": [1, 1],
            "timestamp": SECONDS,
            "latitude": [1.0, 1.0],
            "longitude": [2.0, 2.0],
            "mode": [2, None],
        }
        pq.write_table(pa.table(columns | {name: column}), source / "events" / f"{number}.parquet")
    folder = run(source, "tables", dataclasses.replace(TRAIN_ONLY, duplicates="keep"))
    assert folder.manifest["rejected"] == {}
    (row,) = folder.read("train").to_pylist()
    assert row["user_hash"] == user("20000000" if "20000000" in values[-1].to_pylist() else "7")
    assert sorted(zip(row["timestamp"], row["mode"], strict=True)) == sorted(
        [(SECONDS[0], 2), (SECONDS[1], -1)] * len(values)
    )
    assert folder.pois()["poi_id"].to_pylist() == ["1"]


def test_not_a_number_among_ids_of_several_types_is_no_user(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "events").mkdir(parents=True)
    for number, users in enumerate([pa.array([float("inf"), float("nan")]), pa.array(["7", ""])]):
        columns = {"poi_id": [1, 1], "timestamp": SECONDS, "latitude": [1.0, 1.0], "longitude": [2.0, 2.0]}
        pq.write_table(pa.table({"user_id": users} | columns), source / "events" / f"{number}.parquet")
    folder = run(source, "tables", dataclasses.replace(TRAIN_ONLY, duplicates="keep"))
    assert folder.manifest["rejected"] == {"missing user": 2}


def test_pois_are_derived_from_events_without_a_table(tmp_path: Path) -> None:
    file = tmp_path / "checkins.csv.gz"
    file.write_bytes(
        gzip.compress(
            b"user_id,poi_id,category,latitude,longitude,timestamp_utc,tz_offset_minutes\n"
            b"5,a,Ramen /  House,,,2012-04-03T19:51:00Z,540\n"
            b"5,a,Ramen /  House,35.6,139.7,2012-04-03T20:51:00Z,\n"
            b"5,b,Subway,35.7,139.7,2012-04-03T21:51:00Z,99999\n"
        )
    )
    folder = run(file, "tables", TRAIN_ONLY)
    assert folder.manifest["counts"]["places_recovered"] == 1
    assert folder.manifest["counts"]["offsets_replaced"] == 1
    assert folder.read("train")["tz_offset_minutes"].to_pylist() == [[540, 0, 0]]
    assert folder.actions == ["check-in"]


def test_simulated_takes_the_split_of_its_truth(tmp_path: Path) -> None:
    source = tmp_path / "city"
    source.mkdir()
    write_table(EVENTS, source / "events.parquet")
    write_table(POIS, source / "pois.parquet")
    truth = {"split": {"train_end": 1700000100, "validation_end": 1700000200}}
    (source / "truth.json").write_text(json.dumps(truth))
    folder = run(source, "simulated")
    assert [folder.manifest["counts"]["splits"][name]["actions"] for name in ("train", "validation", "test")] == [
        1,
        1,
        1,
    ]
    assert folder.manifest["split"] == {"rule": "source times", **truth["split"]}
    assert json.loads((folder.path / "truth.json").read_text()) == truth


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"user_id,timestamp,latitude,longitude\n1,2,3,4\n", "poi_id"),
        (b"user_id,poi_id,timestamp\n1,2,3\n", "latitude, longitude"),
        (b"user_id,user_id,poi_id\n", "twice"),
        (b"user_id,poi_id,timestamp,latitude,longitude\n", "no event is left"),
    ],
)
def test_unusable_csv_is_refused_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "events.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        run(file, "tables")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.csv"]


@pytest.mark.parametrize("format", ["foursquare", "gowalla"])
def test_empty_file_without_header_is_refused(tmp_path: Path, format: str) -> None:
    file = tmp_path / "checkins.txt"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkins\.txt"):
        run(file, format)


@pytest.mark.parametrize("name", ["source_path", "File_Row_Number", "source_row"])
def test_columns_that_prepare_adds_itself_are_refused_with_the_files_name(tmp_path: Path, name: str) -> None:
    columns = {"user_id": [7], "poi_id": [1], "timestamp": [SECONDS[0]], "latitude": [1.0], "longitude": [2.0]}
    pq.write_table(pa.table(columns | {name: [1]}), tmp_path / "events.parquet")
    with pytest.raises(ValueError, match=rf"events\.parquet has a column {name}, a name that prepare .*; rename"):
        run(tmp_path / "events.parquet", "tables")


def test_truncated_files_are_refused_with_their_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    write_table([{**EVENTS[0], "latitude": 1.0, "longitude": 2.0}] * 100, whole)
    torn = tmp_path / "torn.parquet"
    torn.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"torn\.parquet is not a complete Parquet file"):
        run(torn, "tables")
    packed = tmp_path / "checkins.csv.gz"
    lines = "".join(f"{i},{i * 7919 % 1000},{i},1.0,2.0\n" for i in range(1, 5000))
    packed.write_bytes(gzip.compress(f"user_id,poi_id,timestamp,latitude,longitude\n{lines}".encode())[:-4000])
    with pytest.raises(ValueError, match=r"checkins\.csv\.gz cannot be read"):
        run(packed, "tables")


def test_missing_source_and_unknown_format_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        run(tmp_path / "nowhere", "tables")
    with pytest.raises(ValueError, match="unknown format 'parquet'"):
        run(tmp_path, "parquet")
    with pytest.raises(ValueError, match="holds no events"):
        run(tmp_path, "tables")
