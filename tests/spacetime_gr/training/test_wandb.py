"""The wandb sink with its real client, offline and without a key: nothing is asked, the run keeps its id, and what it
was trained with is recorded. A lost wandb: test_monitoring.py."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from spacetime_gr.training.callbacks import Wandb
from spacetime_gr.training.loading import load_config
from spacetime_gr.training.versions import code_versions


@pytest.fixture
def trainer(city: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the sink reads of a trainer; no key in the environment."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no key file either
    monkeypatch.setattr(Wandb, "finish_seconds", 300.0)  # on a busy machine the client's import takes a minute
    file = tmp_path / "run.yaml"
    file.write_text(f"run: {{dir: {tmp_path / 'run'}}}\ndata: {{path: {city}}}\ntrain: {{max_steps: 5}}\n")
    (tmp_path / "run").mkdir()
    return SimpleNamespace(config=load_config(file), run_dir=tmp_path / "run")


def session(trainer: Any, callback: Wandb) -> None:
    """One session of a run: start, two lines of metrics, end."""
    callback.on_start(trainer)
    for step in (1, 2):
        callback.on_log(trainer, {"step": step, "tokens": 100 * step, "loss": 1.0 / step})
    callback.close("finished")


def test_offline_without_a_key_and_resumed_with_its_id(trainer: Any) -> None:
    first = Wandb(is_main=True)
    session(trainer, first)
    resumed = Wandb(is_main=True)
    assert resumed.run_id != first.run_id
    resumed.load_state_dict(first.state_dict())
    session(trainer, resumed)
    folders = sorted((trainer.run_dir / "wandb").glob("offline-run-*"))
    assert folders
    assert all(folder.name.endswith(first.run_id) for folder in folders)
    assert (first.lost, resumed.lost) == (False, False)
    for folder in folders:
        (file,) = folder.glob("*.wandb")
        recorded = file.read_bytes()
        assert all(word in recorded for word in (b"transformers", b"max_steps", code_versions()["torch"].encode()))


def test_versions_name_the_commit_and_packages() -> None:
    found = code_versions()
    assert found["transformers"] == transformers.__version__
    commit = found.get("commit", "0" * 40)  # a copy without its repository has none
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?", commit)


def test_other_ranks_log_nothing(trainer: Any) -> None:
    session(trainer, Wandb(is_main=False))
    assert not (trainer.run_dir / "wandb").exists()
