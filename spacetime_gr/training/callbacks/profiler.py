"""A torch profiler trace of some steps."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

NUM_OPERATORS = 40


class Profiler(Callback):
    """Writes `RUN/profile/trace-rank-N.json` (for chrome://tracing or Perfetto) and `operators-rank-N.txt`.

    The steps have the regions `data`, `forward` (in it `body` and `heads`, unless compiled), `backward` and
    `optimizer`. Nothing is attached to the model outside the profiled steps.
    """

    activity = "profiler"

    def __init__(self, first: int, last: int) -> None:
        """
        Args:
            first, last: steps of the run, counted from 1, both included.
        """
        self.first, self.last = first, last
        self.profile: Any = None
        self.regions = ExitStack()

    def on_start(self, trainer: "Trainer") -> None:
        self._begin_if_next(trainer)

    def on_step(self, trainer: "Trainer") -> None:
        if self.profile is not None and trainer.progress.step >= self.last:
            self._finish(trainer)
        self._begin_if_next(trainer)

    def on_end(self, trainer: "Trainer") -> None:
        if self.profile is not None:
            self._finish(trainer)

    def close(self, outcome: str) -> None:
        if self.profile is not None:  # the run failed within the profiled steps
            self.regions.close()
            self.profile.stop()

    def _begin_if_next(self, trainer: "Trainer") -> None:
        if trainer.progress.step + 1 != self.first or trainer.world.rank not in trainer.config.log.profile_ranks:
            return
        if not trainer.config.train.compile:  # hooks would have its graphs compiled anew
            self.regions.enter_context(_model_regions(trainer.engine.module))
        activities = [ProfilerActivity.CPU]
        if trainer.world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self.profile = profile(activities=activities, record_shapes=True)
        self.profile.start()

    def _finish(self, trainer: "Trainer") -> None:
        self.regions.close()
        self.profile.stop()
        folder, rank = trainer.run_dir / "profile", trainer.world.rank
        folder.mkdir(exist_ok=True)
        self.profile.export_chrome_trace(str(folder / f"trace-rank-{rank}.json"))
        order = "self_device_time_total" if trainer.world.device.type == "cuda" else "self_cpu_time_total"
        table = self.profile.key_averages().table(sort_by=order, row_limit=NUM_OPERATORS)
        (folder / f"operators-rank-{rank}.txt").write_text(table, encoding="utf-8")
        self.profile = None


def _model_regions(model: Any) -> ExitStack:
    """Hooks that mark `body` and, from its end to the end of the model, `heads`; closing the stack removes them."""
    open_regions: list[Any] = []

    def enter(name: str) -> None:
        open_regions.append(record_function(name))
        open_regions[-1].__enter__()

    def leave() -> None:
        if open_regions:
            open_regions.pop().__exit__(None, None, None)

    def after_body(*_: Any) -> None:
        leave()
        enter("heads")

    body: torch.nn.Module = model.base_model
    stack = ExitStack()
    for handle in (
        body.register_forward_pre_hook(lambda *_: enter("body")),
        body.register_forward_hook(after_body),
        model.register_forward_hook(lambda *_: leave()),
    ):
        stack.callback(handle.remove)
    return stack
