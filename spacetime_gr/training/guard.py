"""The skip-step guard: an optimiser step whose loss or gradient norm is out of line changes nothing.

The idea is OLMo-core's SkipStepOptimizer: a single bad batch should cost one batch, not the run. Statistics and
decision stay on the device: the optimiser is told by a tensor, so the host need not wait for it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from spacetime_gr.training.config import GuardSection
from spacetime_gr.training.distributed import World

# Fields of a verdict, in this order.
VERDICT = ("skipped", "loss", "grad_norm", "loss_limit", "grad_norm_limit")


class StepGuard:
    """Decides, the same on every rank, whether a step is taken.

    It is skipped when its loss or gradient norm is not finite, or lies more than `sigma_factor` standard deviations
    above the mean of the last `window` accepted steps. The second is judged once half a window was accepted.

    The decision must stand between DeepSpeed's computation of the norm and the update of the weights. A hook before
    the optimiser's step is that place under every ZeRO stage; the optimiser itself is torch's fused AdamW, which leaves
    weights, moments and step count alone where its `found_inf` is 1 (the protocol of torch's GradScaler). Zeroed
    gradients would not do: moments would decay and weight decay act. DeepSpeed leaves out steps with a norm that is not
    finite by itself (all stages but 0 in fp32), before the hook; the verdict is then made when it is first asked for.
    """

    def __init__(self, settings: GuardSection, world: World) -> None:
        self.settings = settings
        self.world = world
        # Row 0: losses, row 1: gradient norms; oldest first, the newest in the last column.
        self.history = torch.zeros(2, settings.window, dtype=torch.float64, device=world.device)
        self.num_accepted = torch.zeros((), dtype=torch.float64, device=world.device)
        self.grad_norm = torch.zeros((), dtype=torch.float64, device=world.device)
        self._columns = torch.arange(settings.window, device=world.device)
        self._verdict: torch.Tensor | None = None
        self._announced: tuple[torch.Tensor, Callable[[], Any]] | None = None

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Have `optimizer`, a fused AdamW, ask before each step. Call once."""

        def ask(optimizer: Any, arguments: Any, keywords: Any) -> None:
            optimizer.found_inf = self.verdict()[0].float()

        optimizer.register_step_pre_hook(ask)

    def open(self, loss: torch.Tensor, norm: Callable[[], Any]) -> None:
        """Announce an optimiser step.

        Args:
            loss: this rank's part of the step's loss, which is the sum over ranks; shape ().
            norm: the global gradient norm before clipping, the same on every rank; asked for when the optimiser steps.
        """
        self._announced, self._verdict = (loss, norm), None

    def verdict(self) -> torch.Tensor:
        """The fields of VERDICT for the announced step, float64 of shape (5,). Collective when first asked for."""
        if self._verdict is None:
            assert self._announced is not None, "no step was announced"
            loss, ask_norm = self._announced
            norm = torch.as_tensor(ask_norm()).to(self.world.device, torch.float64)
            values = torch.stack([loss.double(), norm / self.world.size])
            if self.world.size > 1:
                # One sum for both: whatever the last bit of a rank's own norm, all ranks decide on the same numbers.
                dist.all_reduce(values)
            self._verdict = self._judge(values)
        return self._verdict

    def _judge(self, values: torch.Tensor) -> torch.Tensor:
        """values: loss and norm, shape (2,). Accepted values join the statistics."""
        window = self.settings.window
        count = self.num_accepted.clamp(max=window)
        # masked_fill, for torch.where would copy a number to the device and wait for it.
        unknown = self._columns < window - count
        mean = self.history.masked_fill(unknown, 0.0).sum(1, keepdim=True) / count
        variance = (self.history - mean).masked_fill(unknown, 0.0).square().sum(1) / (count - 1)
        limits = mean.squeeze(1) + self.settings.sigma_factor * variance.sqrt()
        limits = limits.masked_fill(count < window // 2, torch.inf)
        skipped = ~(values.isfinite() & (values <= limits)).all()
        grown = torch.cat([self.history[:, 1:], values.unsqueeze(1)], dim=1)
        self.history = torch.where(skipped, self.history, grown)
        self.num_accepted = self.num_accepted + ~skipped
        self.grad_norm = torch.where(skipped, self.grad_norm, values[1])
        return torch.cat([skipped.double().unsqueeze(0), values, limits])

    def state_dict(self) -> dict[str, Any]:
        """The statistics, JSON-able and exact: a resumed run decides as the uninterrupted one."""
        count = int(self.num_accepted.clamp(max=self.settings.window))
        losses, norms = self.history[:, self.settings.window - count :].tolist()
        return {"losses": losses, "grad_norms": norms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up kept statistics; of another window, as many as there is room for."""
        kept = torch.tensor([state["losses"], state["grad_norms"]], dtype=torch.float64)[:, -self.settings.window :]
        count = kept.shape[1]
        if count:
            self.history[:, -count:] = kept.to(self.world.device)
            self.grad_norm = self.history[1, -1]
        self.num_accepted.fill_(count)
