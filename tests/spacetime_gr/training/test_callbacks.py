"""Callbacks by import path, and what the memory snapshot lists."""

import pytest
import torch

from spacetime_gr.training.callbacks import own_callbacks
from spacetime_gr.training.callbacks.memory import live_storages

HERE = "tests.spacetime_gr.training.own_callbacks"


def test_callbacks_are_made_in_order() -> None:
    assert [callback.name for callback in own_callbacks([f"{HERE}:StepCounter", f"{HERE}:Breakage"])] == [
        "StepCounter",
        "Breakage",
    ]


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["StepCounter"], "expected package.module:Class"),
        (["no.such.module:Class"], "cannot be imported: No module named 'no'; install its package, or add"),
        ([f"{HERE}:Absent"], "has no class Absent derived from"),
        ([f"{HERE}:os"], "has no class os derived from"),
        ([f"{HERE}:StepCounter"] * 2, "several are called 'StepCounter'"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(paths: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=r"run\.callbacks has ") as caught:
        own_callbacks(paths)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_storages_are_counted_once_and_named() -> None:
    table = torch.nn.Parameter(torch.zeros(1_000_003, 2))
    table.grad = torch.zeros_like(table)
    views = [table.detach()[:5], table.detach()[5:]]
    found = live_storages({"table": table}, most=1_000_000)
    own = [entry for entry in found["largest"] if entry["shape"] == [1_000_003, 2]]
    assert [entry["bytes"] for entry in own] == [8_000_024] * 2
    assert sorted(entry["names"] for entry in own) == [["table"], ["table.grad"]]
    assert max(entry["tensors"] for entry in own) >= 1 + len(views)
    assert found["bytes"] == sum(entry["bytes"] for entry in found["largest"])
    assert found["storages"] == len(found["largest"])
