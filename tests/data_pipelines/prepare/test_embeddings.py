"""Embeddings of POIs: the row of the array is the row of the POI list, wherever they come from."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare import PrepareOptions, embeddings, prepare_folder
from data_pipelines.prepared import PreparedFolder

from .cities import event_table, write

NUM_POIS, SIZE = 40, 3


def vector(poi_id: str) -> np.ndarray:
    return np.arange(SIZE) + int(poi_id.removeprefix("poi-")) * 10.0


def source(folder: Path, kind: pa.DataType | None, missing: tuple[int, ...] = ()) -> Path:
    """Events, and POIs in random order with repeated and bad rows; embeddings as a column, unless kind is None."""
    write(event_table(), folder, "events.parquet")
    order = np.random.default_rng(1).permutation(NUM_POIS)
    ids = [f"poi-{number:03d}" for number in order] + ["poi-001", "poi-002"]
    latitudes = [31 + number / 100 for number in order] + [99.0, 12.0]
    columns = {"poi_id": ids, "latitude": latitudes, "longitude": [121.0] * len(ids)}
    if kind is not None:
        lists = [None if int(name[4:]) in missing else vector(name).tolist() for name in ids[:-2]] + [[-1.0] * SIZE] * 2
        columns["embedding"] = pa.array(lists, kind)
    write(pa.table(columns), folder, "pois.parquet")
    return folder


def check(folder: PreparedFolder, kind: type, missing: tuple[int, ...] = ()) -> None:
    found = np.load(folder.path / "poi_embeddings.npy")
    names = folder.pois()["poi_id"].to_pylist()
    assert found.shape == (len(names), SIZE)
    assert found.dtype == kind
    assert folder.manifest["poi_embedding_size"] == SIZE
    expected = [np.full(SIZE, np.nan) if int(name[4:]) in missing else vector(name) for name in names]
    np.testing.assert_array_equal(found, np.array(expected, kind))


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (pa.list_(pa.float64()), np.float32),
        (pa.list_(pa.float32(), SIZE), np.float32),
        (pa.large_list(pa.float16()), np.float16),
    ],
)
def test_a_column_is_carried(tmp_path: Path, kind: pa.DataType, stored: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_BATCH_ROWS", 7)
    options = PrepareOptions(catalogue="all")
    missing = (3, 4, 20)
    folder = prepare_folder(source(tmp_path / "in", kind, missing), "tables", tmp_path / "out", options, key="k").folder
    check(folder, stored, missing)


def test_an_array_beside_the_table_is_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "_BATCH_ROWS", 7)
    place = source(tmp_path / "in", None)
    ids = pq.read_table(place / "pois.parquet")["poi_id"].to_pylist()
    values = np.array([vector(name) for name in ids[:-2]] + [np.full(SIZE, -1.0)] * 2, np.float16)
    np.save(place / "pois_embeddings.npy", values)
    result = prepare_folder(place, "tables", tmp_path / "out", key="k")
    check(result.folder, np.float16)
    assert len(result.folder.pois()) < NUM_POIS  # of the whole table, those that training visits
    np.save(place / "pois_embeddings.npy", values[:-1])
    with pytest.raises(ValueError, match="other input"):
        prepare_folder(place, "tables", tmp_path / "out", key="k")
    with pytest.raises(ValueError, match=r"shape \(41, 3\) .* expected floats of shape \(42, size\)"):
        prepare_folder(place, "tables", tmp_path / "out", key="k", overwrite=True)
    (place / "pois_embeddings.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"not a readable \.npy file"):
        prepare_folder(place, "tables", tmp_path / "out", key="k", overwrite=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pa.array([[1.0, 2.0], [1.0]]), r"pois\.parquet, row 2: an embedding of 1 values, the first has 2"),
        (pa.array([None, None], pa.list_(pa.float32())), "holds no embedding"),
        (pa.array(["a", "b"]), "has type string; expected a list of floats"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, values: pa.Array, said: str) -> None:
    write(event_table(num_pois=2), tmp_path / "in", "events.parquet")
    columns = {"poi_id": ["poi-000", "poi-001"], "latitude": [1.0, 2.0], "longitude": [1.0, 2.0], "embedding": values}
    write(pa.table(columns), tmp_path / "in", "pois.parquet")
    with pytest.raises(ValueError, match=said):
        prepare_folder(tmp_path / "in", "tables", tmp_path / "out", key="k")
    assert not (tmp_path / "out").exists()
