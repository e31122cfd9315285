"""metrics.jsonl: always written, the source for every later plot."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from data_pipelines.durable import replace_text
from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class JsonLines(Callback):
    """One object per line, steps strictly rising: a resumed run first drops the lines after its checkpoint.

    The first line after a resume tells in `resumed_from` the step of the checkpoint.
    """

    def __init__(self, is_main: bool) -> None:
        self.is_main = is_main
        self.resumed_from: int | None = None
        self.file: TextIO | None = None

    def on_start(self, trainer: "Trainer") -> None:
        if self.is_main:
            self.file = open_after(trainer.run_dir / "metrics.jsonl", trainer.progress.step)
            self.resumed_from = trainer.progress.step or None

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if self.file is not None:
            resumed = {} if self.resumed_from is None else {"resumed_from": self.resumed_from}
            self.resumed_from = None
            self.file.write(json.dumps(record | resumed) + "\n")
            self.file.flush()

    def close(self, outcome: str) -> None:
        if self.file is not None:
            self.file.close()


def open_after(path: Path, step: int) -> TextIO:
    """A file of objects with a `step`, open for appending, without its lines of later steps."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= step]
    replace_text(path, "".join(line + "\n" for line in kept))
    return path.open("a", encoding="utf-8")


def _step_of(line: str) -> float:
    """The line's step; infinity for a line that was cut short."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
