"""Run by every rank of test_parity.py: a few steps under each ZeRO stage against a plain PyTorch loop."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from data_pipelines import TokenStream
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer
from spacetime_gr.training.distributed import World, gather_json, start_processes, stop_processes
from spacetime_gr.training.engine import build_engine, parameter_groups
from spacetime_gr.training.exporting import gathered_state
from spacetime_gr.training.model import build_model
from spacetime_gr.training.schedule import learning_rate
from spacetime_gr.training.trainer import Trainer

MODEL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_user_buckets": 16,
    "spatial_features": 8,
    "pointer_size": 8,
    "loss_chunk_size": 16,
}
NUM_STEPS, NUM_LANES = 3, 4
BARREN_STEP = 1  # in this step the second half of the lanes, so rank 1 of 2, has no supervised token


def settings(city: str, stage: int, accumulation: int, checkpointing: bool = False) -> PretrainConfig:
    return PretrainConfig.model_validate(
        {
            "run": {"dir": str(Path(city).parent / "unused")},
            "data": {"path": city, "row_length": 64, "num_lanes": NUM_LANES},
            "model": MODEL,
            # A large eps keeps rounding noise in near-zero gradients from becoming whole AdamW steps.
            "train": {
                "max_steps": NUM_STEPS,
                "lr": 0.01,
                "warmup_steps": 1,
                "eps": 1e-4,
                "clip": 0.5,
                "gradient_accumulation": accumulation,
                "gradient_checkpointing": checkpointing,
            },
            "deepspeed": {"zero_stage": stage},
        }
    )


def stream_of(config: PretrainConfig, tokenizer, rank: int, world_size: int) -> TokenStream:
    return TokenStream(config.data.path, tokenizer, NUM_LANES, 64, seed=0, rank=rank, world_size=world_size)


def batches_of(stream: TokenStream, rank: int, world_size: int) -> Iterator[dict[str, np.ndarray]]:
    own = np.arange(NUM_LANES).reshape(world_size, -1)[rank]
    for step, batch in enumerate(stream):
        if step == BARREN_STEP:
            batch["labels"][own >= NUM_LANES // 2] = -100
        yield batch


def reference(config: PretrainConfig) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same steps by hand, in one process, on the whole batch."""
    tokenizer = load_tokenizer(config)
    model = build_model(config, tokenizer, World(0, 1, 0, 1, torch.device("cpu"))).train()
    optimizer = torch.optim.AdamW(parameter_groups(model, config), betas=config.train.betas, eps=config.train.eps)
    batches, norms = batches_of(stream_of(config, tokenizer, 0, 1), 0, 1), []
    for step in range(NUM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.train, step, step / NUM_STEPS)
        model(**{key: torch.from_numpy(value) for key, value in next(batches).items()}).loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)))
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}, norms


def main(city: str, out: str) -> None:
    world = start_processes()
    expected, expected_norms = reference(settings(city, 0, 1))
    results = []
    cases = [(stage, accumulation, False) for stage in range(4) for accumulation in (1, 2)]
    for stage, accumulation, checkpointing in [*cases, (2, 2, True), (3, 2, True)]:
        config = settings(city, stage, accumulation, checkpointing)
        tokenizer = load_tokenizer(config)
        engine = build_engine(build_model(config, tokenizer, world), config, world)
        stream = stream_of(config, tokenizer, world.rank, world.size)
        trainer = Trainer(config, engine, stream, world, tokenizer.pad_token_id)
        norms = []
        batches = batches_of(stream, world.rank, world.size)
        for _ in range(NUM_STEPS):
            trainer.train_step(batches)
            norms.append(trainer.grad_norm)
        got = gathered_state(engine.module)
        # A limit in minutes ends all ranks at one step only if they agree on the time.
        times = gather_json(trainer.progress.seconds, world)
        if world.is_main:
            worst = max(float((got[name].float() - value.float()).abs().max()) for name, value in expected.items())
            norm_error = max(abs(a / b - 1) for a, b in zip(norms, expected_norms, strict=True))
            case = {"stage": stage, "accumulation": accumulation, "checkpointing": checkpointing}
            results.append(
                {
                    **case,
                    "worst": worst,
                    "norm_error": norm_error,
                    "names": sorted(got) == sorted(expected),
                    "times": times,
                }
            )
        engine.destroy()
    if world.is_main:
        Path(out).write_text(json.dumps({"results": results, "norms": expected_norms}), encoding="utf-8")
    stop_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
