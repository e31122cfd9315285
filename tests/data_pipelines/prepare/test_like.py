"""Two sources with one POI list and one tokenizer: `prepare --like`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from data_pipelines.prepare import PrepareOptions, plan_folder, prepare_folder
from data_pipelines.prepare.embeddings import FILE_NAME
from data_pipelines.prepare.users import user_key
from data_pipelines.prepared import PreparedFolder
from spacetime_gr.cli.main import app
from spacetime_gr.training.data import load_tokenizer, open_stream
from spacetime_gr.training.loading import load_config

from .cities import event_table, write

KEY = "k"
SHARED = (
    "train_visits and train_visitors count training alone",
    "only POIs of training are listed",
    "the tokenizer's index was built from training visits",
)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def other_table(first: int = 15, **changes: Any) -> pa.Table:
    """Other people at POIs of which the first source knows some: those before number 30."""
    table = event_table(seed=5, **changes)
    number = [int(name[4:]) + first for name in table["poi_id"].to_pylist()]
    table = table.set_column(1, "poi_id", pa.array([f"poi-{value:03d}" for value in number]))
    return table.set_column(0, "user_id", pa.array([f"other-{name}" for name in table["user_id"].to_pylist()]))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `app` and `check-ins`, the second like the first."""
    root = tmp_path_factory.mktemp("like")
    pois = pa.table(
        {
            "poi_id": [f"poi-{number:03d}" for number in range(30)],
            "latitude": 31 + np.arange(30) / 100,
            "longitude": 121 + np.arange(30) / 100,
            "embedding": np.arange(60, dtype=np.float32).reshape(30, 2).tolist(),
        }
    )
    write(event_table(), root / "in-app")
    write(pois, root / "in-app", "pois.parquet")
    write(other_table(), root / "in-check-ins")
    common = ("prepare", "--format", "tables", "--source")
    run(*common, root / "in-app", "--out", root / "app", "--max-pois-per-block", 8)
    run(*common, root / "in-check-ins", "--out", root / "check-ins", "--like", root / "app")
    return root


def test_what_is_shared_is_the_same_to_the_byte(root: Path) -> None:
    ours, others = root / "check-ins", root / "app"
    shared = [others / "pois.parquet", others / FILE_NAME, *(others / "tokenizer").rglob("*")]
    files = [file.relative_to(others) for file in shared if file.is_file()]
    assert len(files) > 4
    assert all((ours / file).read_bytes() == (others / file).read_bytes() for file in files)
    folder, other = PreparedFolder(ours), PreparedFolder(others)
    assert folder.actions == other.actions
    assert folder.manifest["poi_embedding_size"] == 2
    assert folder.manifest["like"] == other.manifest["content_fingerprint"]
    assert other.manifest["like"] is None
    assert set(folder.manifest["settings"]["like"]) == {file.as_posix() for file in files}


def test_events_at_other_places_stay_in_every_part_and_are_counted(root: Path) -> None:
    folder = PreparedFolder(root / "check-ins")
    ids = folder.pois()["poi_id"].to_pylist()
    row_of = {name: row for row, name in enumerate(ids)}
    raw = other_table()
    wanted = sorted(
        (time, row_of.get(name, -1))
        for time, name in zip(raw["timestamp"].to_pylist(), raw["poi_id"].to_pylist(), strict=True)
    )
    found = []
    for split, counts in folder.manifest["counts"]["splits"].items():
        table = folder.read(split)
        times, rows = (pc.list_flatten(table[name]).to_pylist() for name in ("timestamp", "poi_row"))
        assert counts["actions_at_unknown_pois"] == rows.count(-1) > 0
        assert counts["actions"] == len(rows) > rows.count(-1)
        found += zip(times, rows, strict=True)
    duplicates = folder.manifest["rejected"].get("duplicate", 0)
    assert len(found) == len(wanted) - duplicates
    assert sorted(set(found)) == sorted(set(wanted))
    assert folder.manifest["counts"]["rows_rejected"] == duplicates
    assert folder.manifest["counts"]["rows_filtered"] == 0


