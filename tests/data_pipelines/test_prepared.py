"""The reader of prepared folders."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipelines import PreparedFolder
from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.stream.units import Units
from tests.data_pipelines.prepare.cities import event_table, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PreparedFolder:
    root = tmp_path_factory.mktemp("prepared")
    options = PrepareOptions(actions_per_file=150, users_per_row_group=2)
    return prepare_folder(
        write(event_table(num_users=25), root / "in"), "tables", root / "out", options, key="k"
    ).folder


def test_row_groups_agree_with_the_files(folder: PreparedFolder) -> None:
    assert len(folder.files("train")) > 1
    for split in ("train", "validation", "test"):
        found = []
        for file in folder.files(split):
            metadata = pq.ParquetFile(file).metadata
            found += [(file, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]
        assert folder.row_groups(split) == found
        table = folder.read(split)
        assert table.num_rows == sum(rows for _, _, rows in found)
        hashes = table["user_hash"].to_pylist()
        assert hashes == sorted(set(hashes))
        assert table.schema.equals(folder.schema)
    assert folder.read("test", ["poi_row"]).column_names == ["poi_row"]
    assert folder.actions == ["click", "navigate"]
    assert folder.tokenizer_path == folder.path / "tokenizer"


def test_wrong_names_are_refused(folder: PreparedFolder) -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        folder.files("dev")
    with pytest.raises(ValueError, match="no column 'weather'"):
        folder.read("train", ["weather"])


def test_unfinished_foreign_and_damaged_folders_are_refused(folder: PreparedFolder, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no prepared folder at"):
        PreparedFolder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a finished prepared folder"):
        PreparedFolder(tmp_path)
    manifest = tmp_path / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(ValueError, match="not readable JSON"):
        PreparedFolder(tmp_path)
    manifest.write_text(json.dumps(folder.manifest | {"schema_version": 99}))
    with pytest.raises(ValueError, match="schema_version 99"):
        PreparedFolder(tmp_path)
    manifest.write_text(json.dumps(folder.manifest))
    with pytest.raises(ValueError, match=r"missing, the first is pois\.parquet"):
        PreparedFolder(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"actions": None}, r"manifest\.json has no actions \(list\): it is damaged"),
        ({"modes": "local"}, r"no modes \(list\)"),
        ({"files": [{"split": "train"}]}, r"manifest\.json, files\[0\] has no path \(str\)"),
        ({"files": ["train"]}, r"files\[0\] has no split"),
    ],
)
def test_a_damaged_manifest_is_named(folder: PreparedFolder, tmp_path: Path, change: dict, said: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(folder.manifest | change))
    with pytest.raises(ValueError, match=said):
        PreparedFolder(tmp_path)


def test_damaged_tables_are_named(folder: PreparedFolder, tmp_path: Path) -> None:
    copy = PreparedFolder(shutil.copytree(folder.path, tmp_path / "copy"))
    for file in (copy.path / "pois.parquet", copy.files("train")[0]):
        file.write_bytes(file.read_bytes()[:200])
    for read, name in ((copy.pois, "pois"), (lambda: copy.schema, "part-00000"), (lambda: copy.read("train"), "part-")):
        with pytest.raises(ValueError, match=rf"{name}.*parquet is damaged.*prepare --overwrite"):
            read()
    with pytest.raises(ValueError, match=r"part-00000.parquet is damaged"):
        Units(copy, "train")
