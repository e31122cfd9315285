"""What a checkpoint holds is held against the model before anything is copied."""

from pathlib import Path

import pytest
import torch
from torch import nn

from spacetime_gr.training import resharding
from spacetime_gr.training.checkpoints import Checkpoint
from spacetime_gr.training.resharding import WEIGHT, Fragments, Source, load_weights


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({"weight": 6, "bias": 2}, None),
        ({"weight": 6}, "the parameter bias is in one of them only"),
        ({"weight": 4, "bias": 2}, "the parameter weight has 4 numbers there, 6 here"),
    ],
)
def test_weights_of_another_model_are_refused(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], found: str | None
) -> None:
    source = Source({name: Fragments() for name in sizes}, torch.tensor(3.0))
    for name, size in sizes.items():
        for part in torch.arange(float(size)).split(size // 2):  # of two ranks
            source.parameters[name].add({WEIGHT: part})
    monkeypatch.setattr(resharding, "read_source", lambda checkpoint, names: source)
    monkeypatch.setattr(resharding, "load_states", lambda path: {"module": {}, "buffer_names": []})
    model, checkpoint = nn.Linear(3, 2), Checkpoint(Path("step-3"), 3, True, {"zero_stage": 3}, {})
    if found is not None:
        with pytest.raises(ValueError, match=found):
            load_weights(model, checkpoint, ["weight", "bias"])
        return
    load_weights(model, checkpoint, ["weight", "bias"])
    assert model.weight.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert model.bias.tolist() == [0, 1]
