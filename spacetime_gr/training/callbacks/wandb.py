"""Weights & Biases as one sink of the metrics."""

import netrc
import os
import queue
import sys
import threading
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.versions import code_versions

if TYPE_CHECKING:
    from spacetime_gr.training.examples import HeldOutExamples
    from spacetime_gr.training.trainer import Trainer

_SERVICE = ("wandb-core", "wandb-symon")  # wandb's own processes, children of this one
_MAX_WAITING = 1000  # lines of metrics


class Wandb(Callback):
    """Rank 0 logs to wandb, offline when there is no key; the x axis is tokens seen.

    The run's id travels in checkpoints, so a resumed run continues the same curve. The client works in a thread of its
    own: a wandb that fails or answers no more costs no step, is said once, and `metrics.jsonl` has every line anyway.
    """

    activity = "logging"
    # How long the end of a run waits for what is not yet written or sent. After a signal there is little time.
    finish_seconds = 60.0
    stop_seconds = 10.0

    def __init__(self, is_main: bool, examples: "HeldOutExamples | None" = None) -> None:
        """
        Args:
            is_main: whether this is rank 0.
            examples: people for a table of recommendations beside each evaluation; None: no table.
        """
        self.is_main = is_main
        self.examples = examples
        self.run_id = uuid.uuid4().hex[:12]
        self.lost = False
        self.lines: queue.Queue[tuple[dict[str, Any], list[list[Any]]] | int] = queue.Queue(_MAX_WAITING)
        self.thread: threading.Thread | None = None

    def on_start(self, trainer: "Trainer") -> None:
        if not self.is_main:
            return
        config = trainer.config
        arguments = {
            "project": config.log.project,
            "entity": config.log.entity,
            "name": config.run.name or trainer.run_dir.name,
            "tags": config.run.tags,
            "dir": str(trainer.run_dir),
            "id": self.run_id,
            "resume": "allow",
            "mode": _mode(),
            "config": {**config.model_dump(), "versions": code_versions()},
        }
        self.thread = threading.Thread(target=self._work, args=(arguments,), name="wandb", daemon=True)
        self.thread.start()

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        if self.thread is None or self.lost:
            return
        rows = self.examples.rows(trainer.engine.module) if self.examples and "eval_loss" in record else []
        try:
            self.lines.put_nowait((record, rows))
        except queue.Full:
            self._lose(f"it has taken none of the last {_MAX_WAITING} lines")

    def close(self, outcome: str) -> None:
        if self.thread is None:
            return
        with suppress(queue.Full):
            self.lines.put_nowait(1 if outcome == "failed" else 0)
        seconds = self.finish_seconds if outcome == "finished" else self.stop_seconds
        self.thread.join(seconds)
        if self.thread.is_alive():
            self._lose(f"it did not finish within {seconds:g} s")
            # Its exit hook would wait for ever as well; without its service it gives up.
            _kill_service()
            self.thread.join(5.0)

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = state["run_id"]

    def _work(self, arguments: dict[str, Any]) -> None:
        """The thread: start the client, hand over lines until the exit code comes, finish."""
        try:
            import wandb

            # The commit is in the configuration; wandb's own look at the repository would record its address. Its copy
            # of the console would have every print of the training thread wait for the service.
            run = wandb.init(**arguments, settings=wandb.Settings(disable_git=True, console="off", silent=True))
            if run.url:
                sys.stderr.write(f"wandb: {run.url}\n")
            run.define_metric("tokens")
            run.define_metric("*", step_metric="tokens")
            while not isinstance(item := self.lines.get(), int):
                record, rows = item
                if rows and self.examples:
                    table = wandb.Table(columns=list(self.examples.columns), data=rows)
                    run.log({**record, "recommendations": table})
                else:
                    run.log(record)
            run.finish(exit_code=item)
            wandb.teardown(item)
        except Exception as error:
            self._lose(f"{type(error).__name__}: {error}")
            with suppress(Exception):
                # Also drops its exit hook, which would raise once more or wait for ever.
                wandb.teardown(1)

    def _lose(self, reason: str) -> None:
        if not self.lost:
            self.lost = True
            sys.stderr.write(
                f"wandb is lost ({' '.join(reason.split())}); training goes on, and metrics.jsonl has every line. What "
                "was kept offline up to here can be sent by `wandb sync`\n"
            )


def _kill_service() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if process.name().startswith(_SERVICE):
                process.kill()


def _mode() -> Any:
    """WANDB_MODE where it is set; else online with a key and offline without one."""
    if "WANDB_MODE" in os.environ:
        return os.environ["WANDB_MODE"]
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    try:
        known = netrc.netrc().authenticators("api.wandb.ai")
    except (OSError, netrc.NetrcParseError):
        known = None
    return "online" if known else "offline"
