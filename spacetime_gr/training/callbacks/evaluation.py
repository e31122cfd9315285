"""Loss on held-out rows during training."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

Batches = Iterator[dict[str, np.ndarray]]


class Evaluation(Callback):
    """Mean loss over the first `eval.num_rows` held-out rows, so over the same rows each time."""

    activity = "evaluation"

    def __init__(self, held_out: Callable[[], Batches]) -> None:
        """
        Args:
            held_out: this rank's share of the held-out rows from the start; a batch is `num_lanes` rows over all ranks.
        """
        self.held_out = held_out

    def on_step(self, trainer: "Trainer") -> None:
        settings, step = trainer.config.eval, trainer.progress.step
        due = settings.every is not None and step % settings.every == 0
        if due or (settings.at_end and trainer.finished):
            num_batches = -(-settings.num_rows // trainer.config.data.num_lanes)
            trainer.extra_metrics.update(trainer.evaluate(islice(self.held_out(), num_batches)))
