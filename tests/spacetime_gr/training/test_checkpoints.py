"""What is picked up, what is not, and what stays."""

from pathlib import Path

import pytest

from spacetime_gr.training.checkpoints import CheckpointStore


def write(store: CheckpointStore, step: int, permanent: bool = True) -> None:
    folder = store.start(step)
    (folder / "engine").mkdir()
    (folder / "engine" / "weights.pt").write_bytes(b"x" * step)
    store.finish(step, permanent, {"tokens": step * 10})


def steps(store: CheckpointStore) -> list[int]:
    return [checkpoint.step for checkpoint in store.complete()]


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def test_newest_comes_back_with_its_meta(store: CheckpointStore) -> None:
    assert store.newest() is None
    write(store, 5)
    write(store, 12)
    newest = store.newest()
    assert newest is not None
    assert (newest.step, newest.permanent, newest.meta) == (12, True, {"tokens": 120})
    assert (newest.path / "engine" / "weights.pt").stat().st_size == 12


def test_unfinished_is_never_picked_up(store: CheckpointStore) -> None:
    write(store, 5)
    (store.start(9) / "weights.pt").write_bytes(b"half")
    assert steps(store) == [5]
    assert store.remove_unfinished() == [".unfinished-step-00000009"]
    assert [path.name for path in store.folder.iterdir()] == ["step-00000005"]


@pytest.mark.parametrize("damage", ["cut", "lost", "manifest"])
def test_damaged_falls_back_to_the_one_before(store: CheckpointStore, damage: str) -> None:
    write(store, 5)
    write(store, 9)
    folder = store.folder / "step-00000009"
    if damage == "cut":
        (folder / "engine" / "weights.pt").write_bytes(b"x")
    elif damage == "lost":
        (folder / "engine" / "weights.pt").unlink()
    else:
        (folder / "manifest.json").write_text('{"step": 9')
    newest = store.newest()
    assert newest is not None
    assert newest.step == 5
    write(store, 9)
    assert steps(store) == [5, 9]


def test_ephemeral_goes_after_a_newer_one(store: CheckpointStore) -> None:
    for step, permanent in ((2, False), (4, False), (6, True), (8, False)):
        write(store, step, permanent)
    assert steps(store) == [6, 8]


def test_keep_limits_permanent_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step, permanent in ((1, True), (2, True), (3, True), (4, False)):
        write(store, step, permanent)
    assert steps(store) == [2, 3, 4]
