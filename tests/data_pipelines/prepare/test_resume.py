"""A run killed at any point goes on to the very bytes of an uninterrupted one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.prepare.journal import Journal

from .cities import event_table, write
from .test_run import KEY, content, names

OPTIONS = PrepareOptions(actions_per_file=60, users_per_row_group=2)
SCRIPT = """
import os, signal, sys
from data_pipelines.prepare import PrepareOptions, prepare_folder

def die_at(step):
    if step.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

def finish(folder, actions):
    die_at("tokenizer")
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "half").write_text("half")
    die_at("half a tokenizer")

options = PrepareOptions(actions_per_file=60, users_per_row_group=2)
prepare_folder(sys.argv[1], "tables", sys.argv[2], options, key="k", finish=finish, progress=die_at)
"""


def finish(folder: Path, actions: list[str]) -> None:
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "whole").write_text("whole")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(event_table(num_users=30), tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    prepare_folder(source, "tables", out, OPTIONS, key=KEY, finish=finish)
    return content(out)


@pytest.mark.parametrize(
    ("point", "num_shards"), [("ordering events", 0), ("writing shard 4", 3), ("half a tokenizer", None)]
)
def test_killed_and_resumed(
    source: Path, whole: dict[str, bytes], tmp_path: Path, point: str, num_shards: int | None
) -> None:
    out = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(source), str(out), point], capture_output=True, text=True, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert names(tmp_path) == [".out.preparing"]
    shards = [name for name in whole if name.split("/")[0] in ("train", "validation", "test")]
    unfinished = tmp_path / ".out.preparing"
    finished = {file: file.stat().st_mtime_ns for file in unfinished.glob("t*/*.parquet")}
    assert len([name for name in shards if (unfinished / name).is_file()]) == (
        len(shards) if num_shards is None else num_shards
    )
    # Half a shard and half a line, as a kill in the middle of a write leaves them.
    if num_shards is not None:
        (unfinished / "train").mkdir(exist_ok=True)
        (unfinished / "train" / f"part-{num_shards:05d}.unfinished").write_bytes(b"PAR1")
    with (unfinished / "work" / "journal.jsonl").open("a") as journal:
        journal.write('{"shard": {"path": "train/pa')
    other = PrepareOptions(actions_per_file=70, users_per_row_group=2)
    with pytest.raises(ValueError, match="interrupted run had other input or settings"):
        prepare_folder(source, "tables", out, other, key=KEY, finish=finish, resume=True)
    steps: list[str] = []
    prepare_folder(source, "tables", out, OPTIONS, key=KEY, finish=finish, resume=True, progress=steps.append)
    assert content(out) == whole
    assert names(tmp_path) == ["out"]
    assert ("checking rows" in steps) == (point == "ordering events")
    kept = {out / file.relative_to(unfinished): time for file, time in finished.items()}
    assert {file: file.stat().st_mtime_ns for file in kept} == kept


def test_a_failed_resumable_run_keeps_its_work(source: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    def fail(folder: Path, actions: list[str]) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(source, "tables", out, OPTIONS, key=KEY, finish=fail, resume=True)
    assert names(tmp_path) == [".out.preparing"]
    steps: list[str] = []
    prepare_folder(source, "tables", out, OPTIONS, key=KEY, finish=finish, resume=True, progress=steps.append)
    assert not [step for step in steps if step.startswith(("checking", "writing shard"))]
    assert content(out) == whole


@pytest.mark.parametrize("damage", ["emptied", "lost", "of another run"])
def test_a_shard_that_a_crash_damaged_is_written_again(
    source: Path, whole: dict[str, bytes], tmp_path: Path, damage: str
) -> None:
    def fail(folder: Path, actions: list[str]) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(source, "tables", out, OPTIONS, key=KEY, finish=fail, resume=True)
    first, second = sorted((tmp_path / ".out.preparing" / "train").iterdir())[:2]
    if damage == "emptied":
        os.truncate(first, 0)
    elif damage == "lost":
        first.unlink()
    else:
        pq.write_table(pq.read_table(second).slice(0, 1), first)
    steps: list[str] = []
    prepare_folder(source, "tables", out, OPTIONS, key=KEY, finish=finish, resume=True, progress=steps.append)
    assert [step.split(": ")[1] for step in steps if step.startswith("writing shard")] == ["train/part-00000.parquet"]
    assert content(out) == whole


def test_a_shard_with_fewer_actions_than_planned_stops_the_run(source: Path, tmp_path: Path) -> None:
    def lose_rows(step: str) -> None:
        if step.startswith("writing shard 2"):
            (file,) = (tmp_path / ".out.preparing" / "work" / "buckets" / "bucket=1").glob("*.parquet")
            pq.write_table(pq.read_table(file, partitioning=None).slice(7), file)

    with pytest.raises(ValueError, match=r"train/part-00001\.parquet: .* actions were counted .*without --resume"):
        prepare_folder(source, "tables", tmp_path / "out", OPTIONS, key=KEY, progress=lose_rows)
    assert names(tmp_path) == []


def test_a_journal_takes_no_torn_line(tmp_path: Path) -> None:
    identity = {"fingerprints": {"inputs": "1"}}
    journal = Journal(tmp_path / "journal", identity)
    journal.record_content({"shards": []})
    journal.record_shard({"path": "train/part-00000.parquet"})
    size = (tmp_path / "journal").stat().st_size
    os.truncate(tmp_path / "journal", size - 1)
    again = Journal(tmp_path / "journal", identity)
    assert again.content == {"shards": []}
    assert again.files == {}
    again.record_shard({"path": "train/part-00001.parquet"})
    assert list(Journal(tmp_path / "journal", identity).files) == ["train/part-00001.parquet"]
