"""A comparison as a table: on the terminal, or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from spacetime_gr.evaluation.bootstrap import Resampling
from spacetime_gr.evaluation.comparison import TESTED, Difference, Row

# Column and its head: those of an 80-column terminal, and all.
_SHORT = {
    "hr@1": "HR@1",
    "hr@10": "HR@10",
    "mrr": "MRR",
    "returns": "returns\nHR@10",
    "discoveries": "discov.\nHR@10",
    "new_only": "new\nonly",
    "slots": "D\nslots",
}
_LONG = {
    "hr@1": "HR@1",
    "hr@5": "HR@5",
    "hr@10": "HR@10",
    "hr@20": "HR@20",
    "ndcg@5": "NDCG@5",
    "ndcg@10": "NDCG@10",
    "mrr": "MRR",
    "returns": "@10 returns",
    "discoveries": "@10 discoveries",
    "new_only": "@10 new only",
}


def print_comparison(
    rows: Sequence[Row], differences: Sequence[Difference], reference: Row, resampling: Resampling, console: Console
) -> None:
    """Print the figures, mean and standard deviation over seeds, and the tests against the reference."""
    table = Table(title=_title(reference), padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for head in _SHORT.values():
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        seeds = len(row.values)
        table.add_row(row.name, *(_figure(row.mean(column)) for column in _SHORT))
        if seeds > 1:
            spreads = ("" if (value := row.spread(column)) is None else f"±{_plain(value)}" for column in _SHORT)
            table.add_row(f"  {seeds} seeds", *spreads, style="dim")
    console.print(table)
    if not differences:
        return
    tests = Table(title=f"difference from {reference.name}", padding=(0, 0, 0, 1))
    tests.add_column("", no_wrap=True)
    for metric in TESTED:
        tests.add_column(metric.upper(), justify="right", no_wrap=True)
    for difference in differences:
        if not difference.why_not:
            tests.add_row(difference.name, *("\n".join(_test_lines(difference, metric)) for metric in TESTED))
    if tests.row_count:
        console.print(tests)
        console.print(_note(resampling), highlight=False, markup=False, soft_wrap=True)
    for difference in differences:
        if difference.why_not:
            text = f"{difference.name} is not comparable with {reference.name}: {difference.why_not}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)


def markdown(rows: Sequence[Row], differences: Sequence[Difference], reference: Row, resampling: Resampling) -> str:
    """The same as Markdown, with all columns; and what a simulated source allows at best, if it tells."""
    rate = reference.run.result["discovery_rate"]
    heads = _LONG | {"slots": f"D({rate['k']},{rate['days']:g}) slots"}
    lines = [f"| system | {' | '.join(heads.values())} |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [
            _plain(row.mean(column)) + ("" if (value := row.spread(column)) is None else f" ± {_plain(value)}")
            for column in heads
        ]
        name = f"{row.name} ({len(row.values)} seeds)" if len(row.values) > 1 else row.name
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if "ceiling" in reference.run.result:
        lines.append(f"| best possible | {' | '.join(_ceiling_cells(reference.run.result['ceiling'], list(heads)))} |")
    tested = [difference for difference in differences if not difference.why_not]
    if tested:
        names = [metric.upper() for metric in TESTED]
        lines += ["", f"| minus {reference.name} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for difference in tested:
            cells = [", ".join(_test_lines(difference, metric)) for metric in TESTED]
            lines.append(f"| {difference.name} | {' | '.join(cells)} |")
        lines += ["", _note(resampling)]
    lines += [
        f"\n{difference.name} is not comparable with {reference.name}: {difference.why_not}"
        for difference in differences
        if difference.why_not
    ]
    return "\n".join(lines)


def _title(reference: Row) -> str:
    result, rate = reference.run.result, reference.run.result["discovery_rate"]
    return (
        f"{result['protocol']}, {result['knowledge']}, {result['setting']}: {result['num_targets']:,} targets among "
        f"{result['num_pois']:,} places; D({rate['k']}, {rate['days']:g} days)"
    )


def _note(resampling: Resampling) -> str:
    return (
        f"{resampling.level:.0%} intervals: {resampling.resamples:,} paired bootstrap resamples of users, seed "
        f"{resampling.seed}; p: two-sided permutation test, signs of whole users flipped; seeds of one system are "
        "averaged target by target"
    )


def _test_lines(difference: Difference, metric: str) -> tuple[str, str, str]:
    low, high = difference.intervals[metric]
    p = difference.p_values[metric]
    return f"{difference.means[metric]:+.4f}", f"{low:+.3f} to {high:+.3f}", f"p {p:.3f}" if p >= 0.001 else "p <.001"


def _ceiling_cells(ceiling: dict[str, Any], columns: Sequence[str]) -> list[str]:
    slices = ceiling.get("slices", {})
    parts = {
        name: slices.get(part, {}).get("hr@10") for name, part in (("returns", "return"), ("discoveries", "discovery"))
    }
    return [_plain(parts.get(column, ceiling.get(column))) for column in columns]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}".removeprefix("0")
