"""The hooks of the training loop."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Callback:
    """Hooks, all called on every rank in the same order, so a hook may be collective. Override what is needed.

    `activity`: what the time spent in `on_step` and `on_end` counts as, in `time/…` of the metrics.
    """

    activity = "callbacks"

    @property
    def name(self) -> str:
        """Key of the state in checkpoints; no two callbacks of a run share it."""
        return type(self).__name__

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step, after a checkpoint was loaded."""

    def on_step(self, trainer: "Trainer") -> None:
        """After each optimiser step. `trainer.extra_metrics` set here brings a line of metrics with this step."""

    def metrics(self, trainer: "Trainer") -> Mapping[str, float]:
        """Further values for a line of metrics that is due anyway; those of rank 0 are taken. Not collective."""
        return {}

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """A line of metrics is there, the same on every rank."""

    def on_end(self, trainer: "Trainer") -> None:
        """After the last step of this session, finished or stopped."""

    def close(self, outcome: str) -> None:
        """Always called last, on this rank only: release what is held. `outcome`: finished, stopped or failed."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state to keep in a checkpoint; rank 0's is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a kept state, before `on_start`."""
