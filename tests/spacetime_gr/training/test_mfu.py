"""MFU in the metrics: the work of the rows that were seen, over time and peak."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.synthetic_rows import synthetic_rows
from spacetime_gr import SpacetimeGRConfig
from spacetime_gr.training.callbacks import metrics
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.distributed import World
from spacetime_gr.training.flops import BatchCounts, model_flops, total_work
from spacetime_gr.training.trainer import Trainer
from spacetime_gr.training.window import Window

CPU = torch.device("cpu")
SIZES = SpacetimeGRConfig(num_blocks=50, num_inner=10, num_actions=2, hidden_size=32)


class Engine:
    """Counts what is supervised, and computes nothing."""

    module = SimpleNamespace(config=SIZES)
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.0}])

    def __call__(self, labels: torch.Tensor, **_: Any) -> SimpleNamespace:
        supervised = (labels != -100).sum() / 3
        return SimpleNamespace(loss=torch.zeros(()), loss_sums=torch.zeros(3), loss_counts=supervised.expand(3))

    def bfloat16_enabled(self) -> bool:
        return False

    def get_global_grad_norm(self) -> float:
        return 1.0

    def train(self) -> None: ...

    def backward(self, loss: torch.Tensor, scale_wrt_gas: bool) -> None: ...

    def step(self) -> None: ...


def test_mfu_knows_packing_and_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "device_peak_flops", lambda *_: 1e9)
    config = PretrainConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "data": {"path": "unused", "row_length": 64, "num_lanes": 4},
            "train": {"max_steps": 9, "gradient_accumulation": 2},
            "guard": {"enabled": False},  # the engine has no optimiser to hold back
        }
    )
    batch = synthetic_rows(SIZES, 4, 64, 16, 0.5)
    batch["input_ids"][3, 32:] = 0  # half of a row is padding
    batch["labels"][3, 32:] = -100
    batch["position_ids"][3, 32:] = 0
    stream = SimpleNamespace(
        multi_mode_share=0.0, scheduled_multi_mode_share=0.0, corpus_shares={}, last_rows=[], stats=dict
    )
    trainer = Trainer(config, Engine(), stream, World(0, 1, 0, 1, CPU), pad_token_id=0)
    callback = metrics.Metrics()
    callback.on_start(trainer)
    for _ in range(2):
        trainer.train_step(iter([batch]))
    kept = trainer.window.values()
    record = callback._record(trainer)

    tokens, supervised = 2 * (4 * 64 - 32), 2 * int(np.count_nonzero(batch["labels"] != -100)) / 3
    counts = BatchCounts(tokens, tokens * 17 / 2, (supervised,) * 3)
    assert trainer.window.pairs == counts.pairs
    assert record["mfu"] == pytest.approx(total_work(model_flops(SIZES, counts)).total / trainer.window.seconds / 1e9)
    assert Window.from_values(kept, CPU).values() == kept
