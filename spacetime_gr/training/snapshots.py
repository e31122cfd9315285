"""What a checkpoint of a run holds: the engine's state, every lane's cursor, the callbacks' state, random states."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from spacetime_gr.training.checkpoints import Checkpoint
from spacetime_gr.training.distributed import World, all_sum, barrier
from spacetime_gr.training.engine import resolve_stage
from spacetime_gr.training.progress import Progress
from spacetime_gr.training.window import Window

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


def save(trainer: "Trainer", permanent: bool) -> None:
    """Write a checkpoint of this moment into the run's store. Collective."""
    world, store, step = trainer.world, trainer.store, trainer.progress.step
    if world.is_main:
        store.start(step)
    barrier(world)
    folder = store.unfinished_path(step)
    trainer.engine.save_checkpoint(str(folder), tag="engine", save_latest=False)
    # The window travels as one sum, so that it does not matter which rank, or how many, take it up again.
    total = all_sum(trainer.window.values(), world)
    own = {
        "stream": trainer.stream.state_dict(),
        "callbacks": {callback.name: callback.state_dict() for callback in trainer.callbacks},
        "window": total,
    }
    (folder / f"rank-{world.rank:05d}.json").write_text(json.dumps(own), encoding="utf-8")
    save_file(_random_state(world), folder / f"random-{world.rank:05d}.safetensors")
    barrier(world)
    if world.is_main:
        store.finish(step, permanent, meta=_meta(trainer))
    barrier(world)


def resume(trainer: "Trainer", checkpoint: Checkpoint, tag: str = "engine") -> None:
    """Take up where `checkpoint` was written. Collective; call before `fit`.

    Args:
        trainer: of the same run, nothing trained yet.
        checkpoint: from the run's store.
        tag: `engine`, or `universal` for a checkpoint converted to another number of ranks.

    Raises:
        ValueError: DeepSpeed finds nothing to load.
    """
    world = trainer.world
    loaded, _ = trainer.engine.load_checkpoint(str(checkpoint.path), tag=tag)
    if loaded is None:
        raise ValueError(f"{checkpoint.path}: DeepSpeed could not load {tag!r}; remove the folder to use an older one")
    trainer.progress = Progress(**checkpoint.meta["progress"])
    trainer.own_seconds = trainer.progress.seconds
    ranks = [
        json.loads((checkpoint.path / f"rank-{rank:05d}.json").read_text(encoding="utf-8"))
        for rank in range(checkpoint.meta["world_size"])
    ]
    trainer.stream.load_state_dict([state["stream"] for state in ranks])
    if world.is_main:
        trainer.window = Window.from_values(ranks[0]["window"], world.device)
    for callback in trainer.callbacks:
        state = ranks[0]["callbacks"].get(callback.name)
        if state is not None:
            callback.load_state_dict(state)
    if checkpoint.meta["world_size"] == world.size:
        _restore_random_state(checkpoint.path / f"random-{world.rank:05d}.safetensors", world)


def _meta(trainer: "Trainer") -> dict[str, Any]:
    return {
        "progress": asdict(trainer.progress),
        "world_size": trainer.world.size,
        "zero_stage": resolve_stage(trainer.config),
        "precision": "bf16" if trainer.engine.bfloat16_enabled() else "fp32",
    }


def _random_state(world: World) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if world.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(world.device)
    return state


def _restore_random_state(path: Path, world: World) -> None:
    state = load_file(path)
    torch.set_rng_state(state["cpu"])
    if world.device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], world.device)
