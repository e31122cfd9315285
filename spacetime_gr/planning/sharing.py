"""What a model holds, and how ZeRO shares it out: numbers (not bytes) on one device, as DeepSpeed 0.19 keeps them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig

# Numbers that DeepSpeed 0.19 sends at once where there is no ZeRO (MEMORY_OPT_ALLREDUCE_SIZE).
_STAGE_0_BUCKET = 500_000_000
_OFFLOADS = {"param": "all", "optimizer": "optimizer"}  # what DeepSpeed calls them, and `deepspeed.offload`


@dataclass(frozen=True)
class Inventory:
    """What a model holds.

    Args:
        config: of the model.
        groups: numbers in each parameter, by the optimiser's groups and in its order.
        table: numbers in the token table (each of the two, where the head has its own).
        places: bytes of the buffers, which every device holds whole.
    """

    config: SpacetimeGRConfig
    groups: tuple[tuple[int, ...], ...]
    table: int
    places: int

    @classmethod
    def of(cls, model: nn.Module, groups: Sequence[dict[str, Any]]) -> "Inventory":
        """Of a model (meta tensors will do) and the optimiser's groups of its parameters."""
        config: Any = model.config
        sizes = tuple(tuple(parameter.numel() for parameter in group["params"]) for group in groups)
        buffers = sum(buffer.nbytes for buffer in model.buffers())
        return cls(config, sizes, config.vocab_size * config.hidden_size, buffers)

    @property
    def total(self) -> int:
        return sum(map(sum, self.groups))

    @property
    def largest(self) -> int:
        return max(map(max, self.groups))


@dataclass(frozen=True)
class Zero:
    """How the states are shared out, and DeepSpeed's buffers (sizes in numbers, not bytes)."""

    stage: int
    offload: str
    reduce_bucket: int
    allgather_bucket: int
    overlap_comm: bool | None
    persistence_threshold: int
    prefetch_bucket: int
    reuse_distance: int

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Zero":
        """From what `deepspeed_settings` gives; sizes that are not set are DeepSpeed's defaults."""
        zero = settings["zero_optimization"]
        devices = {part: zero.get(f"offload_{part}", {}).get("device", "none") for part in ("param", "optimizer")}
        offload = next((name for part, name in _OFFLOADS.items() if devices[part] != "none"), "none")
        return cls(
            stage=zero["stage"],
            offload=offload,
            reduce_bucket=int(zero.get("reduce_bucket_size", 5e8)),
            allgather_bucket=int(zero.get("allgather_bucket_size", 5e8)),
            overlap_comm=zero.get("overlap_comm"),
            persistence_threshold=int(zero.get("stage3_param_persistence_threshold", 1e5)),
            prefetch_bucket=int(zero.get("stage3_prefetch_bucket_size", 5e7)),
            reuse_distance=int(zero.get("stage3_max_reuse_distance", 1e9)),
        )

    @property
    def overlap(self) -> bool:
        """Whether communication goes on beside backward; DeepSpeed's default depends on the stage."""
        return self.stage == 3 if self.overlap_comm is None else self.overlap_comm


@dataclass(frozen=True)
class Share:
    """Numbers that one device holds.

    Lasting: `weights`, `states` (of each moment, and of AdamW's copy), `by_group` (states by optimiser group),
    `lasting_gradients` and `lasting_bucket` of stage 3. Gradients for a while: `accumulated` between micro-batches;
    `during` backward beside those being made; `backward` at its end; `reduced` at the fullest moment of their
    reduction; `kept` from there to the step, and of these the `largest`. Further: `gathered` weights of others under
    stage 3; `buckets` in which gradients wait, `copied` of one on the way; `regathered`, in which updated weights
    arrive.
    """

    weights: float
    states: float
    by_group: tuple[float, ...]
    lasting_gradients: float = 0
    lasting_bucket: float = 0
    accumulated: float = 0
    during: float = 0
    backward: float = 0
    reduced: float = 0
    kept: float = 0
    largest: float = 0
    gathered: float = 0
    buckets: float = 0
    copied: float = 0
    regathered: float = 0

    @classmethod
    def of(cls, inventory: Inventory, zero: Zero, world_size: int, accumulation: int) -> "Share":
        """Of one of `world_size` devices, for a step of so many micro-batches."""
        total, largest, table, several = inventory.total, inventory.largest, inventory.table, accumulation > 1
        if zero.stage == 0:
            sent = min(total, max(_STAGE_0_BUCKET, largest))
            return cls(
                total, total, (total,), accumulated=total * several, backward=total, reduced=total, kept=total,
                largest=largest, copied=sent,
            )  # fmt: skip
        by_group = tuple(math.ceil(sum(group) / world_size) for group in inventory.groups)
        states, bucket = sum(by_group), zero.reduce_bucket
        copied = min(bucket, total)  # a parameter larger than a bucket goes without
        if zero.stage == 3:
            small = sum(size for group in inventory.groups for size in group if size <= zero.persistence_threshold)
            # Weights that are wanted again soon stay: at the end of forward, those of the last modules.
            window = zero.reuse_distance / 2 + zero.prefetch_bucket + table
            return cls(
                states, states, by_group, lasting_gradients=states, backward=table, reduced=largest,
                largest=math.ceil(largest / world_size), gathered=min(total, small + window) * (world_size > 1),
                lasting_bucket=bucket, copied=copied,
            )  # fmt: skip
        own = sum(_touched(group, size, world_size) for group, size in zip(inventory.groups, by_group, strict=True))
        # Stage 1 holds all gradients till the last micro-batch; where it then overlaps nothing, till backward is over.
        whole = zero.stage == 1 and (several or not zero.overlap)
        return cls(
            total,
            states,
            by_group,
            accumulated=(total if zero.stage == 1 else own) * several,
            during=0 if whole else own,
            backward=total if whole else own + table,
            reduced=own + (total if whole else largest),
            kept=own,
            largest=min(largest, max(by_group)),
            buckets=bucket * (2 if zero.overlap else 1),
            copied=copied,
            regathered=min(max(by_group) * world_size, zero.allgather_bucket),
        )


def _touched(group: Sequence[int], partition: int, world_size: int) -> int:
    """Numbers in the parameters that reach into the fullest partition of a group.

    DeepSpeed keeps the averaged gradient of a parameter whole on every device whose partition has a part of it: the
    gradient of a large token table is not shared out.
    """
    ends = np.cumsum(group)
    starts = ends - np.asarray(group)
    edges = np.arange(world_size, dtype=np.int64) * partition
    first = np.searchsorted(ends, edges, side="right")
    last = np.searchsorted(starts, edges + partition, side="left")
    sums = np.concatenate([[0], ends])
    return int((sums[np.maximum(last, first)] - sums[np.minimum(first, len(group))]).max())
