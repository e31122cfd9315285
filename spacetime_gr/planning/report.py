"""Every ZeRO stage and offload side by side, the cheapest that fits, and what to change where none does."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from spacetime_gr.planning.memory import Allowance, MemoryPlan
from spacetime_gr.planning.roofline import Assumptions, Cluster, StepTime, step_time
from spacetime_gr.planning.run import Run
from spacetime_gr.planning.sharing import Zero
from spacetime_gr.training.flops import model_flops, total_work

# Context of CUDA, NCCL's channels and cuBLAS's workspaces; and what the caching allocator cannot use.
GPU_ALLOWANCE = Allowance(fixed=1.5e9, share=0.05)
_CHOICES = (
    *((0, "none"), (1, "none"), (1, "optimizer"), (2, "none"), (2, "optimizer")),
    *((3, "none"), (3, "optimizer"), (3, "all")),
)


@dataclass(frozen=True)
class Option:
    """A ZeRO stage with an offload: what it needs of a device, and how long a step takes."""

    zero: Zero
    memory: MemoryPlan
    fits: bool
    time: StepTime

    @property
    def name(self) -> str:
        """As in `2`, `2 + optimizer`."""
        return str(self.zero.stage) + ("" if self.zero.offload == "none" else f" + {self.zero.offload}")


@dataclass(frozen=True)
class Report:
    """The plan of a run on a cluster."""

    run: Run
    cluster: Cluster
    options: tuple[Option, ...]
    tokens: float | None
    remedy: str | None

    @property
    def cheapest(self) -> Option | None:
        """The lowest stage that fits and is within a twentieth of the fastest: latency is not in the model."""
        fitting = [option for option in self.options if option.fits]
        if not fitting:
            return None
        best = min(option.time.total for option in fitting)
        return next(option for option in fitting if option.time.total <= 1.05 * best)

    @property
    def steps(self) -> float | None:
        """Optimiser steps of the run; None where it is limited by time alone."""
        return None if self.tokens is None else self.tokens / self.run.batch_tokens

    def days(self, option: Option) -> float | None:
        """Days of the run under an option."""
        return None if self.steps is None else self.steps * option.time.total / 86_400

    def gpu_hours(self, option: Option) -> float | None:
        """Hours of all devices together under an option."""
        days = self.days(option)
        return None if days is None else days * 24 * self.cluster.num_devices

    def as_dict(self) -> dict[str, Any]:
        """For JSON; bytes and seconds."""
        run, work = self.run, total_work(model_flops(self.run.sizes, self.run.batch_counts()))
        return {
            "parameters": asdict(run.parameters) | {"total": run.parameters.total},
            "devices": self.cluster.num_devices,
            "device_memory": self.cluster.device.memory,
            "precision": run.precision,
            "attention": run.attention,
            "batch_tokens": run.batch_tokens,
            "model_flops_per_token": work.total / run.batch_tokens,
            "tokens": self.tokens,
            "steps": self.steps,
            "options": [
                {
                    "zero_stage": option.zero.stage,
                    "offload": option.zero.offload,
                    "memory": option.memory.parts,
                    "memory_total": option.memory.total,
                    "memory_host": option.memory.host,
                    "fullest_phase": option.memory.fullest,
                    "fits": option.fits,
                    "step": asdict(option.time) | {"total": option.time.total},
                    "days": self.days(option),
                    "gpu_hours": self.gpu_hours(option),
                }
                for option in self.options
            ],
            "cheapest": None if self.cheapest is None else self.cheapest.name,
            "remedy": self.remedy,
        }


def plan_run(run: Run, cluster: Cluster, assumed: Assumptions, tokens: float | None) -> Report:
    """Compare all stages and offloads.

    Args:
        tokens: to be seen in all; default the run's own limit.

    Raises:
        ValueError: the device has no bf16 and the run asks for it, or the rows cannot be shared out.
    """
    train = run.config.train
    if tokens is None:
        by_steps = None if train.max_steps is None else float(train.max_steps * run.batch_tokens)
        limits = [limit for limit in (train.max_tokens, by_steps) if limit is not None]
        tokens = min(limits, default=None)
    options = tuple(_options(run, cluster, assumed))
    fits = any(option.fits for option in options)
    return Report(run, cluster, options, tokens, None if fits else _remedy(run, cluster, assumed))


def _options(run: Run, cluster: Cluster, assumed: Assumptions) -> Iterator[Option]:
    configured = run.zero()
    for stage, offload in _CHOICES:
        zero = replace(configured, stage=stage, offload=offload)
        memory = run.memory(zero, allowance=GPU_ALLOWANCE)
        yield Option(zero, memory, memory.total <= cluster.device.memory, step_time(run, zero, cluster, assumed))


def _remedy(run: Run, cluster: Cluster, assumed: Assumptions) -> str:
    """The least change of section train under which something fits; else what is left to do."""
    accumulation, rows = run.config.train.gradient_accumulation, run.config.rows_per_micro_batch(run.world_size)
    finer = (accumulation * parts for parts in range(2, rows + 1) if rows % parts == 0)
    splits: list[dict[str, Any]] = [{"gradient_accumulation": parts} for parts in finer]
    saving: dict[str, Any] = {"gradient_checkpointing": True}
    for changes in [*splits, saving, *(split | saving for split in splits)]:
        train = run.config.train.model_copy(update=changes)
        changed = replace(run, config=run.config.model_copy(update={"train": train}))
        fitting = next((option for option in _options(changed, cluster, assumed) if option.fits), None)
        if fitting is not None:
            settings = " ".join(f"train.{name}={str(value).lower()}" for name, value in changes.items())
            return f"set {settings}: ZeRO stage {fitting.name} then takes {fitting.memory.total / 1e9:.1f} GB"
    return (
        "no ZeRO stage fits even with one row a micro-batch and checkpointing: take more or larger GPUs, a smaller "
        "model, a shorter data.row_length, or a lower model.loss_chunk_size"
    )
