"""The user hash: one formula in Python and in the engine."""

from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare.users import KEY_VARIABLE, hash_expression, hash_user_ids, key_fingerprint, user_key


def test_engine_and_python_agree(tmp_path: Path) -> None:
    names = ["1", "2", "user é", "", "ユーザー", *map(str, range(200))]
    file = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user": names}), file)
    table = ibis.duckdb.connect().read_parquet(file)
    got = table.select(hash=hash_expression(table.user, "k")).to_pyarrow()["hash"].to_numpy()
    expected = hash_user_ids(names, "k")
    np.testing.assert_array_equal(got, expected)
    assert expected.dtype == np.int64
    assert (expected >= 0).all()
    assert expected[6] == expected[0]  # the same id again
    assert (hash_user_ids(names, "other") != expected).all()


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert user_key() == "secret"
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.warns(UserWarning, match=KEY_VARIABLE):
        default = user_key()
    assert key_fingerprint(default) != key_fingerprint("secret")
    assert "secret" not in key_fingerprint("secret")
