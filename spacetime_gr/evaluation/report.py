"""The result of an evaluation: what goes into the JSON, and the table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from spacetime_gr.evaluation.metrics import summarise

SLICES = ("return", "discovery")
_PLURAL = {"return": "returns", "discovery": "discov."}
_COLUMNS = ("hr@1", "hr@5", "hr@10", "hr@20", "mrr")  # what fits an 80-column terminal; the JSON holds all


def slice_summaries(ranks: np.ndarray, discovery: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Metrics of returns and of discoveries apart, and how many there are of each."""
    parts = {"return": ranks[~discovery], "discovery": ranks[discovery]}
    return {name: {**summarise(part), "num_targets": len(part)} for name, part in parts.items()}


def print_report(result: Mapping[str, Any], console: Console) -> None:
    """Print a table of the model, the counters and the ceiling, with HR@10 on returns and on discoveries."""
    slices = next(iter(result["baseline_slices"].values()))
    table = Table(
        title=f"{result['protocol']}, {result['knowledge']}, {result['setting']}: "
        f"{result['num_targets']:,} targets{_sampled(result)} among {result['num_pois']:,} places",
        padding=(0, 0, 0, 1),
    )
    table.add_column("", no_wrap=True)
    for name in _COLUMNS:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for name in SLICES:
        table.add_column(f"{slices[name]['num_targets']:,}\n{_PLURAL[name]}\nHR@10", justify="right")
    if "metrics" in result:
        table.add_row(*_cells("model", result["metrics"], result["slices"]), style="bold", end_section=True)
    for name, metrics in result["baselines"].items():
        table.add_row(*_cells(name, metrics, result["baseline_slices"][name]))
    if "ceiling" in result:
        table.add_section()
        table.add_row(*_cells("ceiling", result["ceiling"], result["ceiling"].get("slices", {})), style="dim")
    console.print(table)
    if "nll_nats" in result:
        best = result.get("ceiling", {}).get("entropy_nats")
        suffix = "" if best is None else f" (true distribution: {best:.4f})"
        console.print(f"negative log-likelihood of the target: {result['nll_nats']:.4f} nats{suffix}", highlight=False)


def _sampled(result: Mapping[str, Any]) -> str:
    total = result.get("num_targets_in_protocol", result["num_targets"])
    return "" if total == result["num_targets"] else f" (a sample of {total:,})"


def _cells(label: str, metrics: Mapping[str, Any], slices: Mapping[str, Any]) -> list[str]:
    values = [metrics.get(name) for name in _COLUMNS] + [slices.get(name, {}).get("hr@10") for name in SLICES]
    return [label, *("-" if value is None else f"{value:.4f}" for value in values)]
