"""Runs: same bytes, nothing half finished, nothing prepared twice, no user id in the output."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.prepared import PreparedFolder

from .cities import event_table, write

KEY = "k"


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_same_input_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    options = PrepareOptions(actions_per_file=100, users_per_row_group=2)
    for place in ("one", "two"):
        prepare_folder(write(event_table(), tmp_path / place), "tables", tmp_path / place / "out", options, key=KEY)
    one, two = (content(tmp_path / place / "out") for place in ("one", "two"))
    assert one == two
    assert sum(name.startswith("train/") for name in one) > 1


def test_row_order_of_the_input_does_not_matter(tmp_path: Path) -> None:
    table = event_table()
    order = list(reversed(range(table.num_rows)))
    folders = [
        prepare_folder(write(rows, tmp_path / str(number)), "tables", tmp_path / f"{number}-out", key=KEY).folder
        for number, rows in enumerate([table, table.take(order)])
    ]
    assert folders[0].pois().equals(folders[1].pois())
    for split in ("train", "validation", "test"):
        one, two = (folder.read(split).to_pylist() for folder in folders)
        assert [sorted(zip(*list(row.values())[1:], strict=True)) for row in one] == [
            sorted(zip(*list(row.values())[1:], strict=True)) for row in two
        ]
        assert all(row["timestamp"] == sorted(row["timestamp"]) for row in one)


def test_no_user_id_reaches_the_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_folder(write(event_table(), tmp_path / "in"), "tables", out, key="a secret key")
    for name, data in content(out).items():
        assert b"person-" not in data, name
        assert b"a secret key" not in data, name
    other = prepare_folder(tmp_path / "in", "tables", tmp_path / "other", key="another").folder
    ours = set(PreparedFolder(out).read("train")["user_hash"].to_pylist())
    assert not ours & set(other.read("train")["user_hash"].to_pylist())


def test_done_work_is_not_done_again_and_other_settings_are_refused(tmp_path: Path) -> None:
    source, out = write(event_table(), tmp_path / "in"), tmp_path / "out"
    assert not prepare_folder(source, "tables", out, key=KEY).already_prepared
    before = {name: (out / name).stat().st_mtime_ns for name in content(out)}
    assert prepare_folder(source, "tables", out, PrepareOptions(memory_limit="1GB"), key=KEY).already_prepared
    assert {name: (out / name).stat().st_mtime_ns for name in content(out)} == before
    other = PrepareOptions(min_poi_visits=2)
    with pytest.raises(ValueError, match="--overwrite"):
        prepare_folder(source, "tables", out, other, key=KEY)
    with pytest.raises(ValueError, match="--overwrite"):
        prepare_folder(source, "tables", out, key="another key")
    with pytest.raises(ValueError, match="--overwrite"):
        prepare_folder(source, "tables", out, key=KEY, finish_settings={"scheme": "grid"})
    assert not prepare_folder(source, "tables", out, other, key=KEY, overwrite=True).already_prepared
    (out / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"not readable JSON .*--overwrite"):
        prepare_folder(source, "tables", out, other, key=KEY)
    assert not prepare_folder(source, "tables", out, other, key=KEY, overwrite=True).already_prepared
    assert prepare_folder(source, "tables", out, other, key=KEY).already_prepared
    assert PreparedFolder(out).manifest["settings"]["min_poi_visits"] == 2
    write(event_table(seed=1), tmp_path / "in")
    with pytest.raises(ValueError, match="other input"):
        prepare_folder(source, "tables", out, other, key=KEY)
    assert names(tmp_path) == ["in", "out"]


def test_something_else_at_the_target_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not a prepared folder"):
        prepare_folder(write(event_table(), tmp_path / "in"), "tables", out, key=KEY, overwrite=True)
    assert (out / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_failed_run_leaves_nothing_and_spares_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    source, out = write(event_table(), tmp_path / "in"), tmp_path / "out"

    def fail(folder: Path, actions: list[str]) -> None:
        assert (folder / "pois.parquet").is_file()
        assert not (folder / "manifest.json").exists()
        raise error

    with pytest.raises(error):
        prepare_folder(source, "tables", out, key=KEY, finish=fail)
    assert names(tmp_path) == ["in"]
    prepare_folder(source, "tables", out, key=KEY)
    before = content(out)
    with pytest.raises(error):
        prepare_folder(source, "tables", out, PrepareOptions(min_poi_visits=2), key=KEY, finish=fail, overwrite=True)
    assert content(out) == before
    assert names(tmp_path) == ["in", "out"]


def test_a_killed_run_leaves_nothing_finished_and_can_be_repeated(tmp_path: Path) -> None:
    source, out = write(event_table(), tmp_path / "in"), tmp_path / "out"
    script = (
        "import sys, time\nfrom data_pipelines.prepare import prepare_folder\n"
        "def stop(folder, actions):\n    print('here', flush=True)\n    time.sleep(60)\n"
        f"prepare_folder({str(source)!r}, 'tables', {str(out)!r}, key='k', finish=stop)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert run.stdout is not None
    assert run.stdout.readline() == b"here\n"
    with pytest.raises(ValueError, match="another run"):
        prepare_folder(source, "tables", out, key=KEY)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    time.sleep(0.05)
    assert not out.exists()
    with pytest.raises(ValueError, match="no prepared folder"):
        PreparedFolder(out)
    prepare_folder(source, "tables", out, key=KEY)
    assert names(tmp_path) == ["in", "out"]
    fresh = prepare_folder(source, "tables", tmp_path / "fresh", key=KEY).folder
    assert content(fresh.path) == content(out)
