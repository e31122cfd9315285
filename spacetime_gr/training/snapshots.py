"""What a checkpoint of a run holds: the engine's state, every lane's cursor, the callbacks' state, random states."""

import json
import shutil
import sys
from concurrent.futures import Executor, Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from spacetime_gr.training.checkpoints import Checkpoint, CheckpointStore, Seal, seal_files
from spacetime_gr.training.distributed import World, all_sum, barrier, gather_json
from spacetime_gr.training.engine import resolve_stage, trained_names
from spacetime_gr.training.outcome import RetryableError
from spacetime_gr.training.progress import Progress
from spacetime_gr.training.resharding import reshard
from spacetime_gr.training.safe_loading import map_state
from spacetime_gr.training.window import Window

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class CheckpointError(RetryableError):
    """A checkpoint could not be written. Raised on every rank alike; the older ones are still there."""


@dataclass(frozen=True)
class Snapshot:
    """This rank's part of a checkpoint, in memory.

    Args:
        step, permanent, meta: of the checkpoint.
        states: what DeepSpeed saves, by file name.
        own: what the loop saves, as JSON.
        random: states of the random number generators.
    """

    step: int
    permanent: bool
    meta: dict[str, Any]
    states: dict[str, Any]
    own: str
    random: dict[str, torch.Tensor]

    def copied(self) -> "Snapshot":
        """With tensors in host memory that training on does not change."""
        copies: dict[tuple[Any, ...], torch.Tensor] = {}

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            # Tied weights stay one tensor, so that they are written once.
            key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if key not in copies or tensor.numel() == 0:
                copies[key] = tensor.detach().to("cpu", copy=True)
            return copies[key]

        return replace(self, states=map_state(torch.Tensor, copy, self.states))


class Save:
    """A checkpoint on its way to the disk.

    All ranks collect their parts, write them without waiting for each other, and agree at the end: the folder gets its
    name only if every rank has succeeded. So a full disk on one node is an error on all, and none is left in a barrier.
    """

    def __init__(self, trainer: "Trainer", permanent: bool, writer: Executor | None = None) -> None:
        """Begin. Collective.

        Args:
            trainer: between two steps.
            permanent: False: removed once two newer checkpoints are complete.
            writer: writes a copy in the background; None: write before returning.
        """
        self.snapshot = collect(trainer, permanent)
        self._written: Future[dict[str, Seal]]
        if writer is None:
            self._written = Future()
            try:
                self._written.set_result(write(self.snapshot, trainer.store, trainer.world.rank))
            except Exception as error:  # whatever it is, the other ranks must hear of it
                self._written.set_exception(error)
        else:
            self.snapshot = self.snapshot.copied()
            self._written = writer.submit(write, self.snapshot, trainer.store, trainer.world.rank)

    def done(self, world: World) -> bool:
        """Whether all ranks have written. Collective."""
        return all_sum([float(self._written.done())], world)[0] == world.size

    def finish(self, trainer: "Trainer") -> None:
        """Wait for all ranks and make the checkpoint visible. Collective.

        Raises:
            CheckpointError: a rank could not write its part; what was written is removed.
        """
        world, store, snapshot = trainer.world, trainer.store, self.snapshot
        error = self._written.exception()
        problem = None if error is None else f"rank {world.rank}: {_reason(error, store.folder)}"
        parts = gather_json([problem, {} if error else self._written.result()], world)
        problem = next((item for item, _ in parts if item is not None), None)
        if world.is_main and problem is None:
            seals = {name: tuple(item) for _, part in parts for name, item in part.items()}
            try:
                store.finish(snapshot.step, snapshot.permanent, snapshot.meta, seals)
            except OSError as failed:
                problem = f"rank {world.rank}: {_reason(failed, store.folder)}"
        problem = gather_json(problem, world)[0]
        if problem is not None:
            if world.is_main:
                store.abandon(snapshot.step)
            barrier(world)
            raise CheckpointError(f"the checkpoint of step {snapshot.step} could not be written ({problem})")


