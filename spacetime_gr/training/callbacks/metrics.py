"""One line of metrics from the sums since the last one."""

import resource
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from spacetime_gr.planning.devices import device_peak_flops
from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.distributed import all_sum, gather_json
from spacetime_gr.training.engine import resolve_precision
from spacetime_gr.training.flops import BatchCounts, model_flops, total_work
from spacetime_gr.training.window import LOSS_PARTS, Window, mean_losses

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Metrics(Callback):
    """Logs every `log.every` steps, after an evaluation and after the last step; losses are means in between."""

    activity = "logging"

    def on_start(self, trainer: "Trainer") -> None:
        self.peak_flops = device_peak_flops(
            trainer.world.device, resolve_precision(trainer.config, trainer.world.device)
        )

    def on_step(self, trainer: "Trainer") -> None:
        due = trainer.progress.step % trainer.config.log.every == 0
        if due or trainer.extra_metrics or trainer.finished:
            trainer.emit(self._record(trainer))
            trainer.window = Window.empty(trainer.world.device)
            trainer.extra_metrics = {}

    def _record(self, trainer: "Trainer") -> dict[str, Any]:
        parts = len(LOSS_PARTS)
        values = all_sum(trainer.window.values(), trainer.world)
        tokens, pairs, seconds, wait, _ = values[2 * parts :]
        size = trainer.world.size
        own = {
            "peak": _peak_memory_gb(trainer.world.device),
            "stream": trainer.stream.stats(),
            "callbacks": _of_callbacks(trainer) if trainer.world.is_main else {},
        }
        ranks = gather_json(own, trainer.world)
        per_second = tokens / (seconds / size)
        record: dict[str, Any] = {
            "step": trainer.progress.step,
            "tokens": int(trainer.progress.tokens),
            **mean_losses(values[:parts], values[parts : 2 * parts]),
            "grad_norm": trainer.grad_norm,
            "skipped_steps": trainer.skipped_steps,
            "lr": trainer.engine.optimizer.param_groups[0]["lr"],
            "tokens_per_second": per_second,
            "tokens_per_second_per_device": per_second / size,
            "data_wait_share": wait / seconds,
            "multi_mode_share": trainer.stream.multi_mode_share,
            "curriculum_share": trainer.stream.scheduled_multi_mode_share,
            "supervised_share": sum(values[parts : 2 * parts]) / max(1.0, tokens),
            "peak_memory_gb": max(rank["peak"] for rank in ranks),
            "train_minutes": trainer.progress.seconds / 60,
        }
        if self.peak_flops is not None:
            block, inner, action = values[parts : 2 * parts]
            work = model_flops(trainer.engine.module.config, BatchCounts(tokens, pairs, (block, inner, action)))
            record["mfu"] = total_work(work).total / seconds / self.peak_flops  # seconds are those of all devices
        shares = trainer.stream.corpus_shares
        if len(shares) > 1:
            record.update({f"corpus_share/{path}": share for path, share in shares.items()})
        counts: Counter[str] = Counter()
        for rank in ranks:
            counts.update(rank["stream"])
        record.update({f"stream/{key}": value for key, value in sorted(counts.items())})
        return {**record, **ranks[0]["callbacks"], **trainer.extra_metrics}


def _of_callbacks(trainer: "Trainer") -> dict[str, float]:
    return {name: value for callback in trainer.callbacks for name, value in callback.metrics(trainer).items()}


def _peak_memory_gb(device: torch.device) -> float:
    """Peak of this process since its start, in 10^9 bytes: of the GPU's allocator, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
