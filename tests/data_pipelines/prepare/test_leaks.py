"""The leak checker passes what prepare writes, and finds each kind of leak."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.prepare.fingerprint import content_fingerprint
from data_pipelines.prepare.leaks import check_leaks
from data_pipelines.prepare.shards import rows_fingerprint
from data_pipelines.prepared import PreparedFolder

from .cities import event_table, write

Rows = list[dict[str, list[int]]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> PreparedFolder:
    root = tmp_path_factory.mktemp("leaks")
    options = PrepareOptions(actions_per_file=100)
    return prepare_folder(write(event_table(), root / "in"), "tables", root / "out", options, key="k").folder


def outcomes(folder: PreparedFolder, visits: np.ndarray | None = None) -> dict[str, str]:
    return {check.name: check.outcome for check in check_leaks(folder, visits)}


def failures(folder: PreparedFolder, visits: np.ndarray | None = None) -> set[str]:
    return {name for name, outcome in outcomes(folder, visits).items() if outcome == "FAIL"}


def edited(clean: PreparedFolder, place: Path, edit: Callable[[dict[str, Rows]], None]) -> PreparedFolder:
    """A copy whose first shards hold other rows, with a manifest that says so."""
    copy = Path(shutil.copytree(clean.path, place))
    manifest = clean.manifest | {"files": [dict(entry) for entry in clean.manifest["files"]]}
    firsts = {split: copy / clean.files(split)[0].relative_to(clean.path) for split in ("train", "validation", "test")}
    rows = {split: pq.read_table(file).to_pylist() for split, file in firsts.items()}
    edit(rows)
    for split, file in firsts.items():
        table = pa.Table.from_pylist(rows[split], clean.schema)
        pq.write_table(table, file)
        entry = next(entry for entry in manifest["files"] if entry["path"] == file.relative_to(copy).as_posix())
        entry |= {"rows": table.num_rows, "row_groups": [table.num_rows], "fingerprint": rows_fingerprint(table)}
    manifest["content_fingerprint"] = content_fingerprint(manifest["files"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return PreparedFolder(copy)


def test_what_prepare_writes_passes(clean: PreparedFolder, tmp_path: Path) -> None:
    visits = clean.pois()["train_visits"].to_numpy()
    assert set(outcomes(clean, visits).values()) == {"pass"}
    assert failures(edited(clean, tmp_path / "same", lambda rows: None)) == set()
    assert failures(clean, visits + 1) == {"the tokenizer's index was built from training visits"}
    assert failures(clean, visits[:-1]) == {"the tokenizer's index was built from training visits"}


def test_checks_that_do_not_apply_say_so(clean: PreparedFolder, tmp_path: Path) -> None:
    source = clean.path.parent / "in"
    options = PrepareOptions(split="leave-last-out")
    folder = prepare_folder(source, "tables", tmp_path / "out", options, key="k").folder
    found = outcomes(folder)
    assert found["each part ends before the next one starts"] == "does not apply"
    assert found["the tokenizer's index was built from training visits"] == "does not apply"
    assert set(found.values()) == {"pass", "does not apply"}


def test_kept_repetitions_are_no_leak(tmp_path: Path) -> None:
    table = event_table(num_users=2)
    last = table.sort_by([("user_id", "ascending"), ("timestamp", "ascending")]).slice(table.num_rows - 1)
    source = write(pa.concat_tables([table, last]), tmp_path / "in")
    options = PrepareOptions(split="leave-last-out", duplicates="keep")
    folder = prepare_folder(source, "tables", tmp_path / "out", options, key="k").folder
    assert outcomes(folder)["no event in two parts"] == "does not apply"
    assert failures(folder) == set()


def _same_second_at_unknown_places(rows: dict[str, Rows]) -> None:
    _event_in_two_parts(rows)
    for split in ("validation", "test"):
        rows[split][0]["poi_row"][0] = -1


def test_two_unknown_places_in_one_second_are_no_leak(clean: PreparedFolder, tmp_path: Path) -> None:
    folder = edited(clean, tmp_path / "copy", _same_second_at_unknown_places)
    assert outcomes(folder)["no event in two parts"] == "pass"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: manifest.pop("split"), r"manifest\.json has no split \(dict\)"),
        (lambda manifest: manifest["split"].clear(), r"manifest\.json, split has no rule \(str\)"),
        (lambda manifest: manifest["files"][1].pop("fingerprint"), r"files\[1\] has no fingerprint \(str\)"),
    ],
)
def test_a_manifest_without_what_is_checked_is_named(
    clean: PreparedFolder, tmp_path: Path, change: Callable[[dict], None], said: str
) -> None:
    copy = Path(shutil.copytree(clean.path, tmp_path / "copy"))
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=said):
        check_leaks(PreparedFolder(copy))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda table: table.drop_columns(["timestamp"]), "column timestamp is missing, expected list"),
        (lambda table: table.set_column(1, "poi_row", table["action"]), "column poi_row has type list.*int16.*int32"),
        (
            lambda table: table.set_column(2, "action", pa.array([[0]] * table.num_rows, table["action"].type)),
            "differ in length",
        ),
    ],
)
def test_a_damaged_shard_is_named(
    clean: PreparedFolder, tmp_path: Path, damage: Callable[[pa.Table], pa.Table], said: str
) -> None:
    copy = PreparedFolder(shutil.copytree(clean.path, tmp_path / "copy"))
    file = copy.files("train")[1]
    pq.write_table(damage(pq.read_table(file)), file)
    with pytest.raises(ValueError, match=rf"train/part-00001\.parquet: .*{said}"):
        check_leaks(copy)


def _event_in_two_parts(rows: dict[str, Rows]) -> None:
    rows["validation"][0] = {
        name: rows["test"][0][name][:1] if isinstance(value, list) else rows["test"][0][name]
        for name, value in rows["validation"][0].items()
    }


def _later_event_in_training(rows: dict[str, Rows]) -> None:
    rows["train"][0]["timestamp"][-1] = rows["test"][0]["timestamp"][-1] + 1


def _other_place_in_training(rows: dict[str, Rows]) -> None:
    place = rows["train"][0]["poi_row"]
    place[0] = (place[0] + 1) % 5


def _user_twice(rows: dict[str, Rows]) -> None:
    rows["test"].append(rows["test"][0] | {"timestamp": [time + 7 for time in rows["test"][0]["timestamp"]]})


def _out_of_order(rows: dict[str, Rows]) -> None:
    rows["train"][0]["timestamp"][:2] = [rows["train"][0]["timestamp"][1] + 1, rows["train"][0]["timestamp"][1]]


def _unlisted_place(rows: dict[str, Rows]) -> None:
    rows["test"][0]["poi_row"][0] = 10_000


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (_event_in_two_parts, "no event in two parts"),
        (_later_event_in_training, "each part ends before the next one starts"),
        (_other_place_in_training, "train_visits and train_visitors count training alone"),
        (_user_twice, "one row per user"),
        (_out_of_order, "sequences are in time order, at listed POIs"),
        (_unlisted_place, "sequences are in time order, at listed POIs"),
    ],
)
def test_each_leak_is_found(
    clean: PreparedFolder, tmp_path: Path, edit: Callable[[dict[str, Rows]], None], found: str
) -> None:
    assert found in failures(edited(clean, tmp_path / "copy", edit))


def test_a_shard_that_was_replaced_is_found(clean: PreparedFolder, tmp_path: Path) -> None:
    copy = PreparedFolder(shutil.copytree(clean.path, tmp_path / "copy"))
    shutil.copyfile(copy.files("train")[1], copy.files("train")[0])
    assert "shards hold the rows that the manifest states" in failures(copy)
    pois = copy.pois()
    assert pois.num_rows
    listed = pa.concat_tables([pois, pois.slice(0, 1)])
    listed = listed.set_column(6, "train_visits", pa.array([*pois["train_visits"].to_pylist(), 0], pa.int64()))
    pq.write_table(listed, copy.path / "pois.parquet")
    assert "only POIs of training are listed" in failures(copy)
