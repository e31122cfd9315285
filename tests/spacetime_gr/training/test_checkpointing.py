"""When checkpoints are written, and how many failures are borne. The engine is left out."""

import errno
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.config import ZeroStageEnum

from spacetime_gr.training import snapshots
from spacetime_gr.training.callbacks import Checkpointing
from spacetime_gr.training.checkpoints import CheckpointStore, seal_files
from spacetime_gr.training.config import CheckpointSection
from spacetime_gr.training.distributed import World
from spacetime_gr.training.safe_loading import SafeCheckpointEngine
from spacetime_gr.training.snapshots import CheckpointError, Snapshot


class Disk:
    """In place of `snapshots.write`: writes, or raises while it is full; waits while the gate is closed."""

    def __init__(self) -> None:
        self.full = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, snapshot: Snapshot, store: CheckpointStore, rank: int) -> Any:
        assert self.gate.wait(60)
        file = store.start(snapshot.step) / "file"
        file.write_text(str(snapshot.states["weights"].tolist()))
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return seal_files(file.parent, [file])


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    def collect(trainer: Any, permanent: bool) -> Snapshot:
        return Snapshot(trainer.progress.step, permanent, {}, {"weights": trainer.weights}, "{}", {})

    disk = Disk()
    monkeypatch.setattr(snapshots, "collect", collect)
    monkeypatch.setattr(snapshots, "write", disk)
    return disk


def make_trainer(folder: Path, **settings: Any) -> Any:
    section = CheckpointSection(**settings)
    return SimpleNamespace(
        config=SimpleNamespace(checkpoint=section),
        progress=SimpleNamespace(step=0),
        store=CheckpointStore(folder, section.keep, section.steps),
        world=World(0, 1, 0, 1, torch.device("cpu")),
        weights=torch.zeros(1),
        finished=False,
        stopping=False,
        extra_metrics={},
    )


def go(trainer: Any, callback: Checkpointing, step: int) -> list[int]:
    trainer.progress.step = step
    callback.on_step(trainer)
    return trainer.store.steps()


def test_due_steps(tmp_path: Path, disk: Disk) -> None:
    trainer = make_trainer(tmp_path, every=10, ephemeral_every=4, steps=[5], keep=1)
    callback = Checkpointing()
    seen = {step: go(trainer, callback, step) for step in range(1, 22)}
    assert seen[4] == [4]
    assert seen[5] == seen[7] == [4, 5]
    assert seen[10] == [5, 8, 10]
    assert seen[20] == [5, 16, 20]
    trainer.stopping = True
    assert go(trainer, callback, 22) == [5, 20, 22]


def test_ephemeral_failures_are_borne_until_they_are_too_many(
    tmp_path: Path, disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path, ephemeral_every=1, max_failures=3)
    callback = Checkpointing()
    assert go(trainer, callback, 1) == [1]
    disk.full = True
    assert go(trainer, callback, 2) == go(trainer, callback, 3) == [1]
    assert trainer.extra_metrics == {"checkpoint_failed": 2.0}
    said = capsys.readouterr().err
    assert "warning: the checkpoint of step 2 could not be written (rank 0: [Errno 28] No space left on device" in said
    assert "failure 2 of 3 allowed" in said
    disk.full = False
    assert go(trainer, callback, 4) == [1, 4]
    disk.full = True
    go(trainer, callback, 5)
    go(trainer, callback, 6)
    with pytest.raises(CheckpointError, match=r"3 in a row. The newest checkpoint is .*step-00000004"):
        go(trainer, callback, 7)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000001", "step-00000004"]


@pytest.mark.parametrize("kind", ["permanent", "last", "stop"])
def test_some_failures_end_the_run(tmp_path: Path, disk: Disk, kind: str) -> None:
    trainer = make_trainer(tmp_path, every=3 if kind == "permanent" else None)
    trainer.finished, trainer.stopping = kind == "last", kind == "stop"
    disk.full = True
    with pytest.raises(CheckpointError, match="could not be written"):
        go(trainer, Checkpointing(), 3)


def test_background_writes_what_was_and_is_waited_for(tmp_path: Path, disk: Disk) -> None:
    trainer = make_trainer(tmp_path, ephemeral_every=4, asynchronous=True)
    callback = Checkpointing()
    callback.on_start(trainer)
    disk.gate.clear()
    assert go(trainer, callback, 4) == []
    trainer.weights += 1  # training goes on
    assert go(trainer, callback, 5) == []
    disk.gate.set()
    assert go(trainer, callback, 8)[0] == 4  # the next one waits for it
    assert (tmp_path / "step-00000004" / "file").read_text() == "[0.0]"
    trainer.finished = True
    assert go(trainer, callback, 9) == [8, 9]
    trainer.finished = False
    disk.full = True
    go(trainer, callback, 12)
    trainer.stopping = True
    with pytest.raises(CheckpointError, match="step 13 could not be written"):
        go(trainer, callback, 13)
    callback.close("failed")


def test_copies_keep_tied_weights_tied() -> None:
    weight = torch.arange(4.0)
    snapshot = Snapshot(1, True, {}, {"file": {"embed": weight, "head": weight[:], "part": weight[:2]}}, "{}", {})
    copied = snapshot.copied().states["file"]
    weight.zero_()
    assert copied["embed"].tolist() == [0, 1, 2, 3]
    assert copied["head"] is copied["embed"]
    assert copied["part"].tolist() == [0, 1]


def test_members_of_enumerations_are_kept_as_values() -> None:
    """Python 3.11.2 pickles a member as a call of getattr, which `weights_only=True` refuses to read."""
    engine = SafeCheckpointEngine()
    shape = torch.Size([2, 3])
    engine.save({"zero_stage": ZeroStageEnum.gradients, "nested": [ZeroStageEnum.weights], "shape": shape}, "state.pt")
    state = engine.take()["state.pt"]
    assert state.pop("shape").numel() == 6
    assert state == {"zero_stage": 2, "nested": [3]}
    assert [type(state["zero_stage"]), type(state["nested"][0])] == [int, int]
