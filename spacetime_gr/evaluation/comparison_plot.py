"""A comparison as a picture: HR@k with intervals, and what a system gives for the discovery it shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spacetime_gr.evaluation.comparison import Row
from spacetime_gr.evaluation.metrics import HIT_CUTOFFS

_SUFFIXES = (".png", ".svg", ".pdf")


def plot_comparison(rows: Sequence[Row], num_models: int, out: Path) -> None:
    """Draw all rows that answer the first one's question.

    Args:
        num_models: how many of the rows, the first ones, are models; the others are counters, drawn in greys.
        out: file to write, .png, .svg or .pdf.

    Raises:
        ValueError: another ending.
    """
    if out.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"--plot {out} ends with {out.suffix or 'nothing'!r}, expected one of {', '.join(_SUFFIXES)}")
    models = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    greys = [mpl.colormaps["Greys"](0.3 + 0.5 * i / max(len(rows) - num_models, 1)) for i in range(len(rows))]
    colours = [models[i % len(models)] if i < num_models else greys[i - num_models] for i in range(len(rows))]
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    bars, curve, trade = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    _bars(bars, rows, colours)
    # Systems far below the best would press all others into a corner of the two panels.
    best = max(row.mean("hr@k") or 0.0 for row in rows)
    near = [(row, colour) for row, colour in zip(rows, colours, strict=True) if (row.mean("hr@k") or 0.0) >= best / 2]
    _discovery(curve, near)
    _trade(trade, near)
    for axes in (bars, curve, trade):
        axes.spines[["top", "right"]].set_visible(False)
    result = rows[0].run.result
    figure.suptitle(
        f"{result['protocol']}, {result['knowledge']}, {result['setting']}: {result['num_targets']:,} targets among "
        f"{result['num_pois']:,} places",
        fontsize=10,
    )
    handles, labels = bars.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(rows), 7), frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)


def _bars(axes: Axes, rows: Sequence[Row], colours: Sequence[tuple[float, ...]]) -> None:
    """HR@k by system. Interval: over users (bootstrap) of the first seed, moved to the mean over the seeds."""
    width = 0.84 / len(rows)
    for number, (row, colour) in enumerate(zip(rows, colours, strict=True)):
        for group, k in enumerate(HIT_CUTOFFS):
            height, first = row.mean(f"hr@{k}"), row.values[0][f"hr@{k}"]
            if height is None or first is None:
                continue
            place = group + (number - (len(rows) - 1) / 2) * width
            axes.bar(place, height, 0.9 * width, color=colour, label=row.name if group == 0 else None)
            interval = row.intervals["all"][f"hr@{k}"]
            if interval is not None:
                error = [[max(0.0, first - interval[0])], [max(0.0, interval[1] - first)]]
                axes.errorbar(place, height, yerr=error, fmt="none", ecolor="#333333", elinewidth=0.8)
    axes.set_xticks(range(len(HIT_CUTOFFS)), [f"HR@{k}" for k in HIT_CUTOFFS])
    axes.set_title("hit rate, with intervals over users", fontsize=9)


def _discovery(axes: Axes, systems: Sequence[tuple[Row, tuple[float, ...]]]) -> None:
    """HR@k against D(k, m) (slots)."""
    rate = systems[0][0].run.result["discovery_rate"]
    for row, colour in systems:
        curve = [(setting["discovery_rate"]["slots"], setting["grid"]["hr"][0]) for setting in row.curve]
        _system(axes, row, colour, (row.mean("slots"), row.mean("hr@k")), curve)
    axes.set_xlabel(f"D({rate['k']}, {rate['days']:g} days), share of the list that is new", fontsize=8)
    axes.set_title(f"HR@{rate['k']} against discovery rate", fontsize=9)


def _trade(axes: Axes, systems: Sequence[tuple[Row, tuple[float, ...]]]) -> None:
    """HR@10 on discoveries against HR@10 on all targets."""
    for row, colour in systems:
        curve = [(setting["metrics"]["hr@10"], setting["slices"]["discovery"]["hr@10"]) for setting in row.curve]
        _system(axes, row, colour, (row.mean("hr@10"), row.mean("discoveries")), curve)
    axes.set_xlabel("HR@10 on all targets", fontsize=8)
    axes.set_title("HR@10 on discoveries against HR@10", fontsize=9)


def _system(
    axes: Axes,
    row: Row,
    colour: tuple[float, ...],
    point: tuple[float | None, float | None],
    curve: Sequence[tuple[float, float]],
) -> None:
    """A point, and a model's settings of the knob as a line of small ones with their odds. Where there is no discovery
    there is no point."""
    x, y = point
    if x is not None and y is not None:
        axes.plot(x, y, "o", color=colour, markersize=6)
    if curve and None not in curve[0]:
        axes.plot(*zip(*curve, strict=True), ".-", color=colour, linewidth=1.2, markersize=4)
        for setting, place in zip(row.curve, curve, strict=True):
            odds = f"{setting['explore_odds']:g}"
            axes.annotate(odds, place, textcoords="offset points", xytext=(4, 4), fontsize=7)
