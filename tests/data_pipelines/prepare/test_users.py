"""The user hash: one formula in Python and in the engine."""

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare.duckdb_engine import DuckDBEngine
from data_pipelines.prepare.users import KEY_VARIABLE, hash_expression, hash_user_ids, key_fingerprint, user_key
from data_pipelines.prepare.validate import typed_events


def test_engine_and_python_agree(tmp_path: Path) -> None:
    names = ["1", "2", "user é", "", "ユーザー", *map(str, range(200))]
    file = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user": names}), file)
    table = ibis.duckdb.connect().read_parquet(file)
    got = table.select(hash=hash_expression(table.user, ibis.literal("k"))).to_pyarrow()["hash"].to_numpy()
    expected = hash_user_ids(names, "k")
    np.testing.assert_array_equal(got, expected)
    assert expected.dtype == np.int64
    assert (expected >= 0).all()
    assert expected[6] == expected[0]  # the same id again
    assert (hash_user_ids(names, "other") != expected).all()


def test_the_key_is_in_no_query_and_no_file(tmp_path: Path) -> None:
    engine = DuckDBEngine(tmp_path)
    columns = {"user_id": ["1", "2"], "poi_id": ["a", "b"], "timestamp": [1, 2]}
    raw = engine.small_table(pa.table(columns | {"source_file": ["f", "f"], "source_row": [1, 2]}), "raw")
    typed = typed_events(raw, engine.secret("top secret"))
    assert "top secret" not in engine.connection.compile(typed)
    assert "top secret" not in str(engine.connection.con.sql(f"EXPLAIN {engine.connection.compile(typed)}").fetchall())
    found = engine.table(engine.materialise(typed, "typed").order_by("source_row"))["user_hash"].to_pylist()
    assert found == hash_user_ids(["1", "2"], "top secret").tolist()
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or b"top secret" not in file.read_bytes()
    engine.close()


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert user_key() == "secret"
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.warns(UserWarning, match=KEY_VARIABLE):
        default = user_key()
    assert key_fingerprint(default) != key_fingerprint("secret")
    assert "secret" not in key_fingerprint("secret")
