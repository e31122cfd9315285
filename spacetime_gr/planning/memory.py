"""Memory of one device under ZeRO, by component and by phase of a step.

What lasts follows Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, section 5); what is held for a while follows what
DeepSpeed 0.19 allocates. `docs/plan.md` states the formulae and how far they were from measured runs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.planning.activations import MicroBatch, activations

_FULL = 4  # bytes of a float32
# Bytes that DeepSpeed 0.19 sends at once where there is no ZeRO (MEMORY_OPT_ALLREDUCE_SIZE), in numbers.
_STAGE_0_BUCKET = 500_000_000
_OFFLOADS = {"param": "all", "optimizer": "optimizer"}  # what DeepSpeed calls them, and `deepspeed.offload`
COMPONENTS = (
    *("weights", "gradients", "optimizer states", "master weights", "activations", "loss chunk", "place tables"),
    *("communication", "step temporaries", "allowance"),
)


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


class Allowance(NamedTuple):
    """For what is not modelled: bytes of the device's context and its libraries, and a share for fragmentation."""

    fixed: float = 0.0
    share: float = 0.0


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device, by phase of a step and component; and in host memory, for what is offloaded.

    The components do not peak at the same moment, so the device's need is that of the fullest phase and not the sum of
    each component's most.
    """

    phases: dict[str, dict[str, float]]
    host: float

    @property
    def fullest(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> dict[str, float]:
        """Bytes by component in the fullest phase; they add up to `total`."""
        return {name: self.phases[self.fullest].get(name, 0.0) for name in COMPONENTS}

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def plan_memory(
    inventory: Inventory,
    zero: Zero,
    batch: MicroBatch,
    world_size: int,
    accumulation: int,
    on_gpu: bool,
    allowance: Allowance,
) -> MemoryPlan:
    """Memory of one device of `world_size`.

    Args:
        accumulation: micro-batches of a step; of several, the gradients of earlier ones are held beside a later one's
            activations.
        on_gpu: AdamW is fused there; on a CPU it makes two temporaries of a parameter's size.
        allowance: for what is not modelled.
    """
    width, config = batch.width, inventory.config
    share, table = _Share.of(inventory, zero, world_size), inventory.table * width
    kept = activations(config, batch)
    offloaded = zero.offload != "none"
    masters = 0 if width == _FULL and zero.stage == 0 else _FULL * share.states
    lasting = {
        "weights": share.weights * width if zero.offload != "all" else 0.0,
        "gradients": share.lasting_gradients * width if not offloaded else 0.0,
        "optimizer states": 2.0 * _FULL * share.states if not offloaded else 0.0,
        "master weights": masters if not offloaded else 0.0,
        # With the spatial features of all blocks, which `PlaceTable` keeps.
        "place tables": inventory.places + config.num_blocks * config.spatial_features * config.use_user_block * width,
    }
    host = 0.0
    if offloaded:  # states, masters, float32 gradients, and a buffer on the way to the device
        host = share.states * (4 * _FULL + width) + (share.weights * width if zero.offload == "all" else 0.0)

    def phase(**held: float) -> dict[str, float]:
        more = {name.replace("_", " "): size for name, size in held.items()}
        parts = {name: lasting.get(name, 0.0) + more.get(name, 0.0) for name in COMPONENTS}
        return parts | {"allowance": allowance.fixed + allowance.share * sum(parts.values())}

    gathered = share.gathered * width
    earlier = share.between * width if accumulation > 1 and not offloaded else 0.0
    buckets = share.buckets * width
    added = 1 if config.tie_word_embeddings or config.use_user_block else 0
    phases = {
        "forward": phase(
            weights=gathered, gradients=earlier, activations=kept.body + kept.heads, loss_chunk=kept.chunk_forward
        ),
        "backward of the heads": phase(
            weights=gathered,
            gradients=earlier + table,
            activations=kept.body + kept.heads,
            loss_chunk=kept.chunk_backward,
            communication=buckets,
        ),
        # A look-up's gradient of the token table is being added to the head's, or to that of the other look-up.
        "backward of the embeddings": phase(
            weights=gathered,
            gradients=max(earlier, share.backward * width) + added * table,
            communication=buckets,
        ),
        "reduction": phase(
            weights=gathered, gradients=share.reduced * width, communication=buckets + share.copied * width
        ),
        # DeepSpeed takes the norm of each averaged gradient in float64.
        "gradient norm": phase(
            gradients=share.between * width, step_temporaries=2 * _FULL * share.largest if zero.stage else 0.0
        ),
        "optimizer step": _step(phase, inventory, share, zero, width, on_gpu),
        "gathering of weights": phase(communication=share.regathered * width),
    }
    return MemoryPlan(phases, host)


def _step(
    phase: Callable[..., dict[str, float]], inventory: Inventory, share: "_Share", zero: Zero, width: int, on_gpu: bool
) -> dict[str, float]:
    """The fullest moment of AdamW, which goes through the groups one after another.

    A group's flat gradients are made in float32 beside the averaged ones, of which the last group's are gone by then.
    """
    if zero.offload != "none":
        return phase()
    temporaries = 0 if on_gpu else 2
    if zero.stage == 0:
        full = 0.0 if width == _FULL else _FULL * inventory.total
        return phase(gradients=share.between * width + full, step_temporaries=temporaries * _FULL * inventory.largest)
    moments = []
    for number, group in enumerate(share.by_group):
        remaining = share.between * width if number + 1 < len(share.by_group) and zero.stage < 3 else 0.0
        held = remaining + _FULL * group
        flattening = share.between * width * (zero.stage < 3) + width * group
        moments.append((max(held + temporaries * _FULL * group, flattening), held, group))
    fullest, held, group = max(moments)
    held = min(held, fullest)
    return phase(gradients=held, step_temporaries=fullest - held)


@dataclass(frozen=True)
class _Share:
    """Numbers (not bytes) that one device holds.

    `weights`, `states` and `lasting_gradients` last; `by_group` splits the states by optimiser group; `gathered` are
    weights of others under stage 3; `backward` gradients at the end of backward, `between` those after it, `reduced` at
    the fullest moment of their reduction; `buckets` wait for it, `copied` is a bucket's copy on the way; `largest` is
    the largest averaged gradient; `regathered` the buffer in which updated weights arrive.
    """

    weights: float
    states: float
    lasting_gradients: float
    by_group: tuple[float, ...]
    gathered: float
    backward: float
    between: float
    reduced: float
    buckets: float
    copied: float
    largest: float
    regathered: float

    @classmethod
    def of(cls, inventory: Inventory, zero: Zero, world_size: int) -> "_Share":
        total, largest = inventory.total, inventory.largest
        if zero.stage == 0:
            bucket = min(total, max(_STAGE_0_BUCKET, largest))
            return cls(total, total, 0, (total,), 0, total, total, total, 0, bucket, largest, 0)
        by_group = tuple(math.ceil(sum(group) / world_size) for group in inventory.groups)
        states, bucket = sum(by_group), zero.reduce_bucket
        copied = min(bucket, total)  # a parameter larger than a bucket goes without
        if zero.stage == 3:
            small = sum(size for group in inventory.groups for size in group if size <= zero.persistence_threshold)
            # Weights that are wanted again soon stay: at the end of forward, those of the last modules.
            window = zero.reuse_distance / 2 + zero.prefetch_bucket + inventory.table
            gathered = min(total, small + window) if world_size > 1 else 0
            part = math.ceil(largest / world_size)
            return cls(states, states, states, by_group, gathered, 0, 0, largest, bucket, copied, part, 0)
        own = sum(_touched(group, size, world_size) for group, size in zip(inventory.groups, by_group, strict=True))
        buckets = bucket * (2 if zero.overlap else 1)
        regathered = min(max(by_group) * world_size, zero.allgather_bucket)
        part = min(largest, max(by_group))
        if zero.stage == 1:
            return cls(total, states, 0, by_group, 0, total, own, total + own, buckets, copied, part, regathered)
        return cls(total, states, 0, by_group, 0, own, own, own + largest, buckets, copied, part, regathered)


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
