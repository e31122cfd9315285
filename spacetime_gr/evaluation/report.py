"""The table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

SLICES = ("return", "discovery")
_PLURAL = {"return": "returns", "discovery": "discov."}
_COLUMNS = ("hr@1", "hr@5", "hr@10", "hr@20", "mrr")  # what fits an 80-column terminal; the JSON holds all


def print_report(result: Mapping[str, Any], console: Console) -> None:
    """Print a table of the model, the counters and the ceiling, with HR@10 on returns and on discoveries and half the
    width of its interval below each figure; then what discovery there is, and the curve of the knob if there is one."""
    slices = result.get("slices") or next(iter(result["baseline_slices"].values()))
    ranked = ", ranked" if result.get("asked", {}).get("ranker") else ""
    table = Table(
        title=f"{result['protocol']}, {result['knowledge']}, {result['setting']}{ranked}: "
        f"{result['num_targets']:,} targets{_sampled(result)} among {result['num_pois']:,} places",
        padding=(0, 0, 0, 1),
    )
    table.add_column("", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for name in SLICES:
        table.add_column(f"{slices[name]['num_targets']:,}\n{_PLURAL[name]}\nHR@10", justify="right", no_wrap=True)
    intervals = result["intervals"]
    if "metrics" in result:
        table.add_row(*_cells("model", result["metrics"], result["slices"]), style="bold")
        table.add_row(*_interval_cells(intervals["model"]), style="dim", end_section=True)
    for name, metrics in result["baselines"].items():
        table.add_row(*_cells(name, metrics, result["baseline_slices"][name]))
        table.add_row(*_interval_cells(intervals["baselines"][name]), style="dim")
    if "ceiling" in result:
        table.add_section()
        table.add_row(*_cells("ceiling", result["ceiling"], result["ceiling"].get("slices", {})), style="dim")
    console.print(table)
    _say(
        console,
        f"±: half of the {intervals['level']:.0%} interval, {intervals['resamples']:,} bootstrap resamples of "
        f"{result['num_users']:,} users, seed {intervals['seed']}",
    )
    if "nll_nats" in result:
        best = result.get("ceiling", {}).get("entropy_nats")
        suffix = "" if best is None else f" (true distribution: {best:.4f})"
        _say(console, f"negative log-likelihood of the target: {_figure(result['nll_nats'])} nats{suffix}")
    _print_discovery(result, console)
    if "explore_curve" in result:
        _print_curve(result, console)


def _print_discovery(result: Mapping[str, Any], console: Console) -> None:
    rate, new, beyond = result["discovery_rate"], result["new_places_only"], result["beyond_accuracy"]
    table = Table(title=f"beyond accuracy: lists of {rate['k']} places", padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for head in (
        f"D({rate['k']},{rate['days']:g})\nslots",
        "\nhits",
        "new only\nHR@10",
        "cover-\nage",
        "categ.\nJS",
        "listed\nkm",
        "hit\nkm",
    ):
        table.add_column(head, justify="right")
    roles = [(name, "baselines") for name in result["baselines"]]
    if "metrics" in result:
        roles.insert(0, ("model", ""))
    for name, below in roles:
        d, only, other = ((part[below] if below else part)[name] for part in (rate, new, beyond))
        values = [d["slots"], d["hits"], only["hr@10"], other["coverage"], other["calibration_js"]]
        distances = [_figure(other[key], 1) for key in ("recommended_km", "hit_km")]
        table.add_row(name, *(_figure(value) for value in values), *distances)
    console.print(table)


def _print_curve(result: Mapping[str, Any], console: Console) -> None:
    rate = result["discovery_rate"]
    table = Table(title="the discovery knob", padding=(0, 0, 0, 1))
    for head in ("odds", "HR@1", "HR@10", "MRR", "returns\nHR@10", "discov.\nHR@10", "new only\nHR@10"):
        table.add_column(head, justify="right")
    table.add_column(f"D({rate['k']},{rate['days']:g})\nslots", justify="right")
    for setting in result["explore_curve"]:
        values = [setting["metrics"][name] for name in ("hr@1", "hr@10", "mrr")]
        values += [setting["slices"][name]["hr@10"] for name in SLICES]
        values += [setting["new_places_only"]["hr@10"], setting["discovery_rate"]["slots"]]
        table.add_row(f"{setting['explore_odds']:g}", *(_figure(value) for value in values))
    console.print(table)


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _sampled(result: Mapping[str, Any]) -> str:
    total = result.get("num_targets_in_protocol", result["num_targets"])
    return "" if total == result["num_targets"] else f" (a sample of {total:,})"


def _cells(label: str, metrics: Mapping[str, Any], slices: Mapping[str, Any]) -> list[str]:
    values = [metrics.get(name) for name in _COLUMNS] + [slices.get(name, {}).get("hr@10") for name in SLICES]
    return [label, *(_figure(value) for value in values)]


def _interval_cells(parts: Mapping[str, Any]) -> list[str]:
    pairs = [parts["all"][name] for name in _COLUMNS] + [parts[name]["hr@10"] for name in SLICES]
    return ["", *("-" if pair is None else f"±{(pair[1] - pair[0]) / 2:.3f}".replace("0.", ".") for pair in pairs)]


def _figure(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
