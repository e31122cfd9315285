"""The skip-step guard on one process: a plain module takes the place of the DeepSpeed engine.

What it does under ZeRO and on several ranks is part of test_parity.py.
"""

import json
import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from spacetime_gr.cli.main import app
from spacetime_gr.training.averaging import AveragingAdamW
from spacetime_gr.training.callbacks import Callback
from spacetime_gr.training.config import GuardSection, PretrainConfig
from spacetime_gr.training.data import load_tokenizer, open_stream
from spacetime_gr.training.distributed import World
from spacetime_gr.training.guard import StepGuard
from spacetime_gr.training.loading import dump_config
from spacetime_gr.training.trainer import Trainer

WORLD = World(0, 1, 0, 1, torch.device("cpu"))
LR = 0.1


class Engine:
    """The face of a DeepSpeed engine without ZeRO. `factors`: step -> what its loss is multiplied by."""

    def __init__(self, factors: dict[int, float], fused: bool = True) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(4, 1)
        self.optimizer = self.basic_optimizer = AveragingAdamW(self.module.parameters(), lr=LR, fused=fused, power=1)
        self.factors, self.step_number = factors, 0

    def __call__(self, input_ids: torch.Tensor, labels: torch.Tensor, num_items_in_batch: float, **_: Any) -> Any:
        factor = self.factors.get(self.step_number, 1.0)
        inputs = torch.nn.functional.one_hot(input_ids % 4, 4).float()
        sums = factor * (self.module(inputs).squeeze(-1) - 2.0).square().sum()
        counts = torch.tensor([float((labels != -100).sum()), 0.0, 0.0], dtype=torch.float64)
        sums_by_part = torch.stack([sums.detach().double(), torch.zeros(()), torch.zeros(())])
        return SimpleNamespace(loss=sums / num_items_in_batch, loss_sums=sums_by_part, loss_counts=counts)

    def backward(self, loss: torch.Tensor, scale_wrt_gas: bool) -> None:
        loss.backward()

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1

    def train(self) -> None:
        self.module.train()

    def bfloat16_enabled(self) -> bool:
        return False


def settings(city: Path, run: Path, **guard: Any) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run": {"dir": str(run)},
            "data": {"path": str(city), "row_length": 64, "num_lanes": 2},
            "train": {"max_steps": 6, "lr": LR, "warmup_steps": 0, "schedule": "constant"},
            "deepspeed": {"zero_stage": 0},
            "guard": {"window": 4, **guard},
        }
    )


def trainer_of(config: PretrainConfig, factors: dict[int, float], callbacks: list[Callback] | None = None) -> Trainer:
    Path(config.run.dir).mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(config)
    return Trainer(
        config, Engine(factors), open_stream(config, tokenizer), WORLD, tokenizer.pad_token_id, callbacks or []
    )


def same_batch(trainer: Trainer) -> Iterator[dict[str, np.ndarray]]:
    """The stream moves on, the batch stays: what differs between steps is what the test multiplies."""
    batches = iter(trainer.stream)
    first = next(batches)
    while True:
        yield first
        next(batches)


def state_of(trainer: Trainer) -> list[torch.Tensor]:
    optimizer = trainer.engine.optimizer
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [value.detach().clone() for value in (*trainer.engine.module.parameters(), *moments)]


def take(trainer: Trainer, num_steps: int) -> None:
    batches = same_batch(trainer)
    for callback in trainer.callbacks:
        callback.on_start(trainer)
    for _ in range(num_steps):
        trainer.train_step(batches)
        for callback in trainer.callbacks:
            callback.on_step(trainer)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e4])
def test_a_bad_step_leaves_weights_moments_and_step_count(city: Path, tmp_path: Path, bad: float) -> None:
    with_bad = trainer_of(settings(city, tmp_path / "a"), {3: bad})
    take(with_bad, 6)
    without = trainer_of(settings(city, tmp_path / "b"), {})
    take(without, 5)
    assert all(torch.equal(a, b) for a, b in zip(state_of(with_bad), state_of(without), strict=True))
    assert (with_bad.skipped_steps, without.skipped_steps) == (1, 0)
    assert with_bad.grad_norm == without.grad_norm
    assert with_bad.progress.step == 6
    assert torch.equal(with_bad.window.loss_sums, without.window.loss_sums), "means of losses leave the bad step out"


