"""Progress for the person who watches, on stderr."""

from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipelines.stream.report import summary
from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.callbacks.goodput import Goodput

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Console(Callback):
    """A progress bar on a terminal, a line per log elsewhere; at the end what cleaning left and where the time went.
    Rank 0 only."""

    activity = "logging"

    def __init__(self, is_main: bool, goodput: Goodput) -> None:
        self.goodput = goodput
        self.console = RichConsole(stderr=True, soft_wrap=True, quiet=not is_main)
        self.bar: Progress | None = None
        self.counts: dict[str, int] = {}
        if is_main and self.console.is_terminal:
            columns = (TextColumn("step {task.fields[step]}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
            self.bar = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[text]}"), console=self.console
            )

    def on_start(self, trainer: "Trainer") -> None:
        start = trainer.progress.step
        if self.bar is not None:
            self.bar.start()
            task = self.bar.add_task("train", total=1.0, step=start, text="")
            self.bar.update(task, completed=trainer.done)
        if start:
            self.console.print(f"resumed at step {start}, {trainer.progress.tokens:,.0f} tokens", highlight=False)

    def on_step(self, trainer: "Trainer") -> None:
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=trainer.done, step=trainer.progress.step)

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        prefix = "stream/"
        self.counts = {key[len(prefix) :]: int(value) for key, value in record.items() if key.startswith(prefix)}
        loss = "-" if record["loss"] is None else f"{record['loss']:.4f}"  # every step since the last line was skipped
        text = f"loss {loss}  {record['tokens_per_second']:,.0f} tok/s"
        if "eval_loss" in record:
            text += f"  eval {record['eval_loss']:.4f}"
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], text=text)
        else:
            details = f"  |g| {record['grad_norm']:.3f}  lr {record['lr']:.2e}"
            self.console.print(f"step {record['step']} ({trainer.done:.0%})  {text}{details}", highlight=False)

    def close(self, outcome: str) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.counts and outcome != "failed":
            self.console.print(summary(self.counts), highlight=False)
        self.console.print(self.goodput.account().summary(), highlight=False)
        self.console.print(f"run {outcome}", highlight=False)
