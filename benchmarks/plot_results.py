"""Draw docs/images/results.png: the model beside counters, on New York and on a city whose ceiling is known.

python benchmarks/plot_results.py --new-york RUN/eval.json --new-york-ranked RUN/eval-ranked.json --city RUN/eval.json \
    --city-metrics RUN/metrics.jsonl --out docs/images/results.png

The first of New York is that of the model alone, with counters (and with --cascade, if a bar of it is wanted).
"""

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

MEASURES = {"hr@1": "HR@1", "hr@10": "HR@10", "mrr": "MRR"}
COUNTERS = {
    "popularity": ("popularity", "#c9ced6"),
    "markov": ("Markov with back-off", "#9aa5b4"),
    "visits_stream": ("visit counter", "#6f7d90"),
    "user_hour": ("visits at that hour", "#46566b"),
    "cascade": ("cascade", "#7a5ea8"),
}
MODEL_COLOUR, RANKED_COLOUR, CEILING_COLOUR = "#d9603b", "#a8361a", "#2b2b2b"


def bars(axes: plt.Axes, result: dict, title: str, ranked: dict | None = None) -> None:
    """Grouped bars of counters, the model, and the model with its ranker; the ceiling as a line above each group."""
    systems = [(*COUNTERS[name], result["baselines"][name]) for name in COUNTERS if name in result["baselines"]]
    systems.append(("Spacetime-GR", MODEL_COLOUR, result["metrics"]))
    if ranked is not None:
        systems.append(("Spacetime-GR, ranked", RANKED_COLOUR, ranked["metrics"]))
    width = 0.8 / len(systems)
    for number, (label, colour, metrics) in enumerate(systems):
        heights = [metrics[name] for name in MEASURES]
        places = [group + (number - (len(systems) - 1) / 2) * width for group in range(len(MEASURES))]
        drawn = axes.bar(places, heights, width * 0.92, color=colour, label=label)
        if label.startswith("Spacetime-GR"):
            axes.bar_label(drawn, fmt="%.2f", padding=-18, rotation=90, fontsize=7, color="white")
    if "ceiling" in result:
        for group, name in enumerate(MEASURES):
            axes.hlines(
                result["ceiling"][name],
                group - 0.42,
                group + 0.42,
                color=CEILING_COLOUR,
                linestyle="--",
                linewidth=1.2,
                label="best possible" if group == 0 else None,
            )
    axes.set_xticks(range(len(MEASURES)), MEASURES.values())
    axes.set_title(title, fontsize=10)
    axes.set_ylim(0, 1.0)


def loss_curve(axes: plt.Axes, metrics: Path, result: dict) -> None:
    """Loss of a place (block and inner id) in training against tokens, with the floor and the held-out value."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    tokens = [line["tokens"] / 1e6 for line in lines]
    axes.plot(tokens, [line["loss_block"] + line["loss_inner"] for line in lines], color=MODEL_COLOUR, label="training")
    axes.plot(tokens[-1], result["nll_nats"], "o", color=MODEL_COLOUR, label=f"held out {result['nll_nats']:.2f}")
    floor = result["ceiling"]["entropy_nats"]
    axes.axhline(floor, color=CEILING_COLOUR, linestyle="--", linewidth=1.2, label=f"floor {floor:.2f}")
    axes.set_xlabel("million tokens")
    axes.set_title("simulated city: nats per place", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def main() -> None:
    """Read the results and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--new-york", "--new-york-ranked", "--city", "--city-metrics", "--out"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    files = (arguments.new_york, arguments.new_york_ranked, arguments.city)
    new_york, ranked, city = (json.loads(file.read_text()) for file in files)
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 3.9), width_ratios=[1.25, 1.25, 1])
    title = f"New York, less-is-more split: {new_york['num_targets']:,} targets, {new_york['setting']}"
    bars(left, new_york, title, ranked)
    bars(middle, city, f"simulated city: {city['num_targets']:,} targets")
    loss_curve(right, arguments.city_metrics, city)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    labelled = {}
    for axes in (left, middle):
        labelled |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        labelled.values(), labelled.keys(), loc="lower center", ncols=len(labelled), frameon=False, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
