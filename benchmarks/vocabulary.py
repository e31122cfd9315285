"""A training step at a large vocabulary: typed heads beside the flat head of Qwen3ForCausalLM, and cost curves.

python benchmarks/vocabulary.py compare                                       # small, for a look
python benchmarks/vocabulary.py compare --vocabulary 400000 --repeats 5       # 380 k blocks and 20 k inner ids
python benchmarks/vocabulary.py curves --largest 1000000 --repeats 1 --plot docs/images/cost_curves.png
python benchmarks/vocabulary.py profile --vocabulary 400000

A step is forward and backward in fp32, on rows of `--length` tokens, half of the actions supervised, tied embeddings,
one process per case: the median of `--repeats` steps after a warm-up by the clock and in processor time (which other
work on the machine hardly moves), and the process's peak memory. Fused AdamW, whose work on the table is the same on
all sides, is timed by itself afterwards, and its state stands in no peak. 19 of 20 ids are blocks, the rest inner ids.
Both bodies are a Qwen3 decoder of the same sizes; the flat side reads the same ids with the same labels, through its
own loss.

The check beside the timings, at the vocabulary of `--check-vocabulary` in float64: without the return-explore head
and the spatial kernel, and with the tied inner head, the typed loss equals the flat softmax over the same head,
masked to the type that comes next.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM

SIDES = ("typed", "typed with return-explore", "flat")
TYPED, MIXED, FLAT = SIDES
IGNORED = -100


def make_config(options: argparse.Namespace, **changes: Any) -> SpacetimeGRConfig:
    """The configuration of the typed side. No index is loaded: every inner id counts as valid in every block."""
    blocks = options.vocabulary * 19 // 20
    inner = options.vocabulary - blocks
    sizes = {"num_blocks": blocks, "num_inner": inner, "num_actions": 4, "num_pois": options.vocabulary}
    body = {"hidden_size": options.hidden_size, "num_hidden_layers": options.num_layers, "num_attention_heads": 4}
    method = {"inner_head": options.inner_head, "return_explore": options.side == MIXED}
    return SpacetimeGRConfig(**(sizes | body | method | changes))


def make_batch(config: SpacetimeGRConfig, options: argparse.Namespace) -> dict[str, torch.Tensor]:
    """Random actions, half of them supervised (as block, inner and action tokens)."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, shape = config.vocabulary, (options.batch, options.length // 4)
    starts = (vocabulary.context_start, vocabulary.block_start, vocabulary.inner_start, vocabulary.action_start)
    stops = (vocabulary.block_start, vocabulary.inner_start, vocabulary.action_start, vocabulary.size)
    actions = torch.stack(
        [torch.randint(a, b, shape, generator=generator) for a, b in zip(starts, stops, strict=True)], dim=-1
    )
    labels = actions.clone()
    labels[..., 0] = IGNORED
    labels[:, 1::2] = IGNORED
    actions, labels = actions.flatten(1), labels.flatten(1)
    return {"input_ids": actions, "labels": labels}


