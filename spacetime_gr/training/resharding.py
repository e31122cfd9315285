"""A checkpoint of some number of ranks and ZeRO stage, taken up by an engine of another.

Under ZeRO every rank keeps a flat fp32 vector of its part of the weights, and the optimiser's tensors (moments, and the
average of the weights if the run keeps it) in the same layout. What part of which parameter lies where follows from the
stage and the number of ranks. So the old layout is described as fragments of parameters, and the new one is filled with
slices of them. Files are memory-mapped: a rank reads what it needs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from spacetime_gr.training.averaging import AVERAGE
from spacetime_gr.training.checkpoints import Checkpoint
from spacetime_gr.training.distributed import full_numel
from spacetime_gr.training.safe_loading import load_states

TENSORS = ("exp_avg", "exp_avg_sq", AVERAGE)  # of the optimiser; the last only where weights are averaged
WEIGHT = "weight"
_STAGE_3_STATES = "zero_pp_rank_0_mp_rank_00_model_states.pt"


@dataclass
class Fragments:
    """The fp32 weight of one parameter and the optimiser's tensors for it, flat, in consecutive pieces of equal cut."""

    numel: int = 0
    pieces: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def add(self, piece: dict[str, torch.Tensor]) -> None:
        self.pieces.append(piece)
        self.numel += piece[WEIGHT].numel()

    def read(self, key: str, start: int, stop: int, out: torch.Tensor) -> None:
        """Copy elements `start` to `stop` of `key` into `out`, of shape (stop - start,)."""
        at = 0
        for piece in self.pieces:
            tensor = piece[key]
            first, last = max(start, at), min(stop, at + tensor.numel())
            if first < last:
                out[first - start : last - start].copy_(tensor[first - at : last - at])
            at += tensor.numel()


@dataclass(frozen=True)
class Source:
    """All parameters of a checkpoint, by name, and the optimiser's step."""

    parameters: dict[str, Fragments]
    step: torch.Tensor

    @property
    def tensors(self) -> tuple[str, ...]:
        """Those of TENSORS that the checkpoint holds."""
        held = next(iter(self.parameters.values())).pieces[0]
        return tuple(name for name in TENSORS if name in held)


def reshard(engine: Any, checkpoint: Checkpoint, stage: int, names: Sequence[str]) -> None:
    """Load weights, the optimiser's tensors and step of `checkpoint` into an engine that has not trained. Collective.

    Args:
        engine: under ZeRO `stage`, any number of ranks.
        checkpoint: of any stage and number of ranks.
        stage: the engine's.
        names: of the trained parameters, in the optimiser's order.

    Raises:
        ValueError: the checkpoint is of another model, or one of the two sides is stage 0 in bf16, of which DeepSpeed
            keeps the optimiser in another form.
    """
    if 0 in (stage, checkpoint.meta["zero_stage"]) and "bf16" in (
        checkpoint.meta["precision"],
        "bf16" if engine.bfloat16_enabled() else "fp32",
    ):
        raise ValueError(
            f"{checkpoint.path} was written under ZeRO stage {checkpoint.meta['zero_stage']}, now it is {stage}: stage "
            f"0 in bf16 cannot be changed; set deepspeed.zero_stage={checkpoint.meta['zero_stage']}"
        )
    source = read_source(checkpoint, names)
    parameters = dict(engine.module.named_parameters())
    _check_sizes(checkpoint, source, {name: full_numel(parameters[name]) for name in names})
    fill = {0: _fill_stage_0, 1: _fill_stage_1_2, 2: _fill_stage_1_2, 3: _fill_stage_3}[stage]
    fill(engine, source)
    engine.global_steps = checkpoint.meta["progress"]["step"]
    engine.global_samples = engine.global_steps * engine.train_batch_size()


