"""Weights & Biases as one sink of the metrics."""

import netrc
import os
import uuid
from typing import TYPE_CHECKING, Any

from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Wandb(Callback):
    """Rank 0 logs to wandb, offline when there is no key; the x axis is tokens seen.

    The run's id travels in checkpoints, so a resumed run continues the same curve.
    """

    def __init__(self, is_main: bool) -> None:
        self.is_main = is_main
        self.run: Any = None
        self.run_id = uuid.uuid4().hex[:12]

    def on_start(self, trainer: "Trainer") -> None:
        if not self.is_main:
            return
        import wandb

        config = trainer.config
        self.run = wandb.init(
            project=config.log.project,
            entity=config.log.entity,
            name=config.run.name or trainer.run_dir.name,
            tags=config.run.tags,
            dir=str(trainer.run_dir),
            id=self.run_id,
            resume="allow",
            mode=_mode(),
            config=config.model_dump(),
        )
        self.run.define_metric("tokens")
        self.run.define_metric("*", step_metric="tokens")

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if self.run is not None:
            self.run.log(record)

    def close(self, outcome: str) -> None:
        if self.run is not None:
            self.run.finish(exit_code=1 if outcome == "failed" else 0)

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = state["run_id"]


def _mode() -> Any:
    """WANDB_MODE where it is set; else online with a key and offline without one."""
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        known = netrc.netrc().authenticators("api.wandb.ai")
    except (OSError, netrc.NetrcParseError):
        known = None
    return "online" if known else "offline"
