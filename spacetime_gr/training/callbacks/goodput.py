"""What of the wall time since the run's first start was training that counts, and where the rest went."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from data_pipelines.durable import replace_text
from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.timers import Timers

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

FILE = "goodput.json"
# Work that a kill throws away, and what a checkpoint keeps of it.
_WORK = ("train", "data")
# In the order of the console's line; always in the metrics, so that a chart has no gaps.
ACTIVITIES = ("train", "data", "evaluation", "checkpoint", "logging", "export", "callbacks", "start_up", "lost", "down")


@dataclass(frozen=True)
class Account:
    """The time of a run, all its sessions together, at one moment.

    Args:
        first_start, now: unix seconds.
        step: optimiser steps that count.
        lost_steps: steps that were done again, since no checkpoint held them.
        seconds: by activity; whatever they leave of `now - first_start` is `other`.
    """

    first_start: float
    now: float
    step: int = 0
    lost_steps: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def wall(self) -> float:
        return self.now - self.first_start

    @property
    def goodput(self) -> float:
        """Time in steps that count, waiting for rows left out, as a share of the wall time since the first start."""
        return self.seconds.get("train", 0.0) / max(self.wall, 1e-9)

    def resumed(self, kept: "Account | None", started: float) -> "Account":
        """The account of a session that goes on after this one, which is the last that is known of the run.

        Steps after the checkpoint become lost work, and the time in which nothing ran is `down`.

        Args:
            kept: of the checkpoint that the session starts from; None: from the beginning.
            started: unix seconds, not before `now`.
        """
        done = {} if kept is None else kept.seconds
        seconds = dict(self.seconds)
        for name in _WORK:
            seconds["lost"] = seconds.get("lost", 0.0) + seconds.get(name, 0.0) - done.get(name, 0.0)
            seconds[name] = done.get(name, 0.0)
        seconds["down"] = seconds.get("down", 0.0) + started - self.now
        step = 0 if kept is None else kept.step
        return Account(self.first_start, started, step, self.lost_steps + self.step - step, seconds)

    def metrics(self) -> dict[str, float]:
        """`goodput` and `time/lost_steps`; in seconds `time/wall` and its parts, `time/other` being the rest."""
        seconds = {**dict.fromkeys(ACTIVITIES, 0.0), **self.seconds}
        values = {f"time/{name}": value for name, value in seconds.items()}
        other = self.wall - sum(seconds.values())
        return {
            "goodput": self.goodput,
            "time/wall": self.wall,
            **values,
            "time/other": other,
            "time/lost_steps": self.lost_steps,
        }

    def summary(self) -> str:
        """One line: the goodput, and what took at least a thousandth of the rest of the time."""
        minutes, seconds = divmod(round(self.wall), 60)
        rest = {name: self.seconds.get(name, 0.0) for name in (*ACTIVITIES[1:], *self.seconds) if name != "train"}
        parts = [f"{name.replace('_', '-')} {value / self.wall:.1%}" for name, value in rest.items()
                 if value >= self.wall / 1000]  # fmt: skip
        text = f"goodput {self.goodput:.1%} of {minutes // 60}:{minutes % 60:02}:{seconds:02}"
        return f"{text}; {', '.join(parts)}" + (f"; {self.lost_steps} steps done again" if self.lost_steps else "")


class Goodput(Callback):
    """Keeps the account of the run, on the clock of rank 0.

    It stands in checkpoints, and in `RUN/goodput.json` which is written with each line of metrics, so that what a kill
    undid is known to the next session. What lies between the last line and the kill is counted as `down`.
    """

    activity = "logging"

    def __init__(self, is_main: bool) -> None:
        self.is_main = is_main
        self.started = psutil.Process().create_time()
        self.start_up: float | None = None
        self.kept: Account | None = None
        self.before = Account(self.started, self.started)
        self.timers = Timers()
        self.step = 0
        self.file: Path | None = None

    def on_start(self, trainer: "Trainer") -> None:
        self.timers, self.step = trainer.timers, trainer.progress.step
        if self.is_main:
            self.file = trainer.run_dir / FILE
            known = [account for account in (_read(self.file), self.kept) if account is not None]
            if known:
                last = max(known, key=lambda account: account.now)
                # The system tells the start of a process to the second only, so it may seem to lie before the kill.
                self.started = max(self.started, last.now)
                self.before = last.resumed(self.kept, self.started)
            self._write()

    def on_step(self, trainer: "Trainer") -> None:
        self.step = trainer.progress.step
        if self.start_up is None:
            self.start_up = self._time_before_training()

    def account(self) -> Account:
        """The account at this moment."""
        start_up = self._time_before_training() if self.start_up is None else self.start_up
        seconds = dict(self.before.seconds)
        for name, value in {**self.timers.seconds, "start_up": start_up}.items():
            seconds[name] = seconds.get(name, 0.0) + value
        return Account(self.before.first_start, time.time(), self.step, self.before.lost_steps, seconds)

    def metrics(self, trainer: "Trainer") -> Mapping[str, float]:
        return self.account().metrics()

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self._write()

    def close(self, outcome: str) -> None:
        self._write()

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.account())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.kept = Account(**state)

    def _time_before_training(self) -> float:
        return time.time() - self.started - sum(self.timers.seconds.values())

    def _write(self) -> None:
        if self.file is not None:
            replace_text(self.file, json.dumps(asdict(self.account())))


def _read(file: Path) -> Account | None:
    """None if there is no file, or one that is no account: then the checkpoint's is used."""
    try:
        return Account(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
