"""What the guard skipped: said at once, with the rows that were in the batch; too much of it ends the run."""

import json
import logging
import math
import shlex
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO

import torch

from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.callbacks.jsonl import open_after
from spacetime_gr.training.distributed import World, gather_json
from spacetime_gr.training.guard import VERDICT, StepGuard

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

logger = logging.getLogger(__name__)


@dataclass
class _Judged:
    """A step whose verdict is on its way to the host. `values`: the fields of VERDICT, then this rank's own loss."""

    step: int
    values: torch.Tensor
    rows: list[Any]
    copied: torch.cuda.Event | None

    def read(self) -> list[float]:
        if self.copied is not None:
            self.copied.synchronize()
        return [float(value) for value in self.values.tolist()]


class SkippedSteps(Callback):
    """Writes `bad_steps.jsonl`, warns, counts, and stops a run that skips too much.

    On a GPU the verdict of a step is read after the next one, when it has long arrived: the host never waits for it.
    """

    def __init__(self, guard: StepGuard, world: World) -> None:
        self.guard = guard
        self.world = world
        self.delay = 1 if world.device.type == "cuda" else 0
        self.num_skipped = 0
        self.recent: list[int] = []  # skipped steps among the last `window`
        self._waiting: deque[_Judged] = deque()
        self._file: TextIO | None = None

    def on_start(self, trainer: "Trainer") -> None:
        if self.world.is_main:
            self._file = open_after(trainer.run_dir / "bad_steps.jsonl", trainer.progress.step)

    def on_step(self, trainer: "Trainer") -> None:
        values, copied = torch.cat([self.guard.verdict(), trainer.rank_loss.unsqueeze(0)]), None
        if values.is_cuda:
            values, copied = values.to("cpu", non_blocking=True), torch.cuda.Event()
            copied.record()
        self._waiting.append(_Judged(trainer.progress.step, values, trainer.stream.last_rows, copied))
        self._read(trainer, self.delay)

    def on_end(self, trainer: "Trainer") -> None:
        self._read(trainer, 0)

    def close(self, outcome: str) -> None:
        if self._file is not None:
            self._file.close()

    def state_dict(self) -> dict[str, Any]:
        """Includes steps that are not reported yet."""
        late = [judged.step for judged in self._waiting if judged.read()[0]]
        return {**self.guard.state_dict(), "recent": self.recent + late, "num_skipped": self.num_skipped + len(late)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.guard.load_state_dict(state)
        self.recent, self.num_skipped = list(state["recent"]), state["num_skipped"]

    def _read(self, trainer: "Trainer", delay: int) -> None:
        """Act on all steps but the newest `delay`."""
        while len(self._waiting) > delay:
            judged = self._waiting.popleft()
            values = judged.read()
            if values[0]:
                self._report(trainer, judged, values)

    def _report(self, trainer: "Trainer", judged: _Judged, values: list[float]) -> None:
        """Collective: all ranks read the same verdict."""
        step, settings = judged.step, self.guard.settings
        self.num_skipped += 1
        self.recent = [item for item in [*self.recent, step] if item > step - settings.window]
        ranks = gather_json([values[-1], [asdict(row) for row in judged.rows]], self.world)
        file = trainer.run_dir / "bad_steps.jsonl"
        fields = dict(zip(VERDICT[1:], values[1:], strict=False))
        found = ", ".join(
            f"{name.replace('_', ' ')} {fields[name]:.6g} (limit {fields[f'{name}_limit']:.6g})"
            for name in ("loss", "grad_norm")
        )
        if self._file is not None:
            # A rank whose own loss is not finite, else the one with the highest, is the place to look first.
            losses = [loss for loss, _ in ranks]
            worst = max(range(len(losses)), key=lambda rank: (not math.isfinite(losses[rank]), losses[rank]))
            first = ranks[worst][1][0]
            command = (
                f"spacetime-gr stream --inspect --config {shlex.quote(str(trainer.run_dir / 'config.yaml'))} "
                f"--lane {first['lane']} --row {first['row']}"
            )
            record = {
                "step": step,
                **{name: _json_number(value) for name, value in fields.items()},
                "rank_losses": [_json_number(loss) for loss in losses],
                "inspect": command,
                "rows": [{"rank": rank, **row} for rank, (_, rows) in enumerate(ranks) for row in rows],
            }
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            logger.warning(
                "step %d was skipped: %s. All rows of its batch: %s. Rank %d has the highest loss; its first row: %s",
                *(step, found, file, worst, command),
            )
        in_a_row = next(n for n in range(1, len(self.recent) + 1) if step - n not in self.recent)
        too_many = len(self.recent) > settings.max_share * settings.window
        if in_a_row >= settings.max_consecutive or too_many:
            many = f"{len(self.recent)} of {settings.window} steps" if too_many else f"{in_a_row} steps in a row"
            raise FloatingPointError(
                f"{many} were skipped, the last is step {step}: {found}; the newest checkpoint is "
                f"{trainer.store.newest_name()}, the rows are in {file}. Lower train.lr or train.clip, or "
                "raise train.warmup_steps; if only the data changed, raise guard.sigma_factor"
            )


def _json_number(value: float) -> float | str:
    """JSON knows no nan and inf: they become text."""
    return value if math.isfinite(value) else str(value)
