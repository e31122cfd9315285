"""Memory of one device under ZeRO, by component and by phase of a step.

What lasts follows Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, section 5); what is held for a while follows what
DeepSpeed 0.19 allocates. `docs/plan.md` states the formulae and how far they were from measured runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from spacetime_gr.planning.activations import MicroBatch, activations
from spacetime_gr.planning.sharing import Inventory, Share, Zero

_FULL = 4  # bytes of a float32
COMPONENTS = (
    *("weights", "gradients", "optimizer states", "master weights", "activations", "loss chunk", "place tables"),
    *("communication", "step temporaries", "allowance"),
)


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
    optimizer_tensors: int,
    allowance: Allowance,
) -> MemoryPlan:
    """Memory of one device of `world_size`.

    Args:
        accumulation: micro-batches of a step; of several, the gradients of earlier ones are held beside a later one's
            activations.
        optimizer_tensors: float32 numbers that the optimiser keeps of each parameter.
        allowance: for what is not modelled.
    """
    width, config = batch.width, inventory.config
    share, table = Share.of(inventory, zero, world_size, accumulation), inventory.table * width
    kept = activations(config, batch)
    offloaded = zero.offload != "none"
    masters = 0 if width == _FULL and zero.stage == 0 else _FULL * share.states
    lasting = {
        "weights": share.weights * width if zero.offload != "all" else 0.0,
        "gradients": share.lasting_gradients * width if not offloaded else 0.0,
        "optimizer states": float(optimizer_tensors * _FULL * share.states) if not offloaded else 0.0,
        "master weights": masters if not offloaded else 0.0,
        # With the spatial features of all blocks, which `PlaceTable` keeps.
        "place tables": inventory.places + config.num_blocks * config.spatial_features * config.use_user_block * width,
        "communication": share.lasting_bucket * width,
    }
    host = 0.0
    if offloaded:  # states, masters, float32 gradients, and a buffer on the way to the device
        host = share.states * ((optimizer_tensors + 2) * _FULL + width) + (
            share.weights * width if zero.offload == "all" else 0.0
        )

    def phase(**held: float) -> dict[str, float]:
        more = {name.replace("_", " "): size for name, size in held.items()}
        parts = {name: lasting.get(name, 0.0) + more.get(name, 0.0) for name in COMPONENTS}
        return parts | {"allowance": allowance.fixed + allowance.share * sum(parts.values())}

    gathered, buckets, accumulated = share.gathered * width, share.buckets * width, share.accumulated * width
    # Averaged gradients get their place when the first bucket is full, and activations are gone by as much by then.
    filled = min(1.0, zero.reduce_bucket / max(1, inventory.total - inventory.table))
    looked_up = table if config.tie_word_embeddings or config.use_user_block else 0
    phases = {
        "forward": phase(
            weights=gathered, gradients=accumulated, activations=kept.body + kept.heads, loss_chunk=kept.chunk_forward
        ),
        "backward of the heads": phase(
            weights=gathered,
            gradients=accumulated + table,
            activations=kept.body + kept.heads,
            loss_chunk=kept.chunk_backward,
            communication=buckets,
        ),
        "backward of the layers": phase(
            weights=gathered,
            gradients=max(accumulated, share.during * width) + table,
            activations=kept.body * (1 - filled) + kept.recomputed,
            communication=buckets,
        ),
        # A look-up's gradient of the token table is being added to the head's, or to that of the other look-up.
        "backward of the embeddings": phase(
            weights=gathered, gradients=share.backward * width + looked_up, communication=buckets
        ),
        "reduction": phase(
            weights=gathered, gradients=share.reduced * width, communication=buckets + share.copied * width
        ),
        # DeepSpeed takes the norm of each averaged gradient in float64.
        "gradient norm": phase(
            gradients=share.kept * width, step_temporaries=2 * _FULL * share.largest if zero.stage else 0.0
        ),
        "optimizer step": _step(phase, inventory, share, zero, width),
        "gathering of weights": phase(communication=share.regathered * width),
    }
    return MemoryPlan(phases, host)


def _step(
    phase: Callable[..., dict[str, float]], inventory: Inventory, share: Share, zero: Zero, width: int
) -> dict[str, float]:
    """The fullest moment of AdamW, which goes through the groups one after another and, fused, needs nothing itself.

    A group's averaged gradients are laid end to end and, in bf16, made float32 beside them.
    """
    if zero.offload != "none":
        return phase()
    cast = 0 if width == _FULL else _FULL
    if zero.stage == 0:
        return phase(gradients=share.kept * width + cast * inventory.total)
    return phase(gradients=share.kept * width + (width + cast) * max(share.by_group))
