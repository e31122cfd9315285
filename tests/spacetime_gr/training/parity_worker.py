"""Run by every rank for test_parity.py and test_determinism.py: what a few steps do under many settings."""

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipelines import TokenStream
from spacetime_gr.training.averaging import AVERAGE, averaged
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer, open_stream
from spacetime_gr.training.distributed import World, all_sum, gather_json, start_processes, stop_processes
from spacetime_gr.training.engine import build_engine, parameter_groups
from spacetime_gr.training.exporting import gathered_state
from spacetime_gr.training.model import build_model
from spacetime_gr.training.schedule import learning_rate
from spacetime_gr.training.trainer import Trainer
from spacetime_gr.training.window import Window

MODEL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_user_buckets": 16,
    "spatial_features": 8,
    "pointer_size": 8,
}
NUM_STEPS, NUM_LANES, ROW_LENGTH = 3, 8, 32
ALONE = World(0, 1, 0, 1, torch.device("cpu"))


@dataclass(frozen=True)
class Case:
    """Settings that must not change the weights (but `tied`, for which there are two references)."""

    stage: int
    accumulation: int
    chunk: int
    tied: bool
    checkpointing: bool


def cases_of(world_size: int) -> list[Case]:
    """On 1 and 2 ranks the 8 rows of an orthogonal array (4 x 2^4, strength 2), in which each pair of settings occurs.
    On 4 ranks 4 rows with each single setting: with the number of ranks as one more setting, all pairs occur.
    """
    rows = product((0, 1), (0, 1), (0, 1)) if world_size < 4 else [(a, b, a & b) for a, b in product((0, 1), (0, 1))]
    return [Case(2 * a + b, 1 + c, (16, 2048)[a ^ c], bool(b ^ c), bool(a ^ b ^ c)) for a, b, c in rows]


def settings(city: str, case: Case, **sections: dict[str, Any]) -> PretrainConfig:
    train = {
        "max_steps": NUM_STEPS,
        "lr": 0.01,
        "warmup_steps": 1,
        # A large eps keeps rounding noise in near-zero gradients from becoming whole AdamW steps.
        "eps": 1e-4,
        "clip": 0.5,
        "gradient_accumulation": case.accumulation,
        "gradient_checkpointing": case.checkpointing,
    }
    return PretrainConfig.model_validate(
        {
            "run": {"dir": str(Path(city).parent / "unused"), **sections.get("run", {})},
            "data": {"path": city, "row_length": ROW_LENGTH, "num_lanes": NUM_LANES},
            "model": {**MODEL, "loss_chunk_size": case.chunk, "tie_word_embeddings": case.tied},
            "train": {**train, **sections.get("train", {})},
            "deepspeed": {"zero_stage": case.stage},
            "guard": sections.get("guard", {}),
        }
    )


def batches_of(stream: TokenStream, rank: int, world_size: int) -> Iterator[dict[str, np.ndarray]]:
    """The stream, but for the labels of two steps: in the second the upper half of the lanes has none, so half of the
    ranks; in the third all are in the first lane but one token, which is in the last.
    """
    own = np.arange(NUM_LANES).reshape(world_size, -1)[rank]
    for step, batch in enumerate(stream):
        labels = batch["labels"]
        if step == 1:
            labels[own >= NUM_LANES // 2] = -100
        if step == 2:
            labels[(own > 0) & (own < NUM_LANES - 1)] = -100
            surplus = np.cumsum(labels != -100, axis=1) > 1
            labels[surplus & (own > 0)[:, None]] = -100
        yield batch


def build(config: PretrainConfig, world: World) -> Trainer:
    tokenizer = load_tokenizer(config)
    engine = build_engine(build_model(config, tokenizer, world), config, world)
    return Trainer(
        config, engine, open_stream(config, tokenizer, world.rank, world.size), world, tokenizer.pad_token_id
    )


def reference(config: PretrainConfig) -> dict[str, Any]:
    """The same steps by hand, in one process, on the whole batch, with torch's plain AdamW."""
    tokenizer = load_tokenizer(config)
    model = build_model(config, tokenizer, ALONE).train()
    groups = parameter_groups(model, config)
    optimizer = torch.optim.AdamW(groups, betas=config.train.betas, eps=config.train.eps, fused=False)
    batches, norms, losses = batches_of(open_stream(config, tokenizer), 0, 1), [], []
    for step in range(NUM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.train, step, step / NUM_STEPS)
        loss = model(**{key: torch.from_numpy(value) for key, value in next(batches).items()}).loss
        loss.backward()
        losses.append(float(loss))
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)))
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return {"weights": weights, "norms": norms, "losses": losses}


def train(config: PretrainConfig, world: World) -> dict[str, Any]:
    """What the trainer makes of the same steps; the same on every rank."""
    trainer = build(config, world)
    norms, losses, hashes, counts = [], [], [], []

    def read() -> Iterator[dict[str, np.ndarray]]:
        for batch in batches_of(trainer.stream, world.rank, world.size):
            lanes = [
                {name: values[lane].tolist() for name, values in batch.items()} for lane in range(len(batch["labels"]))
            ]
            rows = [hashlib.sha256(json.dumps(lane, sort_keys=True).encode()).hexdigest() for lane in lanes]
            hashes.append([row for rank in gather_json(rows, world) for row in rank])
            counts.append(gather_json(int((batch["labels"] != -100).sum()), world))
            yield batch

    batches = read()
    for _ in range(NUM_STEPS):
        trainer.train_step(batches)
        norms.append(trainer.grad_norm)
        values = all_sum(trainer.window.values(), world)
        losses.append(sum(values[:3]) / sum(values[3:6]))
        trainer.window = Window.empty(world.device)
    weights = gathered_state(trainer.engine.module)
    # A limit in minutes ends all ranks at one step only if they agree on the time.
    times = gather_json(trainer.progress.seconds, world)
    trainer.engine.destroy()
    return {
        "weights": {name: value.clone() for name, value in weights.items()},
        "norms": norms,
        "losses": losses,
        "hashes": hashes,
        "counts": counts,
        "times": times,
    }


