"""Callbacks by import path, and what the memory snapshot lists."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from spacetime_gr.training.callbacks import own_callbacks
from spacetime_gr.training.callbacks.memory import live_storages

DOCS = Path(__file__).resolve().parents[3] / "docs"
HERE = "tests.spacetime_gr.training.own_callbacks"


def test_callbacks_are_made_in_order() -> None:
    assert [callback.name for callback in own_callbacks([f"{HERE}:StepCounter", f"{HERE}:Breakage"])] == [
        "StepCounter",
        "Breakage",
    ]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["StepCounter"], "must have the form package.module:name"),
        (["no.such.module:Class"], "cannot import no.such.module (No module named 'no'); install its package, or add"),
        ([f"{HERE}:Absent"], "Absent does not exist in"),
        ([f"{HERE}:os"], "is no class derived from"),
        ([f"{HERE}:StepCounter"] * 2, "several are called 'StepCounter'"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(paths: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"^run\.callbacks") as caught:
        own_callbacks(paths)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_example_of_the_docs_keeps_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n# my_project/watch.py\n(.*?)```", (DOCS / "monitoring.md").read_text(), re.DOTALL)
    (tmp_path / "my_project").mkdir()
    (tmp_path / "my_project" / "watch.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    trainer: Any = None
    first, later = (own_callbacks(["my_project.watch:LossSpikes"])[0] for _ in range(2))
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
