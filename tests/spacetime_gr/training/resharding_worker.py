"""Run by every rank of test_world_size.py: checkpoints of every ZeRO stage, taken up under other stages and ranks."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spacetime_gr.training import snapshots
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer, open_stream
from spacetime_gr.training.distributed import World, start_processes, stop_processes
from spacetime_gr.training.engine import build_engine
from spacetime_gr.training.exporting import gathered_state
from spacetime_gr.training.model import build_model
from spacetime_gr.training.trainer import Trainer

# (stage of the checkpoint, stage now) by the number of ranks now; the checkpoints are of two ranks.
CASES = {
    2: [(0, 2), (1, 3), (2, 0), (2, 1), (2, 3), (3, 1), (3, 2)],
    1: [(0, 0), (1, 1), (2, 2), (3, 3), (3, 0), (0, 3)],
}


def new_trainer(city: str, folder: Path, origin: int, stage: int, world: World) -> Trainer:
    config = PretrainConfig.model_validate(
        {
            "run": {"dir": str(folder / f"stage-{origin}")},
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
            "train": {"max_steps": 4, "lr": 0.01, "warmup_steps": 1, "eps": 1e-4, "precision": "fp32"},
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


def main(city: str, out: str) -> None:
    world, folder = start_processes(), Path(out)
    if world.size == 2:
        for stage in range(4):
            trainer = new_trainer(city, folder, stage, stage, world)
            train(trainer, 2)
            snapshots.Save(trainer, permanent=True).finish(trainer)
            train(trainer, 2)
            state = gathered_state(trainer.engine.module)
            if world.is_main:
                save_file(
                    {name: value.contiguous().clone() for name, value in state.items()},
                    folder / f"stage-{stage}" / "after.safetensors",
                )
            trainer.engine.destroy()
    results = []
    for origin, stage in CASES[world.size]:
        trainer = new_trainer(city, folder, origin, stage, world)
        checkpoint = snapshots.newest_intact(trainer.store, world)
        assert checkpoint is not None
        snapshots.resume(trainer, checkpoint)
        resumed = trainer.progress.step
        train(trainer, 2)
        state = gathered_state(trainer.engine.module)
        if world.is_main:
            expected = load_file(folder / f"stage-{origin}" / "after.safetensors")
            worst = max(float((state[name].float() - value.float()).abs().max()) for name, value in expected.items())
            names = sorted(state) == sorted(expected)
            results.append({"from": origin, "to": stage, "step": resumed, "names": names, "worst": worst})
        trainer.engine.destroy()
    if world.is_main:
        (folder / f"results-{world.size}.json").write_text(json.dumps(results), encoding="utf-8")
    stop_processes()


if __name__ == "__main__":
    torch.manual_seed(0)
    main(*sys.argv[1:])