def parity(city: str, world: World) -> list[dict[str, Any]]:
    expected: dict[bool, dict[str, Any]] = {}
    results = []
    for case in cases_of(world.size):
        if world.is_main and case.tied not in expected:
            expected[case.tied] = reference(settings(city, Case(0, 1, 2048, case.tied, False)))
        got = train(settings(city, case), world)
        if world.is_main:
            want, weights = expected[case.tied], got.pop("weights")
            results.append(
                {
                    **got,
                    "case": asdict(case),
                    "names": sorted(weights) == sorted(want["weights"]),
                    "worst": max(
                        float((weights[name].float() - value.float()).abs().max())
                        for name, value in want["weights"].items()
                    ),
                    "expected": {"norms": want["norms"], "losses": want["losses"]},
                }
            )
    return results


def repeats(city: str, world: World) -> list[dict[str, Any]]:
    """Two runs of one setting, compared to the last bit."""
    results = []
    for case in (Case(2, 2, 16, True, True), Case(3, 1, 16, False, False)):
        first, second = (train(settings(city, case), world) for _ in range(2))
        same = {name: torch.equal(value, second["weights"][name]) for name, value in first.pop("weights").items()}
        del second["weights"]
        times = first.pop("times"), second.pop("times")
        results.append({"weights": all(same.values()), "metrics": first == second, "times": times})
    return results


def guarded(config: PretrainConfig, world: World, factors: dict[int, float], num_steps: int) -> dict[str, Any]:
    """Steps on one batch whose loss on the last rank is multiplied by `factors` in the given steps."""
    trainer = build(config, world)
    trainer.run_dir.mkdir(parents=True, exist_ok=True)

    def spoil(module: Any, arguments: Any, out: Any) -> Any:
        factor = factors.get(trainer.progress.step, 1.0) if world.rank == world.size - 1 else 1.0
        out.loss, out.loss_sums = out.loss * factor, out.loss_sums * factor
        return out

    def read() -> Iterator[dict[str, np.ndarray]]:
        first = next(trainer.stream)
        while True:
            yield first
            next(trainer.stream)

    trainer.engine.module.register_forward_hook(spoil)
    start = {name: value.clone() for name, value in gathered_state(trainer.engine.module).items()}
    batches, (skips,) = read(), trainer.callbacks
    skips.on_start(trainer)
    for _ in range(num_steps):
        trainer.train_step(batches)
        skips.on_step(trainer)
    skips.close("stopped")
    end = gathered_state(trainer.engine.module)
    with averaged(trainer.engine):
        average = {f"average.{name}": value for name, value in gathered_state(trainer.engine.module).items()}
    states = trainer.engine.basic_optimizer.state.values()
    result = {
        "weights": {name: value.clone() for name, value in (end | average).items()},
        "moved": any(not torch.equal(value, end[name]) for name, value in start.items()),
        # Averages are compared whole, above: the padding of stage 3's shards of the weights is not initialised.
        "moments": [value.clone() for state in states for key, value in state.items() if key != AVERAGE],
        "skipped": gather_json(trainer.skipped_steps, world),
    }
    trainer.engine.destroy()
    return result


def guard(city: str, out: Path, world: World) -> list[dict[str, Any]]:
    """Good steps with bad ones in between, the very first among them, against the good ones alone."""
    results = []
    for stage, precision in [*((stage, "fp32") for stage in range(4)), (2, "bf16")]:
        config = settings(
            city,
            Case(stage, 2, 16, True, False),
            run={"dir": str(out.parent / f"guard-{stage}-{precision}")},
            train={"schedule": "constant", "warmup_steps": 0, "precision": precision, "average_power": 1},
            # Few and almost equal values have a small deviation: what is not multiplied by 1e4 must pass.
            guard={"window": 4, "sigma_factor": 100, "max_share": 1},
        )
        bad = guarded(config, world, {0: float("nan"), 3: float("nan"), 5: 1e4}, 7)
        lines = (Path(config.run.dir) / "bad_steps.jsonl").read_text().splitlines() if world.is_main else []
        good = guarded(config, world, {}, 4)
        equal_moments = all(torch.equal(a, b) for a, b in zip(bad["moments"], good["moments"], strict=True))
        results.append(
            {
                "stage": stage,
                "precision": precision,
                "weights": all(torch.equal(value, bad["weights"][name]) for name, value in good["weights"].items()),
                "moments": gather_json(equal_moments, world),
                "moved": good["moved"],
                "skipped": [bad["skipped"], good["skipped"]],
                "lines": [json.loads(line) for line in lines],
            }
        )
    return results


def main(city: str, out: str) -> None:
    world = start_processes()
    found = {"parity": parity(city, world)}
    if world.size == 2:
        found |= {"repeats": repeats(city, world), "guard": guard(city, Path(out), world)}
    if world.is_main:
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    stop_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
