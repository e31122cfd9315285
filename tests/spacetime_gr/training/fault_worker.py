"""launch/pretrain.py with a fault in it: what the ranks of test_faults.py run.

FAULT names the rank, the phase (data, step or checkpoint), the step and what is sent: a signal to the rank itself, or
LAUNCHER, the end of the command that started it.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine

from spacetime_gr.training import snapshots
from spacetime_gr.training.callbacks.signals import _parent_of
from spacetime_gr.training.pretrain import main
from spacetime_gr.training.trainer import Trainer

FAULT_RANK, FAULT_PHASE, FAULT_STEP, FAULT_SENT = os.environ["FAULT"].split()
step = 0


def strike(phase: str) -> None:
    if (os.environ["RANK"], phase, str(step)) != (FAULT_RANK, FAULT_PHASE, FAULT_STEP):
        return
    if FAULT_SENT == "LAUNCHER":
        os.kill(_parent_of(os.getppid()) or 0, signal.SIGKILL)
    else:
        os.kill(os.getpid(), signal.Signals[f"SIG{FAULT_SENT}"])


class FaultyBatches:
    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __next__(self) -> Any:
        strike("data")
        return next(self.batches)


def install() -> None:
    train_step, backward, write = Trainer.train_step, DeepSpeedEngine.backward, snapshots.write

    def faulty_train_step(self: Trainer, batches: Any) -> Any:
        global step
        step = self.progress.step + 1
        return train_step(self, FaultyBatches(batches))

    def faulty_backward(*args: Any, **kwargs: Any) -> Any:
        strike("step")
        return backward(*args, **kwargs)

    def faulty_write(snapshot: snapshots.Snapshot, *args: Any) -> Any:
        first, *_ = snapshot.states
        write(replace(snapshot, states={first: snapshot.states[first]}), *args)
        strike("checkpoint")
        return write(snapshot, *args)

    Trainer.train_step = faulty_train_step
    DeepSpeedEngine.backward = faulty_backward
    snapshots.write = faulty_write


if __name__ == "__main__":
    (Path(os.environ["FAULT_PIDS"]) / str(os.getpid())).touch()
    install()
    sys.exit(main())
