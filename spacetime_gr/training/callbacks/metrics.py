"""One line of metrics from the sums since the last one."""

import resource
import sys
from typing import TYPE_CHECKING, Any

import torch

from spacetime_gr.planning.devices import device_peak_flops
from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.distributed import all_sum, gather_json, sum_counts
from spacetime_gr.training.engine import resolve_precision
from spacetime_gr.training.flops import BatchCounts, model_flops, total_work
from spacetime_gr.training.window import LOSS_PARTS, Window, mean_losses

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Metrics(Callback):
    """Logs every `log.every` steps, after an evaluation and after the last step; losses are means in between."""

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
            "supervised_share": sum(values[parts : 2 * parts]) / max(1.0, tokens),
            "peak_memory_gb": max(gather_json(_peak_memory_gb(trainer.world.device), trainer.world)),
            "train_minutes": trainer.progress.seconds / 60,
        }
        if self.peak_flops is not None:
            block, inner, action = values[parts : 2 * parts]
            work = model_flops(trainer.engine.module.config, BatchCounts(tokens, pairs, (block, inner, action)))
            record["mfu"] = total_work(work).total / seconds / self.peak_flops  # seconds are those of all devices
        shares = trainer.stream.corpus_shares
        if len(shares) > 1:
            record.update({f"corpus_share/{path}": share for path, share in shares.items()})
        counts = {key: float(value) for key, value in trainer.stream.stats().items()}
        record.update({f"stream/{key}": value for key, value in sum_counts(counts, trainer.world).items()})
        return {**record, **trainer.extra_metrics}


def _peak_memory_gb(device: torch.device) -> float:
    """Peak of this process since its start, in 10^9 bytes: of the GPU's allocator, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
