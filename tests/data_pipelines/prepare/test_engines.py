"""DuckDB and Spark give the same folder, and what Spark needs is named."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare import PrepareOptions, prepare_folder, split
from data_pipelines.prepare.engine import Engine
from data_pipelines.prepare.engine_choice import check_engine, open_engine
from data_pipelines.prepare.engine_differences import given
from data_pipelines.prepare.java import require_java
from data_pipelines.prepare.times import unix_seconds
from data_pipelines.prepare.users import hash_expression, hash_user_ids

from .cities import event_table
from .test_times import TEXTS

KEY = "k"


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One session for all tests; engines that are opened while it lives use it."""
    pytest.importorskip("pyspark")
    try:
        check_engine("spark", {})
    except ValueError as error:
        pytest.skip(str(error))
    work = tmp_path_factory.mktemp("spark [all] +1 *")
    # Few rows and many plans: compiling would take longer than running.
    options = {
        "spark.master": "local[1]",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "OFF",
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
    }
    engine = open_engine("spark", work, None, options)
    yield engine
    engine.close()


@pytest.mark.spark
def test_functions_mean_the_same(spark: Engine) -> None:
    ids = [str(number) for number in range(64)]
    texts = list(TEXTS)
    rows = pa.table({"user": ids + [None] * len(texts), "time": [None] * len(ids) + texts})
    table = spark.small_table(rows, "functions").cross_join(spark.secret("the key"))
    hashed = hash_expression(table.user, table.secret)
    expression = table.select("user", "time", hashed=hashed, seconds=unix_seconds(table.time))
    query = spark.connection.compile(expression)
    plan = str(spark.connection.raw_sql(f"EXPLAIN EXTENDED {query}").collect())
    assert "BroadcastNestedLoopJoin" in plan
    assert "the key" not in query + plan
    found = spark.table(expression).to_pylist()
    hashes = {row["user"]: row["hashed"] for row in found if row["user"] is not None}
    assert hashes == dict(zip(ids, hash_user_ids(ids, "the key").tolist(), strict=True))
    assert {row["time"]: row["seconds"] for row in found if row["time"] is not None} == TEXTS


@pytest.mark.spark
def test_nan_is_given_and_null_is_not(spark: Engine) -> None:
    numbers = spark.small_table(pa.table({"x": [0.0, 1.5, float("nan"), None]}), "numbers")
    found = spark.table(numbers.select("x", given=given(numbers.x))).to_pylist()
    assert [row["given"] for row in found] == [True, True, True, False]


@pytest.mark.spark
def test_leave_last_out_is_the_same(spark: Engine) -> None:
    columns = {"user_hash": [1, 1, 1, 2, 2, 3, 3, 3], "timestamp": [5, 5, 1, 1, 2, 9, 9, 9]}
    order = {"source_file": ["a", "b", "a", "a", "a", "a", "a", "a"], "source_row": [9, 1, 2, 3, 4, 11, 10, 12]}
    events = split.with_last_left_out(spark.small_table(pa.table(columns | order), "to_split"))
    rows = spark.table(events.order_by("user_hash", "source_file", "source_row")).to_pylist()
    assert [row["part"] for row in rows] == (
        ["train", "validation", "test", "train", "train", "train", "validation", "test"]
    )


def dirty_source(folder: Path) -> Path:
    """Two Parquet files of one schema and one of text, a POI table, dirt of most kinds, optional columns."""
    rng = np.random.default_rng(3)
    (folder / "events" / "day 1%20+").mkdir(parents=True)
    table = event_table(num_events=300).drop_columns(["latitude", "longitude", "category"])
    table = table.append_column("user_latitude", pa.array(np.where(rng.random(300) < 0.5, np.nan, 31.5)))
    table = table.append_column("user_longitude", pa.array(np.full(300, 121.5)))
    table = table.append_column(
        "mode", pa.array(rng.choice(["local", "in_trip", "0", None], 300).tolist(), pa.string())
    )
    pq.write_table(table.slice(0, 150), folder / "events" / "a.parquet")
    pq.write_table(table.slice(150), folder / "events" / "day 1%20+" / "b.parquet")
    (folder / "events" / "c.csv").write_text(
        "user_id,poi_id,timestamp,action,mode\n"
        "person-1,poi-001,2023-11-20T10:00:00+02:00,click,\nperson-1,poi-001,soon,click,\nperson-1,poi-1\n"
        ",poi-001,1700000000,click,\nperson-1,nowhere,1700000000,click,\nperson-1,poi-002,1700000000,click,flying\n"
        "person-1,poi-001,2023-11-20T08:00:00Z,click,\nperson-2,poi-002,99999999999,click,\n"
    )
    pois = {
        "poi_id": [f"poi-{number:03d}" for number in range(30)] + ["poi-001", "bad"],
        "latitude": [31.0 + number / 100 for number in range(30)] + [5.0, float("nan")],
        "longitude": [121.0] * 31 + [200.0],
        "category": [f"kind {number % 4}" for number in range(32)],
    }
    pq.write_table(pa.table(pois), folder / "pois.parquet")
    return folder


@pytest.mark.spark
def test_shards_are_the_same_byte_by_byte(spark: Engine, tmp_path: Path) -> None:
    source = dirty_source(tmp_path / "in")
    options = PrepareOptions(
        actions_per_file=100,
        min_poi_visits=2,
        catalogue="all",
        latest_time=1_800_000_000,
    )
    ours, theirs = (
        prepare_folder(source, "tables", tmp_path / engine, options, key=KEY, engine=engine).folder
        for engine in ("duckdb", "spark")
    )
    assert ours.manifest == theirs.manifest
    assert ours.manifest["counts"]["rows_rejected"] == sum(ours.manifest["rejected"].values()) == 9
    for name in ("pois.parquet", "rejected.parquet"):
        assert pq.read_table(ours.path / name).equals(pq.read_table(theirs.path / name)), name
    assert len(ours.files("train")) > 1
    for file in [*ours.files("train"), *ours.files("validation"), *ours.files("test")]:
        assert file.read_bytes() == (theirs.path / file.relative_to(ours.path)).read_bytes()


@pytest.mark.spark
def test_sparks_errors_are_one_line(spark: Engine, tmp_path: Path) -> None:
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 not quite")
    with pytest.raises(ValueError, match=r"^Spark could not read .*[^\n]*$"):
        spark.read_parquet([tmp_path / "torn.parquet"])


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="unknown engine 'flink': expected one of duckdb, spark"):
        check_engine("flink", {})
    with pytest.raises(ValueError, match="duckdb takes no --engine-option"):
        check_engine("duckdb", {"spark.master": "local"})
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"JAVA_HOME\) does not run: .*openjdk-17-jre-headless"):
        require_java()
    old = tmp_path / "bin" / "java"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_392\"' >&2\n")
    old.chmod(0o755)
    with pytest.raises(ValueError, match=r"needs Java 17 or newer, .* says openjdk version \"1\.8\.0_392\""):
        require_java()
    old.write_text("#!/bin/sh\necho 'openjdk version \"21.0.5\" 2024-10-15' >&2\n")
    assert require_java() == old
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"none is on PATH: .*openjdk-17-jre-headless"):
        require_java()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'spacetime-gr\[spark\]'"):
        check_engine("spark", {})
