"""Run by every rank of test_world_size.py: checkpoints of every ZeRO stage, taken up under other stages and ranks."""

import itertools
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spacetime_gr import SpacetimeGRForCausalLM
from spacetime_gr.training import snapshots
from spacetime_gr.training.averaging import averaged
from spacetime_gr.training.checkpoints import Checkpoint, CheckpointStore
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer, open_stream
from spacetime_gr.training.distributed import World, start_processes, stop_processes
from spacetime_gr.training.engine import build_engine, trained_names
from spacetime_gr.training.exporting import gathered_state
from spacetime_gr.training.model import build_model
from spacetime_gr.training.resharding import TENSORS, WEIGHT, load_weights, read_source
from spacetime_gr.training.trainer import Trainer

# (precision, stage of the checkpoint, stage now) by the number of ranks now; the checkpoints are of two ranks.
ORIGINS = [("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 2), ("bf16", 3)]
CASES = {
    2: [
        ("fp32", 0, 2),
        ("fp32", 1, 3),
        ("fp32", 2, 0),
        ("fp32", 2, 1),
        ("fp32", 2, 3),
        ("fp32", 3, 1),
        ("fp32", 3, 2),
        ("bf16", 2, 3),
    ],
    1: [
        ("fp32", 0, 0),
        ("fp32", 1, 1),
        ("fp32", 2, 2),
        ("fp32", 3, 3),
        ("fp32", 3, 0),
        ("fp32", 0, 3),
        ("bf16", 3, 1),
    ],
}


def new_trainer(city: str, run: Path, stage: int, precision: str, world: World) -> Trainer:
    config = PretrainConfig.model_validate(
        {
            "run": {"dir": str(run)},
            "data": {"path": city, "row_length": 64, "num_lanes": 4},
            "model": {
                "hidden_size": 15,  # odd sizes: shards need padding
                "head_dim": 4,
                "num_hidden_layers": 1,
                "num_attention_heads": 3,
                "num_key_value_heads": 3,
                "intermediate_size": 33,
                "num_user_buckets": 7,
                "spatial_features": 8,
                "pointer_size": 8,
            },
            "train": {
                "max_steps": 4,
                "lr": 0.01,
                "warmup_steps": 1,
                "eps": 1e-4,
                "precision": precision,
                "average_power": 1 if (precision, stage) != ("bf16", 0) else None,
            },
            "deepspeed": {"zero_stage": stage},
        }
    )
    tokenizer = load_tokenizer(config)
    engine = build_engine(build_model(config, tokenizer, world), config, world)
    stream = open_stream(config, tokenizer, world.rank, world.size)
    return Trainer(config, engine, stream, world, tokenizer.pad_token_id)


def train(trainer: Trainer, steps: int) -> None:
    batches = iter(trainer.stream)
    for _ in range(steps):
        trainer.train_step(batches)


def difference(old: Checkpoint, new: Checkpoint, names: list[str]) -> float:
    """The largest between the fp32 weights and the optimiser's tensors of two checkpoints."""
    worst = 0.0
    before, after = read_source(old, names), read_source(new, names)
    for name, key in itertools.product(names, (WEIGHT, *TENSORS)):
        whole = []
        for fragments in (before.parameters[name], after.parameters[name]):
            whole.append(torch.full((fragments.numel,), torch.nan))
            fragments.read(key, 0, fragments.numel, whole[-1])
        worst = max(worst, float((whole[0] - whole[1]).abs().max()))
    return worst if before.step == after.step else float("inf")


def save(trainer: Trainer) -> Checkpoint:
    snapshots.Save(trainer, permanent=True).finish(trainer)
    return trainer.store.open(trainer.progress.step)


def largest(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of weights, in the precision of the first."""
    return max(float((value - others[name].to(value.dtype)).float().abs().max()) for name, value in some.items())


def states_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The last weights, and the averaged ones under `average.…`; whole, on rank 0. Collective."""
    last = gathered_state(trainer.engine.module)
    with averaged(trainer.engine):
        average = gathered_state(trainer.engine.module)
    again = gathered_state(trainer.engine.module)  # what was exchanged came back
    assert all(torch.equal(value, again[name]) for name, value in last.items())
    both = last | {f"average.{name}": value for name, value in average.items()}
    return {name: value.contiguous().clone() for name, value in both.items()}


def exported(trainer: Trainer, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The same of a checkpoint, as `spacetime-gr export` reads it, in one process."""
    names = trained_names(trainer.engine.module, trainer.config)
    states: dict[str, torch.Tensor] = {}
    for prefix, average in (("", False), ("average.", True)):
        model = SpacetimeGRForCausalLM(trainer.engine.module.config)
        load_weights(model, checkpoint, names, averaged=average)
        states |= {prefix + name: value for name, value in model.state_dict().items()}
    return states


def main(city: str, out: str) -> None:
    world, folder = start_processes(), Path(out)
    results, exports = [], []
    if world.size == 2:
        for precision, stage in ORIGINS:
            run = folder / f"{precision}-{stage}"
            trainer = new_trainer(city, run, stage, precision, world)
            train(trainer, 2)
            saved, state = save(trainer), states_of(trainer)
            if world.is_main:
                worst = largest(state, exported(trainer, saved))
                exports.append({"precision": precision, "stage": stage, "worst": worst})
            train(trainer, 2)
            state = states_of(trainer)
            if world.is_main:
                save_file(state, run / "after.safetensors")
            trainer.engine.destroy()
    for precision, origin, stage in CASES[world.size]:
        run = folder / f"{precision}-{origin}"
        trainer = new_trainer(city, run, stage, precision, world)
        checkpoint = snapshots.newest_intact(trainer.store, world)
        assert checkpoint is not None
        snapshots.resume(trainer, checkpoint)
        resumed = trainer.progress.step
        trainer.store = CheckpointStore(run / f"again-{world.size}-{stage}")
        copied = difference(checkpoint, save(trainer), trained_names(trainer.engine.module, trainer.config))
        train(trainer, 2)
        state = states_of(trainer)
        if world.is_main:
            expected = load_file(run / "after.safetensors")
            worst = largest(state, expected)
            case = {"precision": precision, "from": origin, "to": stage}
            same_names = sorted(state) == sorted(expected)
            results.append({**case, "step": resumed, "names": same_names, "copied": copied, "worst": worst})
        trainer.engine.destroy()
    if world.is_main:
        (folder / f"results-{world.size}.json").write_text(
            json.dumps({"cases": results, "exports": exports}), encoding="utf-8"
        )
    stop_processes()


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*sys.argv[1:])
