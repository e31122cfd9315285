"""What a run would need, without training: the text of `--dry-run`."""

import shlex
from itertools import chain
from pathlib import Path

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.planning.memory import MemoryPlan
from spacetime_gr.planning.run import Run
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer
from spacetime_gr.training.distributed import environment_world
from spacetime_gr.training.engine import deepspeed_settings, resolve_precision, resolve_stage
from spacetime_gr.training.loading import dump_config
from spacetime_gr.training.model import attention_implementation, model_config, poi_embeddings


def dry_run(config: PretrainConfig, config_files: list[str], overrides: list[str], world_size: int) -> str:
    """Everything that `--dry-run` prints. Without the prepared folder, `model` gives the vocabulary's sizes.

    Raises:
        ValueError: settings that a real run would refuse too.
    """
    device = environment_world().device
    precision = resolve_precision(config, device)
    deepspeed_settings(config, world_size, precision)
    sizes, absent = planned_sizes(config)
    sizes._attn_implementation = attention_implementation(config, sizes, device)
    if absent is None:
        poi_embeddings(config, sizes)
    run = Run.of(config, sizes, world_size, precision)
    memory = run.memory(run.zero())
    parts = [dump_config(config), describe(run, memory)]
    parts.append(f"\nattention               {sizes._attn_implementation:>16}")
    if absent is not None:
        parts.append(f"\n{absent} does not exist yet: sizes of the vocabulary are those of section model")
    return "\n".join([*parts, "", launch_command(config_files, overrides, world_size)])


def planned_sizes(config: PretrainConfig) -> tuple[SpacetimeGRConfig, str | None]:
    """Model configuration for a plan, and the first corpus that does not exist yet: `model` then gives the sizes."""
    absent = next((str(corpus.path) for corpus in config.data.corpora if not Path(corpus.path).is_dir()), None)
    return model_config(config, None if absent else load_tokenizer(config)), absent


def launch_command(config_files: list[str], overrides: list[str], world_size: int, num_nodes: int = 1) -> str:
    """The command that starts this run."""
    script = ["launch/pretrain.py", *chain.from_iterable(("--config", file) for file in config_files), *overrides]
    if world_size == 1:
        return shlex.join(["python", *script])
    launcher = ["deepspeed", "--num_accelerators", str(world_size // num_nodes)]
    if num_nodes > 1:
        launcher += ["--num_nodes", str(num_nodes), "--hostfile", "hostfile"]
    return shlex.join([*launcher, *script])


def describe(run: Run, memory: MemoryPlan) -> str:
    """Counts, memory and batch as aligned text."""
    config, counts = run.config, run.parameters
    gigabytes = {name: size for name, size in memory.parts.items() if size} | {"total": memory.total}
    lines = [
        f"parameters              {counts.total:>16,}",
        f"  embedding             {counts.embedding:>16,}",
        f"  body                  {counts.body:>16,}",
        f"  head                  {counts.head:>16,}",
        "",
        f"batch                   {run.batch_tokens:>16,} tokens = {run.world_size} ranks x "
        f"{config.train.gradient_accumulation} micro-batches x {config.rows_per_micro_batch(run.world_size)} rows x "
        f"{config.data.row_length}",
        "",
        f"memory per device, ZeRO stage {resolve_stage(config)}, {run.world_size} ranks, {run.precision}, "
        f"offload {config.deepspeed.offload}; fullest in the phase: {memory.fullest}",
        *(f"  {name:<22}{size / 1e9:>16,.3f} GB" for name, size in gigabytes.items()),
    ]
    return "\n".join(lines)
