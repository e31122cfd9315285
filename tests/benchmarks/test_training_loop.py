"""The benchmark of the training loop: its runs are set as meant, and its means leave the warm-up out."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.training_loop import ROOT, StepClock, per_step, settings
from spacetime_gr.training.callbacks import own_callbacks
from spacetime_gr.training.loading import load_config


def test_both_sides_take_the_settings_of_the_command_line(tmp_path: Path) -> None:
    given = Namespace(data=tmp_path / "a: b", steps=7, overrides=["model.hidden_size=64", "train.lr=0.5"])
    config = load_config(ROOT / "configs" / "pretrain" / "nyc.yaml", settings(given, tmp_path / "[run]", "log.every=1"))
    assert (config.data.path, config.run.dir) == (str(given.data), str(tmp_path / "[run]"))
    assert (config.train.max_steps, config.train.lr, config.model["hidden_size"]) == (7, 0.5, 64)
    assert (config.train.schedule, config.train.weight_decay, config.log.every) == ("constant", 0.0, 1)
    assert own_callbacks(config.run.callbacks) == [StepClock]


def test_a_mean_is_over_the_steps_after_the_warm_up() -> None:
    clock = {"rows": [{"wall": value, "late": value} for value in (100.0, 101.0, 103.0, 105.0)]}
    del clock["rows"][1]["late"]  # not known before its first use
    assert per_step(clock, 2, "wall") == 2.0
    assert per_step(clock, 2, "late") == pytest.approx(105.0 / 2)
