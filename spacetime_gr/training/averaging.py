"""The average of the weights over the steps of a run, kept by the optimiser beside its moments."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

AVERAGE = "average"
_AT_ONCE = 1 << 24  # numbers exchanged at a time: what the exchange needs beside the weights


class AveragingAdamW(torch.optim.AdamW):
    """AdamW whose state also holds each parameter's average over the steps so far, step t weighing t^power.

    More exactly t^(power + 1) - (t - 1)^(power + 1), the power's integral over the step. The running form is
    a_t = b a_(t-1) + (1 - b) w_t, b = (1 - 1/t)^(power + 1) (Karras et al. 2024, "Analyzing and improving the training
    dynamics of diffusion models", section 3.1). The width of the average is a share of the run so far, so one power
    serves runs of any length. As part of the optimiser's state it is sharded, saved and loaded by ZeRO.
    """

    found_inf: torch.Tensor | None = None  # set from outside, as torch's GradScaler and `StepGuard` do

    def __init__(self, *arguments: Any, power: float, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.power = power

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """An update, after which its weights join the average; where `found_inf` is 1, nothing changes."""
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:  # no step of its own was taken
                    continue
                state = self.state[parameter]
                if AVERAGE not in state:
                    state[AVERAGE] = parameter.detach().clone()
                # 1 - b, exact for late steps too; a tensor, so that the host need not wait for a GPU.
                weight = -torch.expm1((self.power + 1) * torch.log1p(-1 / state["step"].clamp(min=1)))
                if self.found_inf is not None:
                    weight = weight * (1 - self.found_inf)
                state[AVERAGE].lerp_(parameter, weight.to(parameter.device))
        return loss


@contextmanager
def averaged(engine: Any) -> Iterator[None]:
    """Inside, the engine's model has the averaged weights, where its optimiser keeps them. Collective.

    Inside, do not train, save or enter again. After an error inside, nothing is exchanged back: that would be a
    collective which the other ranks are not in, and after an error a run neither trains nor saves.
    """
    _exchange(engine)
    yield
    _exchange(engine)


@torch.no_grad()
def _exchange(engine: Any) -> None:
    """Weights and averages change places."""
    optimizer = engine.basic_optimizer
    if not isinstance(optimizer, AveragingAdamW):
        return
    for parameter, state in optimizer.state.items():
        if AVERAGE in state:
            weights, averages = (tensor.view(-1).split(_AT_ONCE) for tensor in (parameter, state[AVERAGE]))
            for weight, average in zip(weights, averages, strict=True):
                kept = weight.clone()
                weight.copy_(average)
                average.copy_(kept)
    # Under ZeRO the optimiser's weights are not the model's, which are brought up to them.
    zero, stage = engine.optimizer, engine.zero_optimization_stage()
    if stage in (1, 2):
        zero.update_lp_params()
    elif stage == 3:
        zero.checkpoint_event_prologue()
        for shard, kept in zip(zero.fp16_partitioned_groups_flat, zero.fp32_partitioned_groups_flat, strict=True):
            shard.copy_(kept)
        zero.checkpoint_event_epilogue()
