"""The hooks of the training loop."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Callback:
    """Hooks, all called on every rank in the same order, so a hook may be collective. Override what is needed."""

    @property
    def name(self) -> str:
        """Key of the state in checkpoints."""
        return type(self).__name__

    def on_start(self, trainer: "Trainer") -> None:
        """Before the first step, after a checkpoint was loaded."""

    def on_step(self, trainer: "Trainer") -> None:
        """After each optimiser step."""

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        """A line of metrics is there."""

    def on_end(self, trainer: "Trainer") -> None:
        """After the last step of this session, finished or stopped."""

    def close(self, outcome: str) -> None:
        """Always called last, on this rank only: release what is held. `outcome`: finished, stopped or failed."""

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state to keep in a checkpoint; rank 0's is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a kept state, before `on_start`."""
