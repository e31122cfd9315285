"""What a run would need, without training: the text of `--dry-run`."""

import shlex
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer
from spacetime_gr.training.distributed import environment_world
from spacetime_gr.training.engine import deepspeed_settings, resolve_precision, resolve_stage
from spacetime_gr.training.flops import ParameterCounts, count_parameters
from spacetime_gr.training.loading import dump_config
from spacetime_gr.training.model import attention_implementation, model_config, poi_embeddings


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on one device by what they hold (offloaded parts are in host memory instead)."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    places: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.places


def dry_run(config: PretrainConfig, config_files: list[str], overrides: list[str], world_size: int) -> str:
    """Everything that `--dry-run` prints. Without the prepared folder, `model` gives the vocabulary's sizes.

    Raises:
        ValueError: settings that a real run would refuse too.
    """
    import torch

    from spacetime_gr import SpacetimeGRForCausalLM

    device = environment_world().device
    precision = resolve_precision(config, device)
    deepspeed_settings(config, world_size, precision)
    absent = [str(corpus.path) for corpus in config.data.corpora if not Path(corpus.path).is_dir()]
    sizes = model_config(config, None if absent else load_tokenizer(config))
    sizes._attn_implementation = attention_implementation(config, sizes, device)
    if not absent:
        poi_embeddings(config, sizes)
    with torch.device("meta"):
        model = SpacetimeGRForCausalLM(sizes)
    counts, places = count_parameters(model), sum(buffer.nbytes for buffer in model.buffers())
    memory = plan_memory(config, counts, places, sizes, world_size, precision)
    parts = [dump_config(config), describe(counts, memory, config, world_size, precision)]
    parts.append(f"\nattention               {sizes._attn_implementation:>16}")
    if absent:
        parts.append(f"\n{absent[0]} does not exist yet: sizes of the vocabulary are those of section model")
    return "\n".join([*parts, "", launch_command(config_files, overrides, world_size)])


def plan_memory(
    config: PretrainConfig, counts: ParameterCounts, places: int, model_config: Any, world_size: int, precision: str
) -> MemoryPlan:
    """Estimate of the memory on one device.

    Weights, gradients and optimiser states follow ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 3): 2 + 2 +
    12 bytes a parameter in bf16 (the last: fp32 copy and two moments), in fp32 4 + 4 + 12, or + 8 without ZeRO, which
    keeps no copy. Stage 1 divides the optimiser states by the number of ranks, stage 2 the gradients too, stage 3 the
    weights too.

    Activations follow Korthikanti et al. 2022 (arXiv 2205.05198, eq. 2) without the attention scores, which sdpa does
    not keep: 34 x rows x row length x hidden size x layers bytes in bf16 (twice that in fp32); with gradient
    checkpointing the input of each layer and one layer's activations. Caches and fragmentation come on top.

    Args:
        places: bytes of the place tables, which every device holds whole.
    """
    stage = resolve_stage(config)
    parameters = counts.total
    half = precision == "bf16"
    share = 1 / world_size
    optimizer = parameters * (12 if half or stage >= 1 else 8) * (share if stage >= 1 else 1)
    gradients = parameters * (2 if half else 4) * (share if stage >= 2 else 1)
    weights = parameters * (2 if half else 4) * (share if stage >= 3 else 1)
    if config.deepspeed.offload in ("optimizer", "all"):
        optimizer = 0
    if config.deepspeed.offload == "all":
        weights = 0
    width = 2 if half else 4
    positions = config.rows_per_micro_batch(world_size) * config.data.row_length
    per_layer = 17 * width * positions * model_config.hidden_size
    layers = model_config.num_hidden_layers
    if config.train.gradient_checkpointing:
        activations = per_layer + layers * width * positions * model_config.hidden_size
    else:
        activations = per_layer * layers
    return MemoryPlan(weights, gradients, optimizer, activations, places)


def launch_command(config_files: list[str], overrides: list[str], world_size: int, num_nodes: int = 1) -> str:
    """The command that starts this run."""
    script = ["launch/pretrain.py", *chain.from_iterable(("--config", file) for file in config_files), *overrides]
    if world_size == 1:
        return shlex.join(["python", *script])
    launcher = ["deepspeed", "--num_accelerators", str(world_size // num_nodes)]
    if num_nodes > 1:
        launcher += ["--num_nodes", str(num_nodes), "--hostfile", "hostfile"]
    return shlex.join([*launcher, *script])


def describe(
    counts: ParameterCounts, memory: MemoryPlan, config: PretrainConfig, world_size: int, precision: str
) -> str:
    """Counts, memory and batch as aligned text."""
    gigabytes = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer states": memory.optimizer,
        "activations (estimate)": memory.activations,
        "place tables": memory.places,
        "total": memory.total,
    }
    batch = config.data.num_lanes * config.data.row_length
    lines = [
        f"parameters              {counts.total:>16,}",
        f"  embedding             {counts.embedding:>16,}",
        f"  body                  {counts.body:>16,}",
        f"  head                  {counts.head:>16,}",
        "",
        f"batch                   {batch:>16,} tokens = {world_size} ranks x {config.train.gradient_accumulation} "
        f"micro-batches x {config.rows_per_micro_batch(world_size)} rows x {config.data.row_length}",
        "",
        f"memory per device, ZeRO stage {resolve_stage(config)}, {world_size} ranks, {precision}, "
        f"offload {config.deepspeed.offload}",
        *(f"  {name:<22}{size / 1e9:>16,.3f} GB" for name, size in gigabytes.items()),
    ]
    return "\n".join(lines)
