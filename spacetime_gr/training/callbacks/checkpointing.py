"""When a checkpoint is written."""

from typing import TYPE_CHECKING

from spacetime_gr.training import snapshots
from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Checkpointing(Callback):
    """Permanent ones every `checkpoint.every` steps and at the end, ephemeral ones in between and on a stop."""

    activity = "checkpoint"

    def on_step(self, trainer: "Trainer") -> None:
        settings, step = trainer.config.checkpoint, trainer.progress.step
        permanent = trainer.finished or (settings.every is not None and step % settings.every == 0)
        ephemeral = trainer.stopping or (settings.ephemeral_every is not None and step % settings.ephemeral_every == 0)
        if permanent or ephemeral:
            snapshots.save(trainer, permanent)