def read_source(checkpoint: Checkpoint, names: Sequence[str]) -> Source:
    """Describe where the parameters of a checkpoint lie; nothing but metadata is read yet."""
    folder, stage = checkpoint.path / "engine", checkpoint.meta["zero_stage"]
    if stage == 0:
        return _read_stage_0(folder, names)
    ranks = range(checkpoint.meta["world_size"])
    states = [_optimizer_file(folder, rank) for rank in ranks]
    return _read_stage_3(folder, states) if stage == 3 else _read_stage_1_2(states)


@torch.no_grad()
def load_weights(model: nn.Module, checkpoint: Checkpoint, names: Sequence[str], averaged: bool = False) -> None:
    """Weights and buffers of a checkpoint of any stage and number of ranks, into a model of one process.

    Args:
        names: of the trained parameters, in the optimiser's order.
        averaged: the average of the weights in place of the last ones; the run must have kept it.

    Raises:
        ValueError: the checkpoint is of another model, or has no average.
    """
    folder = checkpoint.path / "engine"
    if checkpoint.meta["zero_stage"] < 3:
        model.load_state_dict(load_states(folder / "mp_rank_00_model_states.pt")["module"])
        if not averaged:
            return
    else:
        rest = load_states(folder / _STAGE_3_STATES)
        for name in rest["buffer_names"]:
            model.get_buffer(name).copy_(rest["module"][name])
    source = read_source(checkpoint, names)
    weights = dict(model.named_parameters())
    _check_sizes(checkpoint, source, {name: parameter.numel() for name, parameter in weights.items()})
    if averaged and AVERAGE not in source.tensors:
        raise ValueError(
            f"{checkpoint.path} has no average of the weights; its run was made without train.average_power"
        )
    for name, parameter in weights.items():
        fragments = source.parameters[name]
        fragments.read(AVERAGE if averaged else WEIGHT, 0, fragments.numel, parameter.view(-1))


def _check_sizes(checkpoint: Checkpoint, source: Source, sizes: Mapping[str, int]) -> None:
    if other := sorted(set(source.parameters) ^ set(sizes)):
        raise ValueError(f"{checkpoint.path} is of another model: the parameter {other[0]} is in one of them only")
    for name, fragments in source.parameters.items():
        if fragments.numel != sizes[name]:
            raise ValueError(
                f"{checkpoint.path} is of another model: the parameter {name} has {fragments.numel:,} numbers there, "
                f"{sizes[name]:,} here"
            )


def _optimizer_file(folder: Path, rank: int) -> dict[str, Any]:
    # With bf16 weights DeepSpeed puts a prefix before the same name.
    (file,) = folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    state: dict[str, Any] = load_states(file)["optimizer_state_dict"]
    return state


def _read_stage_0(folder: Path, names: Sequence[str]) -> Source:
    state = load_states(folder / "mp_rank_00_model_states.pt")
    moments = state["optimizer"]["state"]
    parameters = {}
    for index, name in enumerate(names):
        piece = {key: value.flatten() for key, value in _tensors(moments[index]).items()}
        parameters[name] = Fragments()
        parameters[name].add({WEIGHT: state["module"][name].detach().flatten(), **piece})
    return Source(parameters, moments[0]["step"])


def _read_stage_1_2(states: list[dict[str, Any]]) -> Source:
    parameters: dict[str, Fragments] = {}
    for state in states:
        groups = zip(state["single_partition_of_fp32_groups"], state["param_slice_mappings"], strict=True)
        for group, (weights, slices) in enumerate(groups):
            flat = {WEIGHT: weights, **_tensors(state["base_optimizer_state"]["state"][group])}
            for name, address in slices.items():
                piece = {key: value.narrow(0, address.start, address.numel) for key, value in flat.items()}
                parameters.setdefault(name, Fragments()).add(piece)
    return Source(parameters, states[0]["base_optimizer_state"]["state"][0]["step"])


