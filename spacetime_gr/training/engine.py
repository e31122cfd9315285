"""DeepSpeed settings, optimiser and engine from a PretrainConfig."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from spacetime_gr.training.averaging import AveragingAdamW
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.distributed import World

# Settings that other sections own. A raw DeepSpeed file may leave them out, say "auto", or agree.
_OWNERS = {
    "train_batch_size": "data.num_lanes",
    "train_micro_batch_size_per_gpu": "data.num_lanes and train.gradient_accumulation",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "gradient_clipping": "train.clip",
    "bf16": "train.precision",
}
_REFUSED = {
    "optimizer": "train.lr, train.betas and train.weight_decay",
    "scheduler": "train.schedule",
    "fp16": "train.precision (bf16 or fp32)",
    "data_efficiency": "data.curriculum",
    "curriculum_learning": "data.curriculum",
}


def resolve_precision(config: PretrainConfig, device: torch.device) -> str:
    """`fp32` or `bf16`.

    Raises:
        ValueError: bf16 was asked for on a GPU that has none.
    """
    wanted = config.train.precision
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if wanted == "auto":
        return "bf16" if has_bf16 else "fp32"
    if wanted == "bf16" and device.type == "cuda" and not has_bf16:
        raise ValueError("train.precision=bf16, but this GPU has no bfloat16; set train.precision=fp32")
    return wanted


def resolve_stage(config: PretrainConfig) -> int:
    """ZeRO stage: `deepspeed.zero_stage`, else the one in `deepspeed.config`, else 1.

    Raises:
        ValueError: both are set and differ, or `deepspeed.config` has no stage from 0 to 3 where one is expected.
    """
    base = config.deepspeed.config if isinstance(config.deepspeed.config, dict) else {}
    raw = base.get("zero_optimization", {})
    in_file = raw.get("stage") if isinstance(raw, dict) else raw
    if in_file not in (None, "auto", 0, 1, 2, 3):
        raise ValueError(f"deepspeed.config has zero_optimization={raw!r}; expected a mapping with a stage from 0 to 3")
    stage = config.deepspeed.zero_stage
    if stage is not None and in_file not in (None, "auto", stage):
        raise ValueError(
            f"deepspeed.zero_stage={stage}, but deepspeed.config has zero_optimization.stage={in_file}; set only one"
        )
    return int(stage if stage is not None else in_file if in_file not in (None, "auto") else 1)


def deepspeed_settings(config: PretrainConfig, world_size: int, precision: str) -> dict[str, Any]:
    """The dictionary that deepspeed.initialize receives: `deepspeed.config` with the run's own settings laid over it.

    Raises:
        ValueError: a raw setting contradicts the section that owns it, or one does not go with another.
    """
    base = copy.deepcopy(config.deepspeed.config) if isinstance(config.deepspeed.config, dict) else {}
    for key, owner in _REFUSED.items():
        if key in base:
            raise ValueError(f"deepspeed.config has {key!r}; remove it and use {owner}")
    rows = config.rows_per_micro_batch(world_size)
    own: dict[str, Any] = {
        "train_batch_size": config.data.num_lanes,
        "train_micro_batch_size_per_gpu": rows,
        "gradient_accumulation_steps": config.train.gradient_accumulation,
        "gradient_clipping": config.train.clip,
        "bf16": {"enabled": precision == "bf16"},
    }
    for key, owner in _OWNERS.items():
        given = base.get(key, "auto")
        if given not in ("auto", own[key]):
            raise ValueError(f"deepspeed.config has {key}={given!r}, but {owner} gives {own[key]!r}; remove the first")
    stage = resolve_stage(config)
    zero = dict(base.get("zero_optimization", {}), stage=stage)
    if stage == 0 and precision == "bf16" and config.train.average_power is not None:
        raise ValueError(
            "train.average_power needs weights in fp32 to average, and ZeRO stage 0 in bf16 keeps them elsewhere; set "
            "deepspeed.zero_stage=1"
        )
    devices = {zero.get(part, {}).get("device") for part in ("offload_optimizer", "offload_param")}
    if "nvme" in devices and config.train.average_power is not None:
        raise ValueError("train.average_power cannot reach weights on NVMe; take it out, or offload to the cpu")
    offload = config.deepspeed.offload
    if offload != "none" and (stage == 0 or (offload == "all" and stage != 3)):
        raise ValueError(f"deepspeed.offload={offload} does not go with ZeRO stage {stage}; set deepspeed.zero_stage")
    if offload != "none":
        zero.setdefault("offload_optimizer", {"device": "cpu", "pin_memory": torch.cuda.is_available()})
    if offload == "all":
        zero.setdefault("offload_param", {"device": "cpu", "pin_memory": torch.cuda.is_available()})
    defaults: dict[str, Any] = {
        # torch's AdamW runs everywhere without a compiled extension; ZeRO wants to be told that this is meant.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
    return {**defaults, **base, **own, "zero_optimization": zero}


def parameter_groups(model: nn.Module, config: PretrainConfig) -> list[dict[str, Any]]:
    """Two groups, with and without weight decay: vectors (norms, biases) never decay, embeddings on request."""
    embeddings = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        # Under sharded initialisation the tensor is an empty shard; DeepSpeed keeps its true shape beside it.
        ndim = len(getattr(parameter, "ds_shape", parameter.shape))
        spared = ndim < 2 or (id(parameter) in embeddings and not config.train.decay_embeddings)
        (plain if spared else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.train.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def trained_names(model: nn.Module, config: PretrainConfig) -> list[str]:
    """Names of the trained parameters, in the order of `parameter_groups`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in parameter_groups(model, config) for parameter in group["params"]]


@contextmanager
def zero3_aware(config: PretrainConfig, world: World) -> Iterator[None]:
    """Inside, transformers builds models as shards from the start.

    The settings object must live that long: transformers refers to it weakly.
    """
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.utils import is_accelerate_available

    if not is_accelerate_available():
        raise ValueError("deepspeed.sharded_init needs the package accelerate; install it or switch sharded_init off")
    settings = HfDeepSpeedConfig(deepspeed_settings(config, world.size, resolve_precision(config, world.device)))
    try:
        yield
    finally:
        del settings


def build_engine(model: nn.Module, config: PretrainConfig, world: World) -> Any:
    """A DeepSpeed engine around `model`. Collective.

    Args:
        model: the whole model on every rank, with equal weights.
        config: the run.
        world: the process group.
    """
    import deepspeed

    precision = resolve_precision(config, world.device)
    settings = deepspeed_settings(config, world.size, precision)
    # Fused: one pass over the state, on GPUs and CPUs; and it can leave a step out on a tensor's word (`StepGuard`).
    train = config.train
    kind = torch.optim.AdamW if train.average_power is None else partial(AveragingAdamW, power=train.average_power)
    optimizer = kind(parameter_groups(model, config), lr=train.lr, betas=train.betas, eps=train.eps, fused=True)
    exact = {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.dtype == torch.float32}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    # DeepSpeed casts buffers along with the weights; coordinates and rotary frequencies must keep their precision.
    for name, buffer in exact.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer.to(world.device))
    from spacetime_gr.training.safe_loading import SafeCheckpointEngine

    engine.checkpoint_engine = SafeCheckpointEngine(engine._config)
    # DeepSpeed would copy its converters, which read pickles, into each checkpoint; `spacetime-gr export` is ours.
    engine._copy_recovery_script = lambda save_path: None
    if config.train.compile:
        engine.compile()
    return engine