def make_model(options: argparse.Namespace) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """The model of a side in training mode, and what it is fed."""
    torch.manual_seed(0)
    config = make_config(options)
    batch = make_batch(config, options)
    if options.side != FLAT:
        local_time = 1_360_000_000 + 3600 * torch.arange(options.length // 4).repeat_interleave(4)
        return SpacetimeGRForCausalLM(config).train(), batch | {"local_time": local_time.expand(options.batch, -1)}
    return Qwen3ForCausalLM(config.decoder_config()).train(), batch


def check(options: argparse.Namespace) -> float:
    """Largest difference between the typed loss and the masked flat softmax over the same head, in float64."""
    small = argparse.Namespace(**vars(options) | {"vocabulary": options.check_vocabulary, "length": 64, "side": TYPED})
    config = make_config(small, spatial_features=0, inner_head="tied")
    torch.manual_seed(0)
    model = SpacetimeGRForCausalLM(config).double().eval()
    batch = make_batch(config, small)
    with torch.no_grad():
        loss = model(**batch).loss
        hidden = model.model(input_ids=batch["input_ids"]).last_hidden_state[:, :-1]
        logits = functional.linear(hidden, model.lm_head.weight)
        target = batch["labels"][:, 1:].contiguous()
        vocabulary = config.vocabulary
        edges = torch.tensor([vocabulary.block_start, vocabulary.inner_start, vocabulary.action_start])
        ids = torch.arange(logits.shape[-1])
        same = torch.bucketize(ids, edges, right=True) == torch.bucketize(target, edges, right=True).unsqueeze(-1)
        flat = functional.cross_entropy(
            logits.masked_fill(~same, -math.inf).flatten(0, 1), target.flatten(), ignore_index=IGNORED
        )
    return float((loss - flat).abs())


def run_side(options: argparse.Namespace) -> None:
    """Time one case and print it as JSON."""
    torch.set_flush_denormal(True)
    model, batch = make_model(options)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model(**batch).loss.backward()

    seconds, cpu_seconds = timed(step, options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    update, cpu_update = timed(torch.optim.AdamW(model.parameters(), fused=True).step, options.repeats)
    result = {"seconds": seconds, "cpu": cpu_seconds, "update": update, "cpu_update": cpu_update, "peak_gb": peak}
    print(json.dumps(result))


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Median seconds by the clock and of processor time, after a warm-up."""
    seconds = []
    for _ in range(repeats + 1):
        clock, processor = time.perf_counter(), time.process_time()
        work()
        seconds.append((time.perf_counter() - clock, time.process_time() - processor))
    return median(a for a, _ in seconds[1:]), median(b for _, b in seconds[1:])


def measure(options: argparse.Namespace, side: str, **changes: int) -> dict[str, float]:
    """One case in a process of its own."""
    values = {name: changes.get(name, getattr(options, name)) for name in CASE}
    flags = [item for name, value in values.items() for item in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, __file__, "one", *flags, "--side", side]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    return json.loads(output.splitlines()[-1])


def compare(options: argparse.Namespace) -> None:
    """Print the comparison of the three sides."""
    results = {side: measure(options, side) for side in SIDES}
    best = results[TYPED]
    threads = torch.get_num_threads()
    print(f"vocabulary {options.vocabulary:,}, batch {options.batch} x {options.length}, {threads} threads\n")
    print("| head | step, s | times | processor s | times | AdamW, s (processor s) | peak memory, GB | times |")
    print("|---" * 8 + "|")
    for side, result in results.items():
        time_ratio, cpu_ratio, memory_ratio = (result[key] / best[key] for key in ("seconds", "cpu", "peak_gb"))
        print(
            f"| {side} | {result['seconds']:.3f} | {time_ratio:.2f} | {result['cpu']:.3f} | {cpu_ratio:.2f} "
            f"| {result['update']:.3f} ({result['cpu_update']:.3f}) | {result['peak_gb']:.2f} | {memory_ratio:.2f} |"
        )
    print(f"\ntyped loss against the masked flat softmax: {check(options):.1e} apart")


def curves(options: argparse.Namespace) -> None:
    """Step time and memory against each axis, with the slope of a least-squares line through the logarithms."""
    vocabularies = np.unique(np.geomspace(10_000, max(10_000, options.largest), 5).round(-3).astype(int)).tolist()
    axes = {"vocabulary": vocabularies, "length": [128, 256, 512, 1024, 2048], "batch": [1, 2, 4, 8, 16]}
    tables: dict[str, dict[str, list[dict[str, float]]]] = {}
    for axis, values in axes.items():
        values = values[: options.points]
        tables[axis] = {side: [curve_point(options, side, axis, value) for value in values] for side in SIDES}
        print(f"\n| {axis} | " + " | ".join(f"{side}: s, GB" for side in SIDES) + " |\n" + "|---" * 4 + "|")
        for number, value in enumerate(values):
            cells = [tables[axis][side][number] for side in SIDES]
            print(f"| {value:,} | " + " | ".join(f"{c['seconds']:.3f}, {c['peak_gb']:.2f}" for c in cells) + " |")
        slopes = [[slope(values, tables[axis][side], key) for key in ("seconds", "peak_gb")] for side in SIDES]
        print("| slope | " + " | ".join(f"{a:.2f}, {b:.2f}" for a, b in slopes) + " |", flush=True)
    if options.plot:
        draw({axis: axes[axis][: options.points] for axis in axes}, tables, options.plot)


def curve_point(options: argparse.Namespace, side: str, axis: str, value: int) -> dict[str, float]:
    """One point of a curve; NaN where the flat head's logits would be beyond what `--flat-logits-gb` allows."""
    sizes = vars(options) | {axis: value}
    logits_gb = sizes["vocabulary"] * sizes["batch"] * sizes["length"] * 4 / 2**30
    if side == FLAT and logits_gb > options.flat_logits_gb:
        return {"seconds": math.nan, "peak_gb": math.nan}
    return measure(options, side, **{axis: value})


def slope(values: list[int], results: list[dict[str, float]], key: str) -> float:
    """Exponent of a power law, by least squares in the logarithms of what was measured; NaN for a single point."""
    y = np.log([result[key] for result in results])
    measured = np.isfinite(y)
    if measured.sum() < 2:
        return math.nan
    return float(np.polyfit(np.log(values)[measured], y[measured], 1)[0])


def draw(axes: dict[str, list[int]], tables: dict[str, dict[str, list[dict[str, float]]]], file: Path) -> None:
    """Two rows of panels: step time and peak memory against each axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(SIDES, ("#d9603b", "#e8a33d", "#46566b"), strict=True))
    figure, panels = plt.subplots(2, len(axes), figsize=(11, 6), sharey="row", layout="constrained")
    for column, (axis, values) in enumerate(axes.items()):
        for row, (key, label) in enumerate((("seconds", "step, s"), ("peak_gb", "peak memory, GB"))):
            panel = panels[row, column]
            for side in SIDES:
                results = tables[axis][side]
                name = f"{side} (slope {slope(values, results, key):.2f})"
                panel.loglog(values, [r[key] for r in results], "o-", ms=4, color=colours[side], label=name)
            panel.minorticks_off()
            panel.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
            low, high = panel.get_ylim()
            ticks = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= tick <= high]
            panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
            panel.legend(fontsize=7, frameon=False, loc="upper left")
            panel.grid(alpha=0.2)
            panel.set_xlabel(axis if row else "")
            panel.set_ylabel(label if column == 0 else "")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)


def profile(options: argparse.Namespace) -> None:
    """Where a step of the typed side (`--side`) goes: operators by their own time."""
    model, batch = make_model(options)
    model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as run:
        model(**batch).loss.backward()
    print(run.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=45))


CASE = ("vocabulary", "batch", "length", "hidden_size", "num_layers", "inner_head", "repeats")
TASKS = {"compare": compare, "curves": curves, "profile": profile, "one": run_side}


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--vocabulary", type=int, default=10_000, help="block and inner ids together")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512, help="tokens per row, four to an action")
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--inner-head", choices=("fused", "tied"), default="fused")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check-vocabulary", type=int, default=2_000)
    parser.add_argument("--largest", type=int, default=1_000_000, help="vocabulary where the curves end")
    parser.add_argument("--points", type=int, default=5, help="only the first so many points of each curve")
    parser.add_argument("--flat-logits-gb", type=float, default=3.2, help="curves leave out flat heads with more")
    parser.add_argument("--plot", type=Path, help="write the curves to this picture")
    parser.add_argument("--side", choices=SIDES, default=MIXED, help="for profile")
    options = parser.parse_args()
    if options.length % 4:
        parser.error(f"--length {options.length}: expected a multiple of 4, the tokens of an action")
    TASKS[options.task](options)


if __name__ == "__main__":
    main()