def test_one_stream_reads_both_by_weight(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    folders = f"[{{path: {root / 'app'}, weight: 2}}, {root / 'check-ins'}]"
    file.write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\ntrain: {{max_steps: 5}}\n"
        f"data: {{path: {folders}, num_lanes: 8, row_length: 64}}\n"
    )
    config = load_config(file)
    tokenizer = load_tokenizer(config)
    stream = open_stream(config, tokenizer)
    batches = [next(stream) for _ in range(4)]
    assert set(stream.corpus_shares) == {str(root / "app"), str(root / "check-ins")}
    # Unknown places are context: they are read, and nothing of their action is supervised.
    unknown = [batch["input_ids"][:, 1::4] == tokenizer.unk_token_id for batch in batches]
    assert any(mask.any() for mask in unknown)
    for batch, mask in zip(batches, unknown, strict=True):
        assert (batch["labels"].reshape(*mask.shape, 4)[mask] == -100).all()
    held_out = list(open_stream(config, tokenizer, split="validation").rows_once())
    assert held_out


def test_the_leak_check_passes_on_both(root: Path) -> None:
    assert "does not apply" not in run("check-leaks", root / "app")
    said = run("check-leaks", root / "check-ins")
    assert said.count("does not apply") == len(SHARED)


def test_a_third_folder_may_be_like_the_second(root: Path, tmp_path: Path) -> None:
    folder = prepare_folder(root / "in-app", "tables", tmp_path / "out", like=root / "check-ins", key=KEY).folder
    assert (folder.path / "pois.parquet").read_bytes() == (root / "app" / "pois.parquet").read_bytes()
    # The same events at the same POIs: whoever prepares them, the rows are the same.
    alone = prepare_folder(root / "in-app", "tables", tmp_path / "alone", key=KEY).folder
    assert folder.read("train").equals(alone.read("train"))


def test_a_place_without_coordinates_is_the_shared_one(root: Path, tmp_path: Path) -> None:
    table = other_table(first=0)
    missing = pa.nulls(table.num_rows, pa.float64())
    for name in ("latitude", "longitude"):
        table = table.set_column(table.column_names.index(name), name, missing)
    like = root / "app"
    folder = prepare_folder(write(table, tmp_path / "in"), "tables", tmp_path / "out", like=like, key=KEY).folder
    assert set(folder.manifest["rejected"]) <= {"missing coordinates", "duplicate"}
    known = set(folder.pois()["poi_id"].to_pylist())
    lost = sum(name not in known for name in table["poi_id"].to_pylist())
    assert folder.manifest["rejected"].get("missing coordinates", 0) == lost
    assert folder.manifest["counts"]["actions"] > 0


def test_users_are_selected_by_their_training_events_at_shared_places(root: Path, tmp_path: Path) -> None:
    table = PreparedFolder(root / "check-ins").read("train", ["user_hash", "poi_row"])
    users = table["user_hash"].to_pylist()
    num_known = [sum(row >= 0 for row in rows) for rows in table["poi_row"].to_pylist()]
    least = max(num_known)
    stay = {user for user, num in zip(users, num_known, strict=True) if num == least}
    assert len(stay) < len(users)
    source, options = root / "in-check-ins", PrepareOptions(min_user_events=least)
    key = user_key(warn=False)  # as the command took it
    folder = prepare_folder(source, "tables", tmp_path / "out", options, like=root / "app", key=key).folder
    chosen = folder.read("train", ["user_hash", "poi_row"])
    assert set(chosen["user_hash"].to_pylist()) == stay
    assert -1 in pc.list_flatten(chosen["poi_row"]).to_pylist()


def test_a_change_of_the_shared_folder_is_noticed(root: Path, tmp_path: Path) -> None:
    like, out, source = Path(shutil.copytree(root / "app", tmp_path / "like")), tmp_path / "out", root / "in-check-ins"
    assert not prepare_folder(source, "tables", out, like=like, key=KEY).already_prepared
    moved = like.rename(tmp_path / "moved")
    assert prepare_folder(source, "tables", out, like=moved, key=KEY).already_prepared
    with pytest.raises(ValueError, match="other settings"):
        prepare_folder(source, "tables", out, key=KEY)

    def stop(folder: Path, actions: list[str]) -> None:
        raise KeyboardInterrupt

    resumed = tmp_path / "resumed"
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(source, "tables", resumed, like=moved, key=KEY, resume=True, finish=stop)
    description = moved / "tokenizer" / "tokenizer_config.json"
    description.write_text(json.dumps(json.loads(description.read_text())))
    for place, resume in ((out, False), (resumed, True)):
        with pytest.raises(ValueError, match="other input or"):
            prepare_folder(source, "tables", place, like=moved, key=KEY, resume=resume)


