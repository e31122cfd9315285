"""Sums between two lines of metrics."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

LOSS_PARTS = ("block", "inner", "action")


@dataclass
class Window:
    """Sums since the last line of metrics, of this rank. Kept in checkpoints, so that a resumed run logs the same line.

    Args:
        loss_sums, loss_counts: cross-entropy in nats and supervised tokens by type, float64 of shape (3,).
            Steps that the guard skipped are not in them.
        tokens: tokens without padding; `pairs`: of each of them with itself and the earlier ones of its sequence.
        seconds: time inside steps; `wait`: the part of it spent waiting for the stream.
        steps: optimiser steps.
    """

    loss_sums: torch.Tensor
    loss_counts: torch.Tensor
    tokens: float = 0
    pairs: float = 0
    seconds: float = 0.0
    wait: float = 0.0
    steps: int = 0

    @classmethod
    def empty(cls, device: torch.device) -> "Window":
        zeros = torch.zeros(len(LOSS_PARTS), dtype=torch.float64, device=device)
        return cls(zeros, zeros.clone())

    def values(self) -> list[float]:
        sums = torch.cat([self.loss_sums, self.loss_counts]).tolist()
        return [*sums, self.tokens, self.pairs, self.seconds, self.wait, float(self.steps)]

    @classmethod
    def from_values(cls, values: Sequence[float], device: torch.device) -> "Window":
        parts = len(LOSS_PARTS)
        sums, counts = torch.tensor(values[: 2 * parts], dtype=torch.float64, device=device).split(parts)
        tokens, pairs, seconds, wait, steps = values[2 * parts :]
        return cls(sums.clone(), counts.clone(), tokens, pairs, seconds, wait, int(steps))


def mean_losses(sums: Sequence[float], counts: Sequence[float], prefix: str = "") -> dict[str, float | None]:
    """`loss` over all supervised tokens, and `loss_block`, `loss_inner`, `loss_action` (None without such tokens)."""
    losses: dict[str, float | None] = {f"{prefix}loss": sum(sums) / sum(counts) if sum(counts) else None}
    for part, total, count in zip(LOSS_PARTS, sums, counts, strict=True):
        losses[f"{prefix}loss_{part}"] = total / count if count else None
    return losses
