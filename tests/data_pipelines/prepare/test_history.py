"""One person's history is read by the rules of prepare."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare.history import parse_time, read_history
from tests.data_pipelines.prepare.test_times import MOMENT, TEXTS


def test_times_and_ids_are_those_of_prepare(tmp_path: Path) -> None:
    known = [text for text, moment in TEXTS.items() if moment is not None and moment >= 0]
    file = tmp_path / "me.csv.gz"
    file.write_bytes(gzip.compress(b"poi_id,timestamp\n" + "".join(f" p1 ,{text}\n" for text in known).encode()))
    history = read_history(file)
    assert history.keys() == {"poi_id", "timestamp"}
    assert set(history["poi_id"]) == {"p1"}
    assert history["timestamp"].tolist() == sorted(TEXTS[text] for text in known)
    assert [parse_time(text) for text in known] == [TEXTS[text] for text in known]
    for text in ("", "yesterday", "nan", "2012-04-03"):
        with pytest.raises(ValueError, match="is no time; expected one such as"):
            parse_time(text)


def test_columns_and_order(tmp_path: Path) -> None:
    table = pa.table(
        {
            "timestamp": [MOMENT + 5, MOMENT, MOMENT],
            "poi_id": [7.0, 8.0, 9.0],
            "mode": ["In-Trip", None, "local"],
            "tz_offset_minutes": [-240.0, None, 9e9],
            "user_latitude": [40.5, 95.0, float("nan")],
            "user_longitude": [-74.0, 1.0, 2.0],
            "weather": ["fine"] * 3,
        }
    )
    pq.write_table(table, tmp_path / "me.parquet")
    history = read_history(tmp_path / "me.parquet")
    assert history["poi_id"].tolist() == ["8", "9", "7"]
    assert history["mode"].tolist() == [-1, 0, 2]
    assert history["tz_offset_minutes"].tolist() == [0, 0, -240]
    np.testing.assert_array_equal(history["user_latitude"], np.array([np.nan, np.nan, 40.5], np.float32))
    assert "action" not in history
    assert "weather" not in history


def test_json_lines_without_an_action_state_none(tmp_path: Path) -> None:
    (tmp_path / "me.jsonl").write_text('{"poi_id": 7, "timestamp": 1333476009}\n')
    assert read_history(tmp_path / "me.jsonl").keys() == {"poi_id", "timestamp"}


def test_no_action_at_all(tmp_path: Path) -> None:
    (tmp_path / "me.csv").write_text("poi_id,timestamp\n")
    assert read_history(tmp_path / "me.csv")["timestamp"].tolist() == []


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("p1,2012-04-03T18:00:09Z\np2,soon", r"me\.csv, row 3 \(poi_id='p2', timestamp='soon'\): unparsable time: "),
        (",1333476009", r"row 2 \(poi_id=.*, timestamp='1333476009'\): missing POI"),
        ("p1,-5", "row 2.*time before 1970"),
        ("p1,1333476009,3", "row 2: malformed row"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "me.csv").write_text(f"poi_id,timestamp\n{rows}\n")
    with pytest.raises(ValueError, match=said):
        read_history(tmp_path / "me.csv")
