"""recommend() beside `generate(num_beams=)` with a prefix constraint: time, peak memory, and whether they agree.

python benchmarks/decoding.py                                            # small, for a look
python benchmarks/decoding.py --num-pois 96000 --num-actions 512 --batch 16 --hidden-size 256 --num-layers 4 \
    --generate-histories 1 --repeats 3                                   # 50 beams, some 2,000 blocks of at most 64

A model with random weights (large enough for the scores to differ) over clustered places, histories of `--num-actions`
actions, the same seed for all sides. Each side runs in a process of its own: the median of `--repeats` calls after a
warm-up (by the clock and in processor time, which other work on the machine hardly moves), and the growth of the
process's peak memory over what it held before the first call. Both sides start from the same encoded requests;
recommend() is timed as users call it, so with encoding.

The return-explore head is on, as it is by default; recommend() then opens the blocks of the history beside the beams,
and may find places that generate() does not. With `--no-return-explore` both open the same blocks and are exact over
them, so all places and their log-probabilities must agree.

generate() copies the history once per beam before it reads it; where that takes too long or does not fit into memory,
`--generate-histories` hands it the first so many histories only. Its time is then multiplied up to the whole batch
(rows do not depend on each other), its memory is that of the part, and the overlap is that of the part.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from spacetime_gr import POIIndex, SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer

SIDES = ("recommend", "generate")
WHEN = 1_360_000_000
K = 10


def world(options: argparse.Namespace) -> tuple[SpacetimeGRTokenizer, list[dict[str, Any]]]:
    """Clustered places, and histories that return to few of them."""
    rng = np.random.default_rng(0)
    town = rng.integers(0, 40, options.num_pois)
    center = rng.uniform((30.0, 100.0), (40.0, 120.0), (40, 2))
    spread = rng.normal(0, 0.05, (options.num_pois, 2))
    pois = pa.table(
        {
            "poi_id": np.arange(options.num_pois),
            "latitude": center[town, 0] + spread[:, 0],
            "longitude": center[town, 1] + spread[:, 1],
            "category": [f"c{number}" for number in rng.integers(0, 50, options.num_pois)],
            "train_visits": rng.zipf(1.5, options.num_pois).clip(max=10_000),
        }
    )
    tokenizer = SpacetimeGRTokenizer(POIIndex.build(pois, max_pois_per_block=64), ["click", "navigate"])
    histories = [
        {
            "poi_row": rng.choice(rng.integers(0, options.num_pois, 60), options.num_actions),
            "timestamp": WHEN - np.cumsum(rng.integers(600, 40_000, options.num_actions))[::-1],
        }
        for _ in range(options.batch)
    ]
    return tokenizer, histories


def make_model(tokenizer: SpacetimeGRTokenizer, options: argparse.Namespace) -> SpacetimeGRForCausalLM:
    """The model of both sides."""
    torch.manual_seed(0)
    config = SpacetimeGRConfig(
        **tokenizer.config_kwargs(),
        hidden_size=options.hidden_size,
        num_hidden_layers=options.num_layers,
        return_explore=options.return_explore,
        initializer_range=0.1,
    )
    model = SpacetimeGRForCausalLM(config)
    model.load_places(tokenizer.index)
    return model.eval()


def by_generate(
    model: SpacetimeGRForCausalLM,
    tokenizer: SpacetimeGRTokenizer,
    histories: list[dict[str, Any]],
    options: argparse.Namespace,
) -> list[dict[str, list]]:
    """Beam search over the two tokens, held to pairs that exist."""
    vocabulary, index = tokenizer.vocabulary, tokenizer.index
    blocks = list(range(vocabulary.block_start, vocabulary.block_start + index.num_blocks))
    inners = [list(range(vocabulary.inner_start, vocabulary.inner_start + size)) for size in index.block_sizes]

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        last = int(ids[-1]) - vocabulary.block_start
        return blocks if last < 0 else inners[last]

    inputs = tokenizer.encode_requests(*tokenizer.columns(histories), when=WHEN)
    inputs.pop("labels")
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            num_beams=options.num_beams,
            num_return_sequences=K,
            max_new_tokens=2,
            do_sample=False,
            length_penalty=0.0,  # scores are sums of log-probabilities
            eos_token_id=None,
            prefix_allowed_tokens_fn=allowed,
            return_dict_in_generate=True,
            output_scores=True,
        )
    pairs = output.sequences[:, -2:].numpy()
    ids = index.decode(pairs[:, 0] - vocabulary.block_start, pairs[:, 1] - vocabulary.inner_start)
    scores = output.sequences_scores.view(-1, K).tolist()
    return [
        {"poi_id": chosen.tolist(), "log_prob": score} for chosen, score in zip(ids.reshape(-1, K), scores, strict=True)
    ]


def run_side(options: argparse.Namespace) -> None:
    """Time one side and print its result as JSON."""
    torch.set_flush_denormal(True)
    tokenizer, histories = world(options)
    model = make_model(tokenizer, options)
    if options.side == "generate":
        histories = histories[: options.generate_histories or None]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(options.repeats + 1):  # the first warms up
        started = time.perf_counter(), time.process_time()
        if options.side == "generate":
            places = by_generate(model, tokenizer, histories, options)
        else:
            places = model.recommend(tokenizer, histories, when=WHEN, k=K, num_beams=options.num_beams)
        seconds.append((time.perf_counter() - started[0], time.process_time() - started[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "seconds": median(clock for clock, _ in seconds[1:]) * options.batch / len(histories),
        "cpu": median(processor for _, processor in seconds[1:]) * options.batch / len(histories),
        "growth_mb": (peak - before) / 1024,
        "peak_mb": peak / 1024,
        "blocks": tokenizer.index.num_blocks,
        "places": places,
    }
    print(json.dumps(result))


def main() -> None:
    """Run each side in a process of its own and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-pois", type=int, default=5_000)
    parser.add_argument("--num-actions", type=int, default=32)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--num-beams", type=int, default=50)
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--generate-histories", type=int, default=0, help="only so many for generate(); 0: all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--return-explore", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        run_side(options)
        return
    results = {}
    for side in SIDES:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
        results[side] = json.loads(output.splitlines()[-1])
    ours, theirs = results["recommend"], results["generate"]
    print(f"{ours['blocks']} blocks, {options.num_beams} beams, {options.batch} x {options.num_actions} actions\n")
    print(
        "| decoding | median s | times | processor s | times | peak memory over the model's, MB | whole process, MB |"
    )
    print("|---" * 7 + "|")
    for side, result in results.items():
        times, cpu_times = result["seconds"] / ours["seconds"], result["cpu"] / ours["cpu"]
        print(
            f"| {side} | {result['seconds']:.3f} | {times:.1f} | {result['cpu']:.3f} | {cpu_times:.1f} "
            f"| {result['growth_mb']:.0f} | {result['peak_mb']:.0f} |"
        )
    pairs = list(zip(ours["places"], theirs["places"], strict=False))  # generate() may have had the first ones only
    overlap = np.mean([len(set(one["poi_id"]) & set(other["poi_id"])) / K for one, other in pairs])
    scores = [(dict(zip(one["poi_id"], one["log_prob"], strict=True)), other) for one, other in pairs]
    apart = max(
        abs(found[poi] - log_prob)
        for found, other in scores
        for poi, log_prob in zip(other["poi_id"], other["log_prob"], strict=True)
        if poi in found
    )
    print(
        f"\ntop-{K} overlap {overlap:.1%} over {len(pairs)} histories; log-probabilities of the same places differ by "
        f"at most {apart:.1e}"
    )


if __name__ == "__main__":
    main()
