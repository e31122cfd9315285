"""When a checkpoint is written, and what follows if it cannot be."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.snapshots import CheckpointError, Save

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Checkpointing(Callback):
    """Permanent ones every `checkpoint.every` steps, at `checkpoint.steps` and at the end; ephemeral ones in between
    and on a stop. One that is written in the background is complete at a later step, and before the next one begins.

    An ephemeral one that fails is a warning, as long as the run goes on: the one before is still there.
    """

    def __init__(self) -> None:
        self.failures = 0
        self.save: Save | None = None
        self.writer: ThreadPoolExecutor | None = None

    def on_start(self, trainer: "Trainer") -> None:
        if trainer.config.checkpoint.asynchronous:
            self.writer = ThreadPoolExecutor(1, "checkpoint")

    activity = "checkpoint"

    def on_step(self, trainer: "Trainer") -> None:
        settings, step = trainer.config.checkpoint, trainer.progress.step
        last = trainer.finished or trainer.stopping
        permanent = (
            trainer.finished or step in settings.steps or (settings.every is not None and step % settings.every == 0)
        )
        ephemeral = trainer.stopping or (settings.ephemeral_every is not None and step % settings.ephemeral_every == 0)
        due = permanent or ephemeral
        if self.save is not None and (due or last or self.save.done(trainer.world)):
            self._finish(self.save, trainer)
        if due:
            self.save = Save(trainer, permanent, self.writer)
            if self.writer is None or last:
                self._finish(self.save, trainer)

    def _finish(self, save: Save, trainer: "Trainer") -> None:
        self.save = None
        try:
            save.finish(trainer)
        except CheckpointError as error:
            self.failures += 1
            allowed = trainer.config.checkpoint.max_failures
            of_stop = trainer.stopping and save.snapshot.step == trainer.progress.step
            if save.snapshot.permanent or of_stop or self.failures >= allowed:
                newest = trainer.store.newest()
                raise CheckpointError(
                    f"{error}; {self.failures} in a row. The newest checkpoint is {newest.path if newest else 'none'}. "
                    "Make room, or mend what is wrong, and start the same command again"
                ) from error
            if trainer.world.is_main:
                sys.stderr.write(f"warning: {error}; training goes on, failure {self.failures} of {allowed} allowed\n")
            trainer.extra_metrics["checkpoint_failed"] = float(self.failures)
        else:
            self.failures = 0

    def close(self, outcome: str) -> None:
        if self.writer is not None:
            self.writer.shutdown(wait=False)
