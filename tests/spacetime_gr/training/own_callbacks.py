"""Callbacks that a test names in `run.callbacks`: one that counts, and one that breaks things at a given step."""

import os
import signal
import time
from typing import Any

from spacetime_gr.training.callbacks import Callback, Wandb
from spacetime_gr.training.callbacks.wandb import _kill_service


class StepCounter(Callback):
    """Counts the steps that the kept run has gone through, over all sessions."""

    activity = "counting"

    def __init__(self) -> None:
        self.steps = 0

    def on_step(self, trainer: Any) -> None:
        self.steps += 1

    def metrics(self, trainer: Any) -> dict[str, float]:
        return {"counted": self.steps}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


class Breakage(Callback):
    """Kills wandb's service after step KILL_WANDB_AT, and this process after step DIE_AT."""

    def on_start(self, trainer: Any) -> None:
        Wandb.finish_seconds = 2.0

    def on_step(self, trainer: Any) -> None:
        step = trainer.progress.step
        if step == int(os.environ.get("KILL_WANDB_AT", -1)):
            wandb = next(callback for callback in trainer.callbacks if callback.name == "Wandb")
            while not wandb.lines.empty():  # until it is up and has written what came before
                time.sleep(0.05)
            _kill_service()
        if step == int(os.environ.get("DIE_AT", -1)):
            os.kill(os.getpid(), signal.SIGKILL)
