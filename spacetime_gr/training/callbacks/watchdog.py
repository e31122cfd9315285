"""A rank that does not get on is not waited for for ever."""

import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.distributed import leave
from spacetime_gr.training.outcome import RETRY, Verdict, write_failure

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

# Up to the first step of a session: building kernels, compiling, opening the data.
_START_MINUTES = 30.0
_LAST_WORDS_SECONDS = 30.0
_PACKAGES = ("spacetime_gr", "data_pipelines")


class Watchdog(Callback):
    """Ends this process when a step, and what follows it, takes longer than `run.timeout_minutes`.

    Every rank has one. A rank that hangs keeps the others waiting in a collective, where the main thread runs no Python
    code and, on a GPU, not even an exception is raised. So a thread looks on, says where the main thread stands, and
    leaves without asking anybody.
    """

    def __init__(self, timeout_minutes: float) -> None:
        """
        Args:
            timeout_minutes: from one step to the next, with evaluation and checkpoints in between.
        """
        self.timeout = timeout_minutes * 60
        self.limit = max(self.timeout, _START_MINUTES * 60)
        self.waited = 0.0
        self.closed = threading.Event()

    def on_start(self, trainer: "Trainer") -> None:
        threading.Thread(target=self._watch, args=(trainer,), name="watchdog", daemon=True).start()

    def on_step(self, trainer: "Trainer") -> None:
        self.limit = self.timeout
        self.waited = 0.0

    def on_end(self, trainer: "Trainer") -> None:
        self.waited = 0.0

    def close(self, outcome: str) -> None:
        self.closed.set()

    def _watch(self, trainer: "Trainer") -> None:
        interval, last = min(1.0, self.timeout / 10), time.monotonic()
        while not self.closed.wait(interval):
            now = time.monotonic()
            # A scheduler may suspend a whole job for hours: that is nobody's waiting.
            self.waited += min(now - last, 2 * interval)
            last = now
            if self.waited > self.limit:
                # The disk itself may be what hangs.
                in_any_case = threading.Timer(_LAST_WORDS_SECONDS, os._exit, (RETRY,))
                in_any_case.daemon = True
                in_any_case.start()
                reason = (
                    f"no step for {self.limit / 60:g} minutes (run.timeout_minutes) after step "
                    f"{trainer.progress.step}; waiting in {main_thread_position()}. If other ranks say the same, look "
                    "for the one that says nothing or waits elsewhere. The newest checkpoint is "
                    f"{trainer.store.newest_name()}; start the same command again to go on from it"
                )
                sys.stderr.write(f"error on rank {trainer.world.rank}: {reason}\n")
                verdict = Verdict(RETRY, reason)
                write_failure(trainer.run_dir, verdict, secondary=True, step=trainer.progress.step)
                leave(RETRY)


def main_thread_position() -> str:
    """Where the main thread stands: the calls of this project, then the innermost call, outermost first."""
    frame: Any = sys._current_frames().get(threading.main_thread().ident or 0)
    calls = traceback.extract_stack(frame)
    shown = [call for call in calls if any(package in Path(call.filename).parts for package in _PACKAGES)]
    if calls and calls[-1] not in shown:
        shown.append(calls[-1])
    return " > ".join(f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in shown)