def _read_stage_3(folder: Path, states: list[dict[str, Any]]) -> Source:
    shapes = load_states(folder / _STAGE_3_STATES)["param_shapes"]
    parameters: dict[str, Fragments] = {}
    for rank, state in enumerate(states):
        for group, named in enumerate(shapes):
            tensors = _tensors(state["optimizer_state_dict"]["state"][group])
            flat = {WEIGHT: state["fp32_flat_groups"][group], **tensors}
            start = 0
            for name, shape in named.items():
                share = math.ceil(shape.numel() / len(states))
                numel = max(0, min(share, shape.numel() - rank * share))
                piece = {key: value.narrow(0, start, numel) for key, value in flat.items()}
                parameters.setdefault(name, Fragments()).add(piece)
                start += share
    return Source(parameters, states[0]["optimizer_state_dict"]["state"][0]["step"])


def _tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: state[key] for key in TENSORS if key in state}


@torch.no_grad()
def _fill_stage_0(engine: Any, source: Source) -> None:
    for name, parameter in engine.module.named_parameters():
        if name not in source.parameters:
            continue
        fragments, state = source.parameters[name], engine.optimizer.state[parameter]
        state["step"] = _step(source, engine.optimizer, parameter)
        for key in source.tensors:
            state[key] = torch.zeros_like(parameter)
        for key, target in ((WEIGHT, parameter), *((key, state[key]) for key in source.tensors)):
            fragments.read(key, 0, fragments.numel, target.view(-1))


@torch.no_grad()
def _fill_stage_1_2(engine: Any, source: Source) -> None:
    optimizer = engine.optimizer
    if not hasattr(optimizer, "single_partition_of_fp32_groups"):
        raise ValueError(
            "stage 1 in bf16 with fp32 gradient accumulation cannot take up a checkpoint of another stage or number of "
            "ranks; remove data_types from deepspeed.config, or set deepspeed.zero_stage=2"
        )
    for flat, group in zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, strict=True):
        state = {key: torch.zeros_like(flat) for key in source.tensors}
        for parameter in group:
            mapping = parameter._hp_mapping
            if mapping is None:  # no part of it on this rank
                continue
            inside, start = mapping.hp_fragment_address, mapping.lp_fragment_address.start
            fragments = source.parameters[optimizer.param_names[parameter]]
            for key, target in ((WEIGHT, flat), *state.items()):
                out = target.narrow(0, inside.start, inside.numel)
                fragments.read(key, start, start + inside.numel, out)
        optimizer.optimizer.state[flat] = {"step": _step(source, optimizer.optimizer, flat), **state}
    optimizer.update_lp_params()


@torch.no_grad()
def _fill_stage_3(engine: Any, source: Source) -> None:
    optimizer = engine.optimizer
    optimizer.checkpoint_event_prologue()
    own = optimizer.state_dict()
    rank, ranks = dist.get_rank(), dist.get_world_size()
    states = own["optimizer_state_dict"]["state"]
    weights = []
    for group, (flat, parameters) in enumerate(zip(own["fp32_flat_groups"], optimizer.fp16_groups, strict=True)):
        new = {key: torch.zeros_like(flat) for key in (WEIGHT, *source.tensors)}
        at = 0
        for parameter in parameters:
            fragments = source.parameters[optimizer.param_names[parameter]]
            share = math.ceil(fragments.numel / ranks)
            start = min(rank * share, fragments.numel)
            stop = min(start + share, fragments.numel)
            for key, target in new.items():
                fragments.read(key, start, stop, target[at : at + stop - start])
            at += share
        weights.append(new.pop(WEIGHT))
        states[group] = {"step": source.step.clone(), **new}
    own["fp32_flat_groups"] = weights
    # DeepSpeed's own way in, which also renews the shards of the weights.
    optimizer._rigid_load_state_dict(own)
    optimizer.checkpoint_event_epilogue()


def _step(source: Source, optimizer: torch.optim.Optimizer, like: torch.Tensor) -> torch.Tensor:
    """The optimiser's step, where it wants it: on the device if it is fused, else on the CPU."""
    return source.step.clone().to(like.device if optimizer.defaults.get("fused") else "cpu")
