"""Times in every known format, mixed in one column."""

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare.times import unix_seconds

MOMENT = 1333476009  # 2012-04-03 18:00:09 UTC
TEXTS = {
    "Tue Apr 03 18:00:09 +0000 2012": MOMENT,
    "Tue Apr 03 14:00:09 -0400 2012": MOMENT,
    "2012-04-03T18:00:09Z": MOMENT,
    "2012-04-03t18:00:09z": MOMENT,
    " 2012-04-03 18:00:09 ": MOMENT,
    "2012-04-03 18:00:09 UTC": MOMENT,
    "2012-04-03 20:00:09+02:00": MOMENT,
    "2012-04-03 20:00:09.75 +0200": MOMENT,
    "2012-04-03T20:00:09+02": MOMENT,
    "2012-04-03 13:30:09-0430": MOMENT,
    "2012-04-03 18:00": MOMENT - 9,
    "1333476009": MOMENT,
    "1333476009.9": MOMENT,
    "1333476009123": MOMENT,
    "1333476009123456": MOMENT,
    "1333476009123456789": MOMENT,
    "-1": -1,
    "2012-02-30 18:00": None,
    "2012-13-03 18:00": None,
    "2012-04-03T25:00:00Z": None,
    "2012-04-03": None,
    "Tue Foo 03 18:00:09 +0000 2012": None,
    "yesterday": None,
    "nan": None,
    "": None,
    "9" * 30: None,
}


def seconds(values: pa.Array, folder: Path) -> list[int | None]:
    file = folder / "times.parquet"
    pq.write_table(pa.table({"time": values}), file)
    table = ibis.duckdb.connect().read_parquet(file)
    return table.select(time=unix_seconds(table.time)).to_pyarrow()["time"].to_pylist()


def test_the_format_is_decided_row_by_row(tmp_path: Path) -> None:
    got = seconds(pa.array([*TEXTS, None]), tmp_path)
    assert dict(zip(TEXTS, got, strict=False)) == TEXTS
    assert got[-1] is None


@pytest.mark.parametrize(
    "values",
    [
        pa.array([MOMENT, None]),
        pa.array([MOMENT * 1000, None]),
        pa.array([MOMENT + 0.5, float("nan")]),
        pa.array([MOMENT, None], pa.timestamp("s")),
        pa.array([MOMENT * 1000, None], pa.timestamp("ms", tz="UTC")),
        pa.array([MOMENT * 1_000_000, None], pa.timestamp("us", tz="Asia/Tokyo")),
    ],
    ids=str,
)
def test_numbers_and_timestamps(tmp_path: Path, values: pa.Array) -> None:
    assert seconds(values, tmp_path) == [MOMENT, None]


def test_other_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="timestamp has type"):
        seconds(pa.array([True]), tmp_path)
