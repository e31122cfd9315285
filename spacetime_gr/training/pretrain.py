"""Stage 1 pretraining: from a configuration to a finished run directory."""

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from spacetime_gr.training.checkpoints import Checkpoint, CheckpointStore
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.distributed import (
    World,
    barrier,
    environment_world,
    leave,
    restarts,
    start_processes,
    stop_processes,
)
from spacetime_gr.training.loading import dump_config, load_config
from spacetime_gr.training.outcome import (
    FINISHED,
    RETRY,
    STATUS_FILE,
    RetryableError,
    judge,
    lost_peer,
    write_failure,
    write_status,
)

CONFIG_FILE = "config.yaml"
# A collective ends with an error of its own after this long, should the watchdog not have ended it before.
_COLLECTIVE_MINUTES = 30.0
# What the batches and the weights of a run depend on: a run directory holds one setting of these.
_FIXED = ("data.row_length", "data.num_lanes", "data.blind_share", "train.seed", "train.average_power", "model")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of launch/pretrain.py; returns the exit code.

    0: finished. 75: stopped by a signal, or ended by something that may be gone by the next try; the same command goes
    on. 1: failed. 2: wrong settings, data or run directory. After an error that the other ranks may not share, the
    process ends here.
    """
    parser = argparse.ArgumentParser(prog="pretrain.py", description="Pretrain a Spacetime-GR model.")
    parser.add_argument(
        "--config",
        required=True,
        action="append",
        metavar="FILE",
        help="YAML file, see configs/pretrain/; given again, a file laid over those before, see configs/ablation/",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print settings, sizes, memory and command; train nothing"
    )
    parser.add_argument("--world-size", type=int, default=None, help="ranks to plan for in a dry run")
    parser.add_argument("--local_rank", type=int, default=None, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings laid over the file")
    given = parser.parse_args(arguments)
    if given.world_size is not None and given.world_size < 1:
        parser.error(f"--world-size is {given.world_size}, expected at least 1")
    if given.local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(given.local_rank))
    joined = False
    try:
        here = environment_world()
        config = load_config(given.config, given.overrides)
        if given.dry_run:
            if here.is_main:
                from spacetime_gr.training.planning import dry_run

                world_size = here.size if given.world_size is None else given.world_size
                sys.stdout.write(dry_run(config, given.config, list(given.overrides), world_size) + "\n")
            return 0
        if finished_before(config):
            if here.is_main:
                _say(f"{config.run.dir}: this run is finished; raise its limit in train, or choose another run.dir")
            return 0
        check_run(config, here)
        joined = True
        return FINISHED if run(config) == "finished" else RETRY
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("SPACETIME_GR_DEBUG") == "1":
            raise
        verdict = judge(error)
        # Wrong settings meet all ranks of a node alike and are said once there; a damaged shard may meet any one rank.
        rank = os.environ.get("RANK", "0")
        if not verdict.expected:
            traceback.print_exc()
        elif joined or os.environ.get("LOCAL_RANK", "0") == "0":
            _say(f"error: {verdict.reason}" if rank == "0" else f"error on rank {rank}: {verdict.reason}")
        if dist.is_initialized():
            if dist.get_world_size() > 1:
                leave(verdict.code)
            stop_processes()
        return verdict.code


def check_run(config: PretrainConfig, world: World) -> None:
    """Refuse what no process needs the others to find out.

    Raises:
        ValueError: the rows do not divide, the run directory holds another run or none where one is required, the data
            or its tokenizer is absent, or cleaning leaves no row of the held-out part of a corpus.
    """
    from spacetime_gr.training.callbacks import own_callbacks
    from spacetime_gr.training.data import corpora_with, load_tokenizer, open_stream
    from spacetime_gr.training.engine import deepspeed_settings, resolve_precision
    from spacetime_gr.training.model import model_config

    deepspeed_settings(config, world.size, resolve_precision(config, world.device))
    check_same_run(config)
    check_found(config)
    own_callbacks(config.run.callbacks)
    tokenizer = load_tokenizer(config)
    model_config(config, tokenizer)
    if _evaluates(config) and corpora_with(config, config.eval.split):
        # The first evaluation may come after days of training, with the only checkpoint behind it.
        try:
            next(open_stream(config, tokenizer, split=config.eval.split).rows_once())
        except ValueError as error:
            raise ValueError(
                f"no held-out loss can be computed: {error}; or do without it: eval.at_end=false eval.every=null"
            ) from error


def run(config: PretrainConfig) -> str:
    """Start or resume the run in `config.run.dir`. Collective. After an error the process group is left as it is.

    Returns:
        `finished`, or `stopped` after a signal.
    """
    from spacetime_gr.training import snapshots

    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    world = start_processes(timedelta(minutes=max(_COLLECTIVE_MINUTES, 2 * config.run.timeout_minutes)))
    trainer = None
    try:
        checkpoint = _open_run(config, world)
        trainer = _assemble(config, world)
        if checkpoint is not None:
            snapshots.resume(trainer, checkpoint)
        outcome = trainer.fit()
        if world.is_main:
            stopped = outcome == "stopped"
            write_status(
                Path(config.run.dir),
                outcome,
                retry=stopped,
                reason="a signal, or the end of the launcher" if stopped else None,
                step=trainer.progress.step,
                tokens=trainer.progress.tokens,
                limits=_limits(config),
            )
    except BaseException as error:
        now = {} if trainer is None else {"step": trainer.progress.step, "tokens": trainer.progress.tokens}
        lost = lost_peer(error)
        if lost:
            newest = CheckpointStore(Path(config.run.dir) / "checkpoints").newest_name()
            error = RetryableError(
                f"{judge(error).reason}. Step {now.get('step', 0)} was the last; the newest checkpoint is "
                f"{newest}; start the same command again to go on from it"
            )
        write_failure(Path(config.run.dir), judge(error), secondary=lost, **now)
        raise error
    stop_processes()
    return outcome


def finished_before(config: PretrainConfig) -> bool:
    """Whether the run directory holds a run that was finished under these limits.

    Raises:
        ValueError: its status cannot be read.
    """
    file = Path(config.run.dir) / STATUS_FILE
    if not file.is_file():
        return False
    try:
        status = json.loads(file.read_text(encoding="utf-8"))
        return bool(status["state"] == "finished" and status["limits"] == _limits(config))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is damaged ({error!r}); remove it: the run goes on from its newest checkpoint"
        ) from error


def check_same_run(config: PretrainConfig) -> None:
    """Refuse to resume with settings under which the checkpoint would mean something else.

    Raises:
        ValueError: names the first setting that differs, or the file that cannot be read.
    """
    file = Path(config.run.dir) / CONFIG_FILE
    if not file.is_file() or CheckpointStore(file.parent / "checkpoints").newest() is None:
        return
    before, now = load_config(file).model_dump(), config.model_dump()
    for key in _FIXED:
        old, new = before, now
        for name in key.split("."):
            old, new = old[name], new[name]
        if old != new:
            raise ValueError(
                f"{config.run.dir} was started with {key}={old}, now {key}={new}; restore it or set another run.dir"
            )


def check_found(config: PretrainConfig) -> None:
    """Refuse to start anew where `run.resume=required`.

    Raises:
        ValueError: the run directory holds no checkpoint.
    """
    folder = Path(config.run.dir) / "checkpoints"
    if config.run.resume == "required" and CheckpointStore(folder).newest() is None:
        raise ValueError(
            f"run.resume=required, but there is no checkpoint in {folder}; mount the file system that it lies on, "
            "correct run.dir, or start it for the first time with run.resume=auto"
        )


def _open_run(config: PretrainConfig, world: World) -> Checkpoint | None:
    """Make the run directory; the checkpoint to resume from, on which all ranks agree."""
    from spacetime_gr.training import snapshots

    folder = Path(config.run.dir)
    store = CheckpointStore(folder / "checkpoints")
    if world.is_main:
        if restarts() and not (folder / CONFIG_FILE).is_file():
            _say(
                f"warning: the launcher starts this job again (restart {restarts()}), but {folder} holds no run: it "
                "begins anew. If it should be there, stop this, mount its file system, and set run.resume=required"
            )
        folder.mkdir(parents=True, exist_ok=True)
        store.remove_unfinished()
    barrier(world)
    checkpoint = snapshots.newest_intact(store, world)
    if world.is_main:
        for newer in (step for step in store.steps() if checkpoint is not None and step > checkpoint.step):
            _say(f"it now lies in {store.set_aside(newer)}; remove it when you have looked at it")
        (folder / CONFIG_FILE).write_text(dump_config(config), encoding="utf-8")
        # The export of an earlier end of this run would be taken for the model of the present one.
        shutil.rmtree(folder / "export", ignore_errors=True)
        # A run that is killed leaves this behind.
        step = checkpoint.step if checkpoint else 0
        write_status(folder, "running", retry=True, step=step, tokens=None, limits=_limits(config))
    barrier(world)
    return checkpoint


def _assemble(config: PretrainConfig, world: World) -> Any:
    from spacetime_gr.training import callbacks
    from spacetime_gr.training.data import corpora_with, load_tokenizer, open_stream
    from spacetime_gr.training.engine import build_engine
    from spacetime_gr.training.examples import held_out_examples
    from spacetime_gr.training.model import build_model
    from spacetime_gr.training.trainer import Trainer

    tokenizer = load_tokenizer(config)
    stream = open_stream(config, tokenizer, world.rank, world.size)

    def held_out() -> Any:
        return open_stream(config, tokenizer, world.rank, world.size, config.eval.split).rows_once()

    model = build_model(config, tokenizer, world)
    engine = build_engine(model, config, world)
    goodput = callbacks.Goodput(world.is_main)
    parts: list[callbacks.Callback] = [
        goodput,
        callbacks.StopSignals(),
        callbacks.Watchdog(config.run.timeout_minutes),
    ]
    if corpora_with(config, config.eval.split):
        parts.append(callbacks.Evaluation(held_out))
    elif _evaluates(config) and world.is_main:
        _say(f"the data has no {config.eval.split} part: no held-out loss (eval.split chooses another part)")
    parts += [own() for own in callbacks.own_callbacks(config.run.callbacks)]
    parts += [callbacks.Metrics(), callbacks.JsonLines(world.is_main)]
    if config.log.console:
        parts.append(callbacks.Console(world.is_main, goodput))
    if config.log.wandb:
        parts.append(callbacks.Wandb(world.is_main, held_out_examples(config, tokenizer) if world.is_main else None))
    parts += [callbacks.Checkpointing(), callbacks.Export(tokenizer)]
    if config.log.memory_snapshot_step is not None:
        parts.append(callbacks.MemorySnapshot(config.log.memory_snapshot_step))
    if config.log.profile_steps is not None:
        parts.append(callbacks.Profiler(*config.log.profile_steps))
    return Trainer(config, engine, stream, world, tokenizer.pad_token_id, parts)


def _evaluates(config: PretrainConfig) -> bool:
    """Whether the settings ask for held-out loss at all."""
    return config.eval.at_end or config.eval.every is not None


def _limits(config: PretrainConfig) -> dict[str, float | None]:
    train = config.train
    return {"max_steps": train.max_steps, "max_tokens": train.max_tokens, "max_minutes": train.max_minutes}


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
