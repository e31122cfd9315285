"""Callbacks by import path, and what the memory snapshot lists."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from spacetime_gr.training import callbacks
from spacetime_gr.training.callbacks import Callback, own_callbacks
from spacetime_gr.training.callbacks.memory import live_storages
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.distributed import World
from spacetime_gr.training.trainer import Trainer
from tests.spacetime_gr.training.own_callbacks import Breakage, StepCounter

DOCS = Path(__file__).resolve().parents[3] / "docs"
HERE = "tests.spacetime_gr.training.own_callbacks"


def test_classes_come_in_order() -> None:
    assert own_callbacks([f"{HERE}:StepCounter", f"{HERE}:Breakage"]) == [StepCounter, Breakage]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["StepCounter"], "must have the form package.module:name"),
        (["no.such.module:Class"], "cannot import no.such.module (No module named 'no'); install its package, or add"),
        ([f"{HERE}:Absent"], "Absent does not exist in"),
        ([f"{HERE}:os"], "is no class derived from"),
        ([f"{HERE}:StepCounter"] * 2, "StepCounter twice"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(paths: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"^run\.callbacks") as caught:
        own_callbacks(paths)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_two_callbacks_of_a_run_share_a_name() -> None:
    config = PretrainConfig.model_validate(
        {"run": {"dir": "unused"}, "data": {"path": "unused"}, "train": {"max_steps": 1}, "guard": {"enabled": False}}
    )

    class Metrics(Callback):
        """Called as one of the run's own."""

    engine: Any = SimpleNamespace(bfloat16_enabled=lambda: False)
    stream: Any = None
    with pytest.raises(ValueError, match="several callbacks of the run are called 'Metrics'"):
        Trainer(config, engine, stream, World(0, 1, 0, 1, torch.device("cpu")), 0, [callbacks.Metrics(), Metrics()])


def test_the_example_of_the_docs_keeps_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n# my_project/watch.py\n(.*?)```", (DOCS / "monitoring.md").read_text(), re.DOTALL)
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "watch.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    trainer: Any = None
    first, later = (own_callbacks(["my_project.watch:LossSpikes"])[0]() for _ in range(2))
    for loss in (2.0, None, 1.0, 3.0):
        first.on_log(trainer, {"loss": loss})
    later.load_state_dict(first.state_dict())
    later.on_log(trainer, {"loss": 2.5})
    assert later.metrics(trainer) == {"spikes": 2}


def test_storages_are_counted_once_and_named() -> None:
    table = torch.nn.Parameter(torch.zeros(1_000_003, 2))
    table.grad = torch.zeros_like(table)
    views = [table.detach()[:5], table.detach()[5:]]
    with FakeTensorMode():
        traced = torch.zeros(1_000_003, 2)  # has no memory
    found = live_storages({"table": table}, most=1_000_000)
    own = [entry for entry in found["largest"] if entry["shape"] == [1_000_003, 2]]
    assert [entry["bytes"] for entry in own] == [8_000_024] * 2
    assert sorted(entry["names"] for entry in own) == [["table"], ["table.grad"]]
    assert traced.numel() == table.numel()
    assert max(entry["tensors"] for entry in own) >= 1 + len(views)
    assert found["bytes"] == sum(entry["bytes"] for entry in found["largest"])
    assert found["storages"] == len(found["largest"])
