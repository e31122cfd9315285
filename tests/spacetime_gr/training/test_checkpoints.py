"""What is picked up, what is not, and what stays."""

from pathlib import Path

import pytest
import torch

from spacetime_gr.training.checkpoints import CheckpointStore, seal_files
from spacetime_gr.training.distributed import World
from spacetime_gr.training.snapshots import newest_intact

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def write(store: CheckpointStore, step: int, permanent: bool = True) -> None:
    folder = store.start(step)
    weights = folder / "engine" / "weights.pt"
    weights.parent.mkdir()
    weights.write_bytes(b"x" * step)
    store.finish(step, permanent, {"tokens": step * 10}, seal_files(folder, [weights]))


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
    (store.start(8) / "weights.pt").write_bytes(b"half")
    store.abandon(8)
    assert steps(store) == [5]
    assert store.remove_unfinished() == [".unfinished-step-00000009"]
    assert [path.name for path in store.folder.iterdir()] == ["step-00000005"]


DAMAGES = {
    "cut": "engine/weights.pt has 1 bytes of 9",
    "lost": "engine/weights.pt is missing",
    "manifest": "manifest.json is missing or damaged",
    "flipped": "engine/weights.pt is not what was written",
}


def damage(store: CheckpointStore, step: int, kind: str) -> None:
    folder = store.folder / f"step-{step:08d}"
    weights = folder / "engine" / "weights.pt"
    if kind == "cut":
        weights.write_bytes(b"x")
    elif kind == "lost":
        weights.unlink()
    elif kind == "manifest":
        (folder / "manifest.json").write_text('{"step": 9')
    else:
        weights.write_bytes(b"y" + weights.read_bytes()[1:])


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_falls_back_to_the_one_before(
    store: CheckpointStore, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(store, 5)
    write(store, 9)
    damage(store, 9, kind)
    intact = newest_intact(store, ALONE)
    assert intact is not None
    assert intact.step == 5
    said = capsys.readouterr().err
    assert "checkpoint of step 9 is damaged and passed over: " + DAMAGES[kind] in said
    write(store, 9)
    intact = newest_intact(store, ALONE)
    assert intact is not None
    assert intact.step == 9
    assert capsys.readouterr().err == ""


def test_readers_share_the_files(store: CheckpointStore) -> None:
    folder = store.start(5)
    files = [folder / name for name in "abc"]
    for file in files:
        file.write_text("text")
    store.finish(5, True, {}, seal_files(folder, files))
    (store.folder / "step-00000005" / "b").write_text("test")
    found = [store.damage(5, part, 2) for part in (0, 1)]
    assert found[0] is None
    assert found[1] is not None
    assert found[1].startswith("b is not what was written")


def test_none_intact_is_no_fresh_start(store: CheckpointStore) -> None:
    assert newest_intact(store, ALONE) is None
    write(store, 5)
    damage(store, 5, "flipped")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is intact \(step 5: engine/weights.pt .*choose another"):
        newest_intact(store, ALONE)


def test_set_aside_is_no_checkpoint(store: CheckpointStore) -> None:
    for step in (2, 4):
        write(store, step)
        assert store.set_aside(step).is_dir()
    write(store, 4)
    assert store.set_aside(4) == store.folder / "damaged-step-00000004"  # once more: it is replaced
    assert steps(store) == store.steps() == []


def test_ephemeral_goes_after_two_newer_ones(store: CheckpointStore) -> None:
    kept = {2: [2], 4: [2, 4], 6: [4, 6], 8: [6, 8], 10: [6, 8, 10], 12: [6, 10, 12]}
    for step, expected in kept.items():
        write(store, step, permanent=step == 6)
        assert steps(store) == expected


def test_keep_limits_permanent_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step, permanent in ((1, True), (2, True), (3, True), (4, False)):
        write(store, step, permanent)
    assert steps(store) == [2, 3, 4]


def test_pinned_steps_stay(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1, pinned=[2])
    for step in (1, 2, 3, 4):
        write(store, step)
    assert steps(store) == [2, 4]
