"""The training loop: batches in, optimiser steps out, everything else in callbacks."""

import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.profiler import record_function

from spacetime_gr.training.averaging import averaged
from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.callbacks.skipped_steps import SkippedSteps
from spacetime_gr.training.checkpoints import CheckpointStore
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.distributed import World, all_sum
from spacetime_gr.training.engine import resolve_stage
from spacetime_gr.training.guard import StepGuard
from spacetime_gr.training.progress import Progress
from spacetime_gr.training.schedule import learning_rate, progress
from spacetime_gr.training.timers import Timers
from spacetime_gr.training.window import LOSS_PARTS, Window, mean_losses

IGNORED_LABEL = -100


class Stream(Protocol):
    """What the loop needs of a TokenStream."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> None: ...

    def stats(self) -> dict[str, int]: ...

    @property
    def last_rows(self) -> list[Any]: ...

    @property
    def multi_mode_share(self) -> float: ...

    @property
    def scheduled_multi_mode_share(self) -> float: ...

    @property
    def corpus_shares(self) -> dict[str, float]: ...


class Trainer:
    """Trains a DeepSpeed engine on a stream until a limit is reached or a stop is requested.

    The loss of a step is (sum over supervised tokens) / (their number) in the global batch: all ranks, all
    micro-batches. The number is summed over the ranks before the first micro-batch; DeepSpeed's own mean over ranks is
    undone, and its division by the accumulation steps switched off.
    """

    def __init__(
        self,
        config: PretrainConfig,
        engine: Any,
        stream: Stream,
        world: World,
        pad_token_id: int,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        """
        Args:
            config: the run.
            engine: from `build_engine`; its model returns `loss`, `loss_sums` and `loss_counts`.
            stream: yields this rank's lanes, arrays (num_lanes / world size, row_length).
            world: the process group.
            pad_token_id: not counted as a token.
            callbacks: called in this order.

        Raises:
            ValueError: two callbacks have the same name.
        """
        self.config = config
        self.engine = engine
        self.stream = stream
        self.world = world
        self.pad_token_id = pad_token_id
        self.guard = StepGuard(config.guard, world) if config.guard.enabled else None
        self.callbacks = list(callbacks)
        self._skips: SkippedSteps | None = None
        if self.guard is not None:
            self.guard.watch(engine.basic_optimizer)
            self._skips = SkippedSteps(self.guard, world)
            # First: what it raises must come before a checkpoint of the same step.
            self.callbacks.insert(0, self._skips)
        names = [callback.name for callback in self.callbacks]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(
                f"several callbacks of the run are called {min(doubled)!r}; their state in checkpoints needs different "
                "names: name each class once in run.callbacks, or override the property `name`"
            )
        self.progress = Progress()
        self.window = Window.empty(world.device)
        self.run_dir = Path(config.run.dir)
        self.store = CheckpointStore(self.run_dir / "checkpoints", config.checkpoint.keep, config.checkpoint.steps)
        self.stop_requested = False
        self.stopping = False
        self.rank_loss = torch.zeros((), dtype=torch.float64, device=world.device)
        self._norm: Any = 0.0
        self.own_seconds = 0.0
        self.extra_metrics: dict[str, float | None] = {}
        self.timers = Timers()
        self.norm_from_engine = resolve_stage(config) > 0 or engine.bfloat16_enabled()

    @property
    def done(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return progress(self.config.train, self.progress.step, self.progress.tokens, self.progress.seconds)

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return learning_rate(self.config.train, self.progress.step, self.done)

    @property
    def grad_norm(self) -> float:
        """Global gradient norm of the last update, before clipping. On a GPU, reading it waits for the device."""
        return float(self._norm)

    @property
    def skipped_steps(self) -> int:
        """Steps of the whole run that the guard skipped; on a GPU, those up to the last step but one."""
        return 0 if self._skips is None else self._skips.num_skipped

    @property
    def finished(self) -> bool:
        return self.done >= 1

    def fit(self) -> str:
        """Train; returns `finished`, or `stopped` after a signal.

        Raises:
            FloatingPointError: the guard skipped too many steps; without it, the gradient norm is not finite.
        """
        outcome = "failed"
        try:
            for callback in self.callbacks:
                callback.on_start(self)
            batches = iter(self.stream)
            while not (self.finished or self.stopping):
                self.train_step(batches)
                for callback in self.callbacks:
                    with self.timers.measure(callback.activity):
                        callback.on_step(self)
            outcome = "finished" if self.finished else "stopped"
            for callback in self.callbacks:
                with self.timers.measure(callback.activity):
                    callback.on_end(self)
        finally:
            for callback in reversed(self.callbacks):
                callback.close(outcome)
        return outcome

    def emit(self, record: dict[str, Any]) -> None:
        """Hand a line of metrics to every callback. The record is the same on every rank."""
        for callback in self.callbacks:
            callback.on_log(self, record)

    def train_step(self, batches: Iterator[dict[str, np.ndarray]]) -> None:
        """One optimiser step on the next batch. Collective."""
        started = time.perf_counter()
        with record_function("data"):
            batch = next(batches)
        waited = time.perf_counter() - started
        supervised = float(np.count_nonzero(batch["labels"] != IGNORED_LABEL))
        real = batch["input_ids"] != self.pad_token_id
        tokens = float(np.count_nonzero(real))
        own_seconds = self.own_seconds if self.world.is_main else 0.0
        supervised, all_tokens, stops, seconds = all_sum(
            [supervised, tokens, float(self.stop_requested), own_seconds], self.world
        )
        self.stopping = stops > 0
        self.progress.seconds = seconds

        lr = self.lr
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.train()
        micro_batches = self._split(batch)
        sums = torch.zeros(2, len(LOSS_PARTS), dtype=torch.float64, device=self.world.device)
        for index, micro_batch in enumerate(micro_batches):
            with record_function("forward"):
                out = self.engine(**micro_batch, num_items_in_batch=max(1.0, supervised), use_cache=False)
            sums += torch.stack([out.loss_sums, out.loss_counts])
            with record_function("backward"):
                self.engine.backward(out.loss * self.world.size, scale_wrt_gas=False)
            if index == len(micro_batches) - 1:
                self._before_update(sums[0].sum() / max(1.0, supervised))
            with record_function("optimizer"):
                self.engine.step()
        self.rank_loss = sums[0].sum() / sums[1].sum().clamp(min=1.0)
        self._after_update(sums)

        took = time.perf_counter() - started
        self.progress.step += 1
        self.progress.tokens += all_tokens
        # Not added to the progress here: ranks that measure differently would disagree on whether the run is finished.
        self.own_seconds += took
        self.timers.add("data", waited)
        self.timers.add("train", took - waited)
        self.window.tokens += tokens
        self.window.pairs += tokens + float(batch["position_ids"].sum(where=real))
        self.window.seconds += took
        self.window.wait += waited
        self.window.steps += 1

    def _before_update(self, loss: torch.Tensor) -> None:
        """loss: this rank's part of the step's loss."""
        if not self.norm_from_engine:
            # Without ZeRO, DeepSpeed clips but does not tell the norm; the gradients are averaged by now.
            grads = [item.grad for item in self.engine.module.parameters() if item.grad is not None]
            self._norm = torch.nn.utils.get_total_norm(grads)
        if self.guard is not None:
            norm = self._norm
            # DeepSpeed's wrappers know the norm once they call the optimiser; the engine copies it only after the step.
            self.guard.open(loss, lambda: self.engine.optimizer._global_grad_norm if self.norm_from_engine else norm)

    def _after_update(self, sums: torch.Tensor) -> None:
        """sums: this rank's loss sums and counts of the step, (2, 3)."""
        if self.guard is not None:
            sums = sums.masked_fill(self.guard.verdict()[0].bool(), 0.0)
            self._norm = self.guard.grad_norm
        else:
            if self.norm_from_engine:
                self._norm = self.engine.get_global_grad_norm()
            if not math.isfinite(self.grad_norm):
                raise FloatingPointError(
                    f"the gradient norm is {self.grad_norm} in step {self.progress.step + 1}; the newest checkpoint "
                    f"is {self.store.newest_name()}. Lower train.lr or train.clip, raise "
                    "train.warmup_steps, or set guard.enabled=true"
                )
        self.window.loss_sums += sums[0]
        self.window.loss_counts += sums[1]

    def _split(self, batch: dict[str, np.ndarray]) -> list[dict[str, torch.Tensor]]:
        rows = self.config.rows_per_micro_batch(self.world.size)
        tensors = {key: self._to_device(array) for key, array in batch.items()}
        starts = range(0, self.config.train.gradient_accumulation * rows, rows)
        return [{key: tensor[start : start + rows] for key, tensor in tensors.items()} for start in starts]

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.world.device.type == "cuda":
            return tensor.pin_memory().to(self.world.device, non_blocking=True)
        return tensor

    @torch.no_grad()
    def evaluate(self, batches: Iterator[dict[str, np.ndarray]]) -> dict[str, float | None]:
        """Mean loss per supervised token over `batches`, in total and by token type, as `eval_loss`, … Collective.

        Of the averaged weights, if the run averages them.
        """
        self.engine.eval()
        window = Window.empty(self.world.device)
        with averaged(self.engine):
            for batch in batches:
                for micro_batch in self._split(batch):
                    out = self.engine(**micro_batch, num_items_in_batch=1.0, use_cache=False)
                    window.loss_sums += out.loss_sums
                    window.loss_counts += out.loss_counts
        parts = len(LOSS_PARTS)
        values = all_sum(window.values(), self.world)
        return mean_losses(values[:parts], values[parts : 2 * parts], prefix="eval_")