def test_a_first_step_that_is_bad(city: Path, tmp_path: Path) -> None:
    trainer = trainer_of(settings(city, tmp_path / "run"), {0: float("nan")})
    before = [parameter.detach().clone() for parameter in trainer.engine.module.parameters()]
    take(trainer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.engine.module.parameters(), strict=True))
    assert trainer.grad_norm == 0


def test_fused_adamw_under_the_guard_is_adamw() -> None:
    """Bit for bit the fused one, and within rounding the plain one."""
    guard = StepGuard(GuardSection(), WORLD)
    torch.manual_seed(0)
    start, gradients = torch.randn(1003), torch.randn(20, 1003)
    ends = []
    for watched, fused in ((True, True), (False, True), (False, False)):
        weights = nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([weights], lr=0.01, betas=(0.9, 0.95), weight_decay=0.1, fused=fused)
        if watched:
            guard.watch(optimizer)
        for gradient in gradients:
            guard.open(torch.ones(()), lambda: 1.0)
            weights.grad = gradient.clone()
            optimizer.step()
        ends.append(weights.detach())
    assert torch.equal(ends[0], ends[1])
    assert torch.allclose(ends[0], ends[2], rtol=0, atol=1e-6)


def judge(guard: StepGuard, loss: float, norm: float) -> list[float]:
    guard.open(torch.tensor(loss), lambda: norm)
    return guard.verdict().tolist()


def test_limits_are_mean_and_deviation_of_the_last_accepted_steps() -> None:
    guard = StepGuard(GuardSection(window=8, sigma_factor=10), WORLD)
    rng = np.random.default_rng(0)
    losses, norms = rng.normal(5, 0.1, 20), rng.normal(1, 0.2, 20)
    for number, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        skipped, got_loss, _, *limits = judge(guard, loss, norm)
        assert (skipped, got_loss) == (0, pytest.approx(loss))
        assert judge(guard, float("nan"), 1.0)[0] == 1
        assert judge(guard, 1.0, float("inf"))[0] == 1
        if number < 4:
            assert limits == [np.inf, np.inf]
        else:
            for values, limit in zip((losses, norms), limits, strict=True):
                last = values[max(0, number - 8) : number]
                assert limit == pytest.approx(last.mean() + 10 * last.std(ddof=1), rel=1e-6)
    limits = judge(guard, 1e3, 1.0)[3:]
    assert judge(guard, limits[0] - 1e-3, 1e3)[0] == 1
    assert judge(guard, limits[0] - 1e-3, limits[1] - 1e-3)[0] == 0


def test_the_decision_reads_nothing_on_the_host() -> None:
    """Tensors of the meta device have no values: reading one, as `float` or `if` would, raises."""
    meta = torch.device("meta")
    guard = StepGuard(GuardSection(), World(0, 1, 0, 1, meta))
    for _ in range(2):
        guard.open(torch.ones((), device=meta), lambda: torch.ones((), device=meta))
        assert guard.verdict().shape == (5,)
    with pytest.raises(RuntimeError, match="meta"):
        float(guard.verdict()[0])


def test_a_kept_state_decides_as_the_original() -> None:
    guard, resumed = (StepGuard(GuardSection(window=8), WORLD) for _ in range(2))
    rng = np.random.default_rng(1)
    for count in range(12):
        kept = json.loads(json.dumps(guard.state_dict()))
        resumed.load_state_dict(kept)
        assert len(kept["losses"]) == min(count, 8)
        loss, norm = rng.normal(5, 0.1), rng.normal(1, 0.2)
        assert judge(guard, loss, norm) == judge(resumed, loss, norm)
    smaller = StepGuard(GuardSection(window=4), WORLD)
    smaller.load_state_dict(guard.state_dict())
    assert smaller.state_dict()["losses"] == guard.state_dict()["losses"][-4:]


