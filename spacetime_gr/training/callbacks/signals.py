"""A clean stop on the signals that schedulers send, and when the launcher is gone."""

import os
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignals(Callback):
    """SIGTERM or SIGUSR1 on any rank: all ranks finish the step, write a checkpoint and leave.

    The `deepspeed` command does not pass signals on when it runs on one node: it dies and its ranks would train on,
    seen by nobody. So a rank that was started by it also stops when the command is gone.
    """

    def __init__(self) -> None:
        self.previous: dict[signal.Signals, Any] = {}
        self.launcher = os.getppid()
        self.command = _parent_of(self.launcher) if _is_deepspeed_launcher(self.launcher) else None

    def on_start(self, trainer: "Trainer") -> None:
        def request_stop(number: int, frame: FrameType | None) -> None:
            trainer.stop_requested = True

        for item in SIGNALS:
            self.previous[item] = signal.signal(item, request_stop)

    def on_step(self, trainer: "Trainer") -> None:
        if self.command is not None and _parent_of(self.launcher) != self.command:
            trainer.stop_requested = True

    def close(self, outcome: str) -> None:
        for item, handler in self.previous.items():
            signal.signal(item, handler)


def _is_deepspeed_launcher(pid: int) -> bool:
    try:
        return b"deepspeed.launcher.launch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _parent_of(pid: int) -> int | None:
    """Parent of a process, None if it is gone or the system has no /proc."""
    try:
        # Fields after the command, which stands in parentheses and may hold anything: state, parent, …
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None
