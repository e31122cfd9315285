"""The plan's memory model against trainings that run: what torch's CPU allocator held at most, and what was predicted.

    python benchmarks/plan_memory.py [--case NAME ...] [--json FILE]

Each case trains a few steps in 1 or 2 gloo processes with the real engine and training step. Torch's profiler records
every allocation from before the model is built, so the peak is of live tensors, as `torch.cuda.max_memory_allocated`
gives it on a GPU: no pages of libraries, no allocator's caches. The first step, in which AdamW's states appear, is left
out.
"""

import argparse
import bisect
import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 6
SMALL = {
    "num_blocks": 60_000, "num_inner": 256, "num_pois": 100_000, "num_categories": 50, "num_actions": 2,
    "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "num_user_buckets": 4096,
}  # fmt: skip
LARGE = SMALL | {"num_blocks": 100_000, "hidden_size": 384, "num_hidden_layers": 8, "num_key_value_heads": 2}
BUSY = SMALL | {"num_blocks": 10_000}
CASES: dict[str, dict[str, Any]] = {
    "zero0-1rank": {"model": SMALL, "stage": 0, "ranks": 1},
    "zero1-1rank": {"model": SMALL, "stage": 1, "ranks": 1},
    "zero2-1rank": {"model": LARGE, "stage": 2, "ranks": 1},
    "zero0-2ranks": {"model": SMALL, "stage": 0, "ranks": 2},
    "zero1-2ranks": {"model": SMALL, "stage": 1, "ranks": 2},
    "zero2-2ranks": {"model": SMALL, "stage": 2, "ranks": 2},
    "zero2-2ranks-accumulate": {"model": SMALL, "stage": 2, "ranks": 2, "accumulation": 2},
    "zero3-1rank": {"model": SMALL, "stage": 3, "ranks": 1},
    "zero3-2ranks": {"model": SMALL, "stage": 3, "ranks": 2},
    "averaged": {"model": SMALL, "stage": 2, "ranks": 1, "average_power": 3},
    "untied": {"model": SMALL | {"tie_word_embeddings": False}, "stage": 2, "ranks": 1},
    "activations": {"model": BUSY, "stage": 1, "ranks": 1, "rows": 16, "length": 512},
    "grouped-heads": {
        "model": BUSY | {"num_key_value_heads": 1, "backbone": "llama"},
        "stage": 1, "ranks": 1, "rows": 8, "length": 512,
    },
    "checkpointing": {
        "model": BUSY | {"num_hidden_layers": 12}, "stage": 1, "ranks": 1, "rows": 8, "length": 512,
        "checkpointing": True,
    },
    "chunks": {"model": SMALL | {"loss_chunk_size": 256}, "stage": 1, "ranks": 1, "rows": 4, "length": 512},
    "one-chunk": {"model": SMALL, "stage": 1, "ranks": 1, "rows": 8, "length": 512},
}  # fmt: skip