def test_an_interrupted_run_goes_on(root: Path, tmp_path: Path) -> None:
    def stop(folder: Path, actions: list[str]) -> None:
        raise KeyboardInterrupt

    common = {"like": root / "app", "key": KEY}
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(root / "in-check-ins", "tables", out, finish=stop, resume=True, **common)
    prepare_folder(root / "in-check-ins", "tables", out, resume=True, **common)
    prepare_folder(root / "in-check-ins", "tables", fresh, **common)
    names = [file.relative_to(fresh) for file in fresh.rglob("*") if file.is_file()]
    assert sorted(names) == sorted(file.relative_to(out) for file in out.rglob("*") if file.is_file())
    assert all((out / name).read_bytes() == (fresh / name).read_bytes() for name in names)


def test_a_dry_run_plans_the_same(root: Path) -> None:
    planned = plan_folder(root / "in-check-ins", "tables", like=root / "app", key=KEY)
    written = PreparedFolder(root / "check-ins").manifest
    assert planned["counts"]["pois"] == written["counts"]["pois"]
    assert {name: part["actions_at_unknown_pois"] for name, part in planned["counts"]["splits"].items()} == {
        name: part["actions_at_unknown_pois"] for name, part in written["counts"]["splits"].items()
    }


def test_an_unknown_action_type_is_named(root: Path, tmp_path: Path) -> None:
    table = other_table()
    actions = ["pay" if number == 7 else name for number, name in enumerate(table["action"].to_pylist())]
    source = write(table.set_column(2, "action", pa.array(actions)), tmp_path / "in")
    with pytest.raises(ValueError, match=r"--like .*app does not know: 'pay' \(1 events\); .*'click', 'navigate'"):
        prepare_folder(source, "tables", tmp_path / "out", like=root / "app", key=KEY)
    assert not (tmp_path / "out").exists()


def test_a_source_without_a_shared_place_trains_nothing(root: Path, tmp_path: Path) -> None:
    source = write(other_table(first=100), tmp_path / "in")
    with pytest.raises(ValueError, match=r"no event is left to train on .*ids of --like .*app"):
        prepare_folder(source, "tables", tmp_path / "out", like=root / "app", key=KEY)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-poi-visits", "2"], "--min-poi-visits 2 .*--like"),
        (["--catalogue", "all"], "--catalogue all .*--like"),
        (["--scheme", "quadtree"], "--scheme .*--like"),
        (["--max-pois-per-block", "9"], "--max-pois-per-block .*--like"),
        (["--cell-km", "5"], "--cell-km .*--like"),
    ],
)
def test_settings_that_would_change_what_is_shared_are_refused(
    root: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    common = ("prepare", "--source", root / "in-check-ins", "--format", "tables", "--like", root / "app")
    with pytest.raises(ValueError, match=said):
        run(*common, "--out", tmp_path / "out", *options)


def test_a_folder_that_cannot_be_shared_is_refused(root: Path, tmp_path: Path) -> None:
    source, out = root / "in-check-ins", tmp_path / "out"
    with pytest.raises(ValueError, match="no prepared folder at"):
        prepare_folder(source, "tables", out, like=tmp_path / "nothing", key=KEY)
    with pytest.raises(ValueError, match="copy it here first"):
        prepare_folder(source, "tables", out, like="memory://folder", key=KEY)
    bare = prepare_folder(root / "in-app", "tables", tmp_path / "bare", key=KEY).folder
    with pytest.raises(ValueError, match=r"bare/tokenizer is missing; run .*prepare --overwrite"):
        prepare_folder(source, "tables", out, like=bare.path, key=KEY)
    with pytest.raises(ValueError, match="--out and --like are both"):
        prepare_folder(source, "tables", root / "app", like=root / "app", key=KEY, overwrite=True)