def collect(trainer: "Trainer", permanent: bool) -> Snapshot:
    """This rank's part of a checkpoint of this moment; its tensors are those that train on. Collective."""
    world, step = trainer.world, trainer.progress.step
    folder = trainer.store.folder
    trainer.engine.save_checkpoint(str(folder), tag="engine", save_latest=False)
    states = trainer.engine.checkpoint_engine.take()
    meta = {"progress": asdict(trainer.progress), **_layout(trainer)}
    own = {
        "stream": trainer.stream.state_dict(),
        "callbacks": {callback.name: callback.state_dict() for callback in trainer.callbacks},
        # The window travels as one sum, so that it does not matter which rank, or how many, take it up again.
        "window": all_sum(trainer.window.values(), world),
    }
    by_name = {str(Path(path).relative_to(folder)): state for path, state in states.items()}
    return Snapshot(step, permanent, meta, by_name, json.dumps(own), _random_state(world))


def write(snapshot: Snapshot, store: CheckpointStore, rank: int) -> dict[str, Seal]:
    """Write this rank's files through to the disk. Waits for no other rank.

    Raises:
        OSError, RuntimeError: as the disk, torch or safetensors say.
    """
    folder = store.start(snapshot.step)
    files = [folder / name for name in snapshot.states]
    for path, state in zip(files, snapshot.states.values(), strict=True):
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)
    own, random = folder / f"rank-{rank:05d}.json", folder / f"random-{rank:05d}.safetensors"
    own.write_text(snapshot.own, encoding="utf-8")
    save_file(snapshot.random, random)
    return seal_files(folder, [*files, own, random])


def newest_intact(store: CheckpointStore, world: World) -> Checkpoint | None:
    """The newest checkpoint whose files are what was written; says on stderr which are passed over. Collective.

    Every rank reads its share of the files.

    Raises:
        ValueError: there are checkpoints, but none is intact.
    """
    damaged = []
    for step in reversed(gather_json(store.steps(), world)[0]):
        problems = gather_json(store.damage(step, world.rank, world.size), world)
        problem = next((item for item in problems if item is not None), None)
        if problem is None:
            return store.open(step)
        damaged.append(f"step {step}: {problem}")
        if world.is_main:
            sys.stderr.write(f"warning: the checkpoint of step {step} is damaged and passed over: {problem}\n")
    if damaged:
        raise ValueError(
            f"no checkpoint in {store.folder} is intact ({'; '.join(damaged)}). Restore a copy of one; or, to begin "
            "again from step 0, remove the folder or choose another run.dir"
        )
    return None


def resume(trainer: "Trainer", checkpoint: Checkpoint) -> None:
    """Take up where `checkpoint` was written, under any ZeRO stage and number of ranks. Collective; call before `fit`.

    Args:
        trainer: of the same run, nothing trained yet.
        checkpoint: from the run's store.

    Raises:
        ValueError: the checkpoint does not fit this engine.
    """
    world, meta, layout = trainer.world, checkpoint.meta, _layout(trainer)
    # Without ZeRO every rank holds everything.
    same = all(meta[key] == value for key, value in layout.items() if key != "world_size" or layout["zero_stage"] > 0)
    if same:
        loaded, _ = trainer.engine.load_checkpoint(str(checkpoint.path), tag="engine")
        if loaded is None:
            raise ValueError(
                f"{checkpoint.path}: DeepSpeed finds nothing to load; remove the folder to use an older one"
            )
    else:
        reshard(trainer.engine, checkpoint, layout["zero_stage"], trained_names(trainer.engine.module, trainer.config))
    trainer.progress = Progress(**meta["progress"])
    trainer.own_seconds = trainer.progress.seconds
    ranks = [
        json.loads((checkpoint.path / f"rank-{rank:05d}.json").read_text(encoding="utf-8"))
        for rank in range(meta["world_size"])
    ]
    trainer.stream.load_state_dict([state["stream"] for state in ranks])
    if world.is_main:
        trainer.window = Window.from_values(ranks[0]["window"], world.device)
    for callback in trainer.callbacks:
        state = ranks[0]["callbacks"].get(callback.name)
        if state is not None:
            callback.load_state_dict(state)
    if meta["world_size"] == world.size:
        _restore_random_state(checkpoint.path / f"random-{world.rank:05d}.safetensors", world)


def _layout(trainer: "Trainer") -> dict[str, Any]:
    """What the layout of the engine's files follows from."""
    return {
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


def _reason(error: BaseException, folder: Path) -> str:
    """What went wrong, with the free space: torch does not say that a disk is full."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    try:
        return f"{text}; {shutil.disk_usage(folder).free:,} bytes free in {folder}"
    except OSError:
        return text
