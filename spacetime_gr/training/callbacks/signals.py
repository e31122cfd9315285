"""A clean stop on the signals that schedulers send."""

import signal
from types import FrameType
from typing import TYPE_CHECKING, Any

from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals(Callback):
    """SIGTERM or SIGUSR1 on any rank: all ranks finish the step, write a checkpoint and leave."""

    def __init__(self) -> None:
        self.previous: dict[signal.Signals, Any] = {}

    def on_start(self, trainer: "Trainer") -> None:
        def request_stop(number: int, frame: FrameType | None) -> None:
            trainer.stop_requested = True

        for item in SIGNALS:
            self.previous[item] = signal.signal(item, request_stop)

    def close(self, outcome: str) -> None:
        for item, handler in self.previous.items():
            signal.signal(item, handler)