@pytest.mark.parametrize("delay", [0, 1])
def test_the_rows_of_a_bad_step_are_named_and_can_be_looked_at(
    city: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, delay: int
) -> None:
    config = settings(city, tmp_path / "run dir")
    trainer = trainer_of(config, {2: float("nan")})
    (trainer.run_dir / "config.yaml").write_text(dump_config(config))
    trainer.callbacks[0].delay = delay
    rows = []
    for callback in trainer.callbacks:
        callback.on_start(trainer)
    with caplog.at_level(logging.WARNING):
        for step, _ in enumerate(range(4), start=1):
            trainer.train_step(trainer.stream)
            rows.append(trainer.stream.last_rows)
            trainer.callbacks[0].on_step(trainer)
            assert trainer.skipped_steps == (step >= 3 + delay)
    (line,) = [json.loads(line) for line in (trainer.run_dir / "bad_steps.jsonl").read_text().splitlines()]
    assert (line["step"], line["loss"], line["grad_norm"], line["rank_losses"]) == (3, "nan", "nan", ["nan"])
    assert [row["lane"] for row in line["rows"]] == [0, 1]
    for found, expected in zip(line["rows"], rows[2], strict=True):
        assert (found["corpus"], found["epoch"], found["unit"]) == (str(city), expected.epoch, expected.unit)
    command = shlex.split(line["inspect"])
    assert line["inspect"] in caplog.text
    shown = CliRunner().invoke(app, command[1:], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert "lane 0, row 2, multi-mode" in shown.stdout
    # The row can also be made directly from its place.
    place = rows[2][1]
    made = trainer.stream.makers[0].make(place.view, place.epoch, place.unit)
    batch = made.new_batch(1)
    made.write(place.row_in_unit, batch, 0)
    again = open_stream(config, trainer.stream.makers[0].tokenizer)
    third = [next(again) for _ in range(3)][-1]
    assert np.array_equal(batch["input_ids"].reshape(-1), third["input_ids"][1])


def test_too_many_end_the_run(city: Path, tmp_path: Path) -> None:
    in_a_row = trainer_of(settings(city, tmp_path / "a", max_consecutive=2, max_share=1), {1: np.nan, 3: 1e4, 4: 1e4})
    with pytest.raises(
        FloatingPointError, match=r"2 steps in a row were skipped, the last is step 5: loss .*limit"
    ) as e:
        take(in_a_row, 6)
    assert "the newest checkpoint is none" in str(e.value)
    assert "train.lr" in str(e.value)
    share = trainer_of(settings(city, tmp_path / "b", max_share=0.5), {0: np.nan, 2: np.nan, 3: np.nan})
    with pytest.raises(FloatingPointError, match="3 of 4 steps were skipped"):
        take(share, 6)


def test_without_the_guard_the_run_ends_at_once(city: Path, tmp_path: Path) -> None:
    trainer = trainer_of(settings(city, tmp_path / "run", enabled=False), {1: np.nan})
    with pytest.raises(FloatingPointError, match="the gradient norm is nan in step 2; the newest checkpoint is none"):
        take(trainer, 3)
    assert trainer.skipped_steps == 0


@pytest.mark.parametrize("delay", [0, 1])
def test_a_resumed_run_counts_and_judges_on(city: Path, tmp_path: Path, delay: int) -> None:
    """Also where the verdict of the last step was still on its way when the checkpoint was written."""
    config = settings(city, tmp_path / "run", max_consecutive=3, max_share=1)
    first = trainer_of(config, {1: np.nan, 3: np.nan})
    first.callbacks[0].delay = delay
    take(first, 4)
    kept = json.loads(json.dumps(first.callbacks[0].state_dict()))
    assert (kept["num_skipped"], kept["recent"]) == (2, [2, 4])
    second = trainer_of(config, {0: np.nan, 1: np.nan})
    second.progress.step = 4
    second.callbacks[0].load_state_dict(kept)
    with pytest.raises(FloatingPointError, match="3 steps in a row were skipped, the last is step 6"):
        take(second, 2)
    assert second.skipped_steps == 4
