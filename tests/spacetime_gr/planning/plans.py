"""A run to be planned, and a cluster for it."""

from dataclasses import replace
from typing import Any

from spacetime_gr import SpacetimeGRConfig
from spacetime_gr.planning.devices import find_device
from spacetime_gr.planning.roofline import Cluster
from spacetime_gr.planning.run import Run
from spacetime_gr.training.config import PretrainConfig

MODEL: dict[str, Any] = {
    "num_blocks": 200_000, "num_inner": 512, "num_actions": 4, "num_pois": 1_000_000, "num_categories": 300,
    "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
}  # fmt: skip


def make_run(world_size: int = 8, precision: str = "bf16", lanes: int = 64, length: int = 2048, **sections: Any) -> Run:
    """A run of a 25 M body with a table of 200,000 blocks; `sections` are laid over the settings."""
    settings: dict[str, Any] = {
        "run": {"dir": "unused"},
        "data": {"path": "unused", "row_length": length, "num_lanes": lanes},
        "train": {"max_tokens": 1e9},
    }
    for name, values in sections.items():
        settings[name] = settings.get(name, {}) | values
    config = PretrainConfig.model_validate(settings)
    sizes = SpacetimeGRConfig(**MODEL | config.model)
    sizes._attn_implementation = "varlen"
    return Run.of(config, sizes, world_size, precision)


def make_cluster(num_devices: int = 8, gpu: str = "h100", per_node: int = 8) -> Cluster:
    return Cluster(find_device(gpu), num_devices, min(per_node, num_devices))


def at_stage(run: Run, stage: int, **changes: Any):
    """The run's DeepSpeed buffers under another stage."""
    return replace(run.zero(), stage=stage, **changes)