def settings(case: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a case."""
    ranks, accumulation = case["ranks"], case.get("accumulation", 1)
    rows = case.get("rows", 2)
    return {
        "run": {"dir": "unused"},
        "data": {"path": "unused", "row_length": case.get("length", 256), "num_lanes": rows * ranks * accumulation},
        "model": case["model"],
        "train": {
            "max_steps": STEPS,
            "gradient_accumulation": accumulation,
            "gradient_checkpointing": case.get("checkpointing", False),
            "average_power": case.get("average_power"),
            "precision": "fp32",
        },
        "deepspeed": {
            "zero_stage": case["stage"],
            "config": {
                "zero_optimization": {
                    "stage": case["stage"], "reduce_bucket_size": 2_000_000, "allgather_bucket_size": 2_000_000,
                    "stage3_prefetch_bucket_size": 2_000_000,
                }
            },
        },
    }  # fmt: skip


class Repeated:
    """The same rows again and again, as the loop wants its stream."""

    multi_mode_share = scheduled_multi_mode_share = 0.0
    corpus_shares: dict[str, float] = {}  # noqa: RUF012
    last_rows: list[Any] = []  # noqa: RUF012

    def __init__(self, batch: dict[str, np.ndarray]) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        while True:
            yield self.batch

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass

    def stats(self) -> dict[str, int]:
        return {}


def train(names: list[str]) -> dict[str, dict[str, Any]]:
    """One rank of some cases."""
    from spacetime_gr.training.distributed import start_processes, stop_processes

    world = start_processes()
    results = {name: train_case(CASES[name], world) for name in names}
    stop_processes()
    return results


def train_case(case: dict[str, Any], world: Any) -> dict[str, Any]:
    """One rank of a case: measured and predicted bytes."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    from benchmarks.synthetic_rows import synthetic_rows
    from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM
    from spacetime_gr.planning.run import Run
    from spacetime_gr.training.config import PretrainConfig
    from spacetime_gr.training.engine import build_engine
    from spacetime_gr.training.trainer import Trainer

    config = PretrainConfig.model_validate(settings(case))
    sizes = SpacetimeGRConfig(**case["model"])
    sizes._attn_implementation = "sdpa"
    rows, length = config.data.num_lanes // world.size, config.data.row_length
    batch = synthetic_rows(sizes, rows, length, length, supervised_share=1.0, seed=world.rank)
    torch.manual_seed(0)
    gc.collect()  # what an earlier case left would be seen as freed memory of this one
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = SpacetimeGRForCausalLM(sizes)
        if config.train.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        trainer = Trainer(config, build_engine(model, config, world), Repeated(batch), world, pad_token_id=0)
        batches = iter(trainer.stream)
        for step in range(STEPS):
            with record_function(f"step {step}"):
                trainer.train_step(batches)
    peak = highest(profiler.profiler.kineto_results.experimental_event_tree())
    trainer.engine.destroy()
    del model, trainer, batches
    plan = Run.of(config, sizes, world.size, "fp32")
    memory = plan.memory(plan.zero())
    return {
        "measured": peak,
        "predicted": memory.total,
        "fullest": memory.fullest,
        "parts": memory.parts,
        "parameters": plan.parameters.total,
    }


def highest(roots: list[Any]) -> int:
    """Most bytes of live tensors in a step after the first: the median of those steps.

    The profiler does not see what gloo's threads free (a gathered weight, where a thread is the last to drop it).
    Memory that is given out again was freed, whoever did it, so a block ends where another begins that overlaps it;
    until then it counts as held, which is why no single step is taken for all.
    """
    changes, begun, waiting = [], [], list(roots)
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.name == "[memory]":
            change = event.typed[1]
            changes.append((event.start_time_ns, change.ptr, change.alloc_size))
        elif event.name.startswith("step "):
            begun.append(event.start_time_ns)
    begun.sort()
    most = [0] * len(begun)
    addresses: list[int] = []  # of the live blocks, sorted; no two overlap
    ends: dict[int, int] = {}
    held = 0
    for moment, address, change in sorted(changes):
        first = bisect.bisect_left(addresses, address)
        if first and ends[addresses[first - 1]] > address:
            first -= 1
        last = bisect.bisect_left(addresses, address + abs(change))
        held -= sum(ends.pop(start) - start for start in addresses[first:last])
        addresses[first:last] = []
        if change > 0:
            addresses.insert(first, address)
            ends[address] = address + change
            held += change
        if step := bisect.bisect_right(begun, moment):
            most[step - 1] = max(most[step - 1], held)
    return int(statistics.median(most[1:]))


def launch(names: list[str], ranks: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Cases of one number of ranks in one launch; each with its fullest rank's result."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for rank in range(ranks):
        env = os.environ | {
            "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank),
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        }  # fmt: skip
        command = [sys.executable, __file__, *(f"--case={name}" for name in names)]
        command += ["--rank-result", str(folder / f"{rank}.json")]
        with (folder / f"{rank}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait() for process in processes]
    if any(codes):
        raise SystemExit((folder / "0.log").read_text()[-4000:])
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
    return {name: max((results[name] for results in found), key=lambda result: result["measured"]) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="default: all")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--rank-result", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = given.case or list(CASES)
    if given.rank_result is not None:
        given.rank_result.write_text(json.dumps(train(names)))
        return
    results: dict[str, dict[str, Any]] = {}
    print("| case | parameters | measured GB | predicted GB | error | fullest phase |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for ranks in sorted({CASES[name]["ranks"] for name in names}):
            results |= launch([name for name in names if CASES[name]["ranks"] == ranks], ranks, Path(folder))
        for name, result in results.items():
            error = result["predicted"] / result["measured"] - 1
            print(
                f"| {name} | {result['parameters'] / 1e6:.1f} M | {result['measured'] / 1e9:.3f} | "
                f"{result['predicted'] / 1e9:.3f} | {error:+.1%} | {result['fullest']} |",
                flush=True,
            )
    if given.json is not None:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
