"""The sections on an evaluation: systems side by side, returns and discoveries apart, the knob, slices."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from spacetime_gr.reports import charts
from spacetime_gr.reports.charts import Axis, Series, percent
from spacetime_gr.reports.page import section, table
from spacetime_gr.reports.run_results import CEILING, MODEL, PARTS, Results, rate
from spacetime_gr.reports.run_tabs import scroll, tabs

_SHOWN = ("hr@1", "hr@5", "hr@10", "hr@20", "mrr")
_MOST_SERIES = 4  # colours of a chart

STYLES = """
  .figures td:first-child, .figures th:first-child { white-space: nowrap; }
"""


def evaluation_sections(results: Results) -> list[str]:
    """All panels on an evaluation."""
    return [
        _systems_section(results),
        _bars_section(results),
        _discovery_section(results),
        _knob_section(results),
        _beyond_section(results),
        _slices_section(results),
    ]


def _figures(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of figures; names of systems and groups are not broken."""
    return f'<div class="figures">{table(heads, rows, sortable=True)}</div>'


# ---------------------------------------------------------------- systems


def _systems_section(results: Results) -> str:
    raw = results.raw
    rows = [_row(results, name) for name in results.systems]
    if CEILING in raw:
        rows.append(_row(results, CEILING))
    sampled = raw["num_targets"] < raw.get("num_targets_in_protocol", raw["num_targets"])
    drawn = f" (a sample of {raw['num_targets_in_protocol']:,})" if sampled else ""
    notes = [
        f"Protocol {raw['protocol']}, {raw['knowledge']}, {raw['setting']}: {raw['num_targets']:,} targets{drawn} "
        f"among {raw['num_pois']:,} places, full ranking, ties at their expected rank; "
        f"{results.num_targets('return'):,} returns to places where the person was before and "
        f"{results.num_targets('discovery'):,} discoveries. A click on a head sorts by it.",
    ]
    if "metrics" not in raw:
        notes.append("The model was not evaluated: these are the counters only.")
    if raw.get("nll_nats") is not None:
        best = raw.get(CEILING, {}).get("entropy_nats")
        notes.append(
            f"Negative log-likelihood of the target: {raw['nll_nats']:.3f} nats"
            + (f", of the true distribution {best:.3f}." if best is not None else ".")
        )
    if CEILING in raw:
        notes.append("The ceiling is what the distribution that the data was simulated with reaches.")
    else:
        notes.append("The ceiling is not known: only simulated data knows its own distribution.")
    heads = [
        *("", "HR@1", "HR@5", "HR@10", "HR@20", "NDCG@10", "MRR"),
        *("returns HR@10", "discov. HR@1", "discov. HR@10", "discov. HR@20"),
    ]
    if "new_places_only" in raw:
        heads.append("new only HR@10")
        notes.append("New only: discoveries ranked among the places new to the person, as a list of such places would.")
    return section("Evaluation", " ".join(notes), _figures(heads, rows))


def _row(results: Results, system: str) -> list[str]:
    def cell(metric: str, part: str = "all") -> str:
        return rate(results.value(system, metric, part))

    cells = [system, *(cell(metric) for metric in ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@10", "mrr"))]
    cells += [cell("hr@10", "return"), *(cell(metric, "discovery") for metric in ("hr@1", "hr@10", "hr@20"))]
    if "new_places_only" in results.raw:
        cells.append(rate((results.by_role("new_places_only", system) or {}).get("hr@10")))
    return cells


def _bars_section(results: Results) -> str:
    systems = [*results.systems, *([CEILING] if CEILING in results.raw else [])]
    return section(
        "Systems side by side",
        f"All targets, returns and discoveries apart. {results.about_intervals}",
        tabs({metric.upper(): _metric_bars(results, systems, metric) for metric in _SHOWN}),
    )


def _metric_bars(results: Results, systems: Sequence[str], metric: str) -> str:
    series = [
        Series(
            said,
            [results.value(system, metric, part) or 0.0 for system in systems],
            intervals=[results.interval(system, metric, part) for system in systems],
        )
        for part, said in PARTS.items()
    ]
    ticks = [(i + 0.5, name) for i, name in enumerate(systems)]
    axis = Axis("system"), Axis(metric.upper(), percent)
    return scroll(charts.bars(series, systems, *axis, ticks, wide=True))


# ---------------------------------------------------------------- discovery


def _discovery_section(results: Results) -> str:
    rates = results.raw["discovery_rate"]
    k, days = rates["k"], rates["days"]
    rows = []
    for name in results.systems:
        found = results.by_role("discovery_rate", name) or {}
        rows.append([name, rate(results.value(name, f"hr@{k}")), rate(found.get("slots")), rate(found.get("hits"))])
    text = (
        f"D({k}, {days:g}): how much of what is shown is new to the person, that is not visited in the {days:g} days "
        "before. Slots: share of the places in the lists; hits: share of the targets hit that were new. Up and to the "
        "right is better: popular places are new to most people and seldom right."
    )
    views = {"At one k": scroll(_scatter(results, k, days))}
    grid = rates.get("grid")
    if grid:
        views["Curves over k"] = scroll(_grid_curves(results, grid))
    else:
        text += " Curves over k were not measured: the result holds one k and m only."
    heads = ["", f"HR@{k}", "D slots", "D hits"]
    return section("Accuracy against discovery", text, tabs(views) + _figures(heads, rows))


def _scatter(results: Results, k: int, days: float) -> str:
    """HR@k against D(k, m), a point per system."""
    points = {
        name: (found["slots"], hit)
        for name in sorted(results.systems, key=lambda name: _slots(results, name))
        if (found := results.by_role("discovery_rate", name)) and (hit := results.value(name, f"hr@{k}")) is not None
    }
    if not points:
        return f"<p>No picture: HR@{k} is not among the metrics of the result.</p>"
    series = [
        Series(said, [points[name][1] for name in part], [points[name][0] for name in part], labels=part, joined=False)
        for said, part in (
            (MODEL, [name for name in points if name == MODEL]),
            ("counters", [name for name in points if name != MODEL]),
        )
        if part
    ]
    return charts.lines(
        series,
        Axis(f"D({k}, {days:g}), slots", percent),
        Axis(f"HR@{k}", percent),
        y_range=(0.0, 1.1 * max(hit for _, hit in points.values()) or 1.0),
        wide=True,
    )


def _slots(results: Results, system: str) -> float:
    return float((results.by_role("discovery_rate", system) or {}).get("slots") or 0.0)


def _grid_curves(results: Results, grid: Mapping[str, Any]) -> str:
    """HR@k against D(k, m) over k: the model and the counters nearest to it."""
    holder = {MODEL: grid[MODEL]} if MODEL in grid else {}
    counters = sorted(grid["baselines"], key=lambda name: -(results.value(name, "hr@10") or 0.0))
    holder |= {name: grid["baselines"][name] for name in counters[: _MOST_SERIES - len(holder)]}
    order = sorted(range(len(grid["k"])), key=lambda i: grid["k"][i])
    series = [
        Series(
            name,
            [one["hr"][i] for i in order],
            [one["slots"][i][0] for i in order],
            labels=[f"k={grid['k'][i]}" for i in order],
        )
        for name, one in holder.items()
    ]
    return charts.lines(series, Axis(f"D(k, {grid['days'][0]:g}), slots", percent), Axis("HR@k", percent), wide=True)


def _knob_section(results: Results) -> str:
    curve = results.raw.get("explore_curve")
    title = "The discovery knob"
    if not curve:
        return section(
            title,
            "Not measured: the result holds one setting of the factor on the odds of exploring. Evaluate with several "
            "(see docs/evaluate.md) to see what discovery costs.",
            "",
        )
    k = results.raw["discovery_rate"]["k"]
    hit = f"hr@{k}" if f"hr@{k}" in curve[0]["metrics"] else "hr@10"
    labels = [f"{point['explore_odds']:g}" for point in curve]
    line = Series(
        "model",
        [point["metrics"][hit] for point in curve],
        [point["discovery_rate"]["slots"] for point in curve],
        labels=labels,
    )
    new = Series(
        "on discoveries",
        [point["slices"]["discovery"][hit] or 0.0 for point in curve],
        [point["discovery_rate"]["slots"] for point in curve],
    )
    axes = Axis(f"D({k}, {results.raw['discovery_rate']['days']:g}), slots", percent), Axis(hit.upper(), percent)
    chart = charts.lines([line, new], *axes, y_range=(0.0, 1.1 * max(line.y) or 1.0), wide=True)
    rows = [
        [
            label,
            *(rate(point["metrics"][name]) for name in ("hr@1", "hr@10", "mrr")),
            *(rate(point["slices"][part]["hr@10"]) for part in ("return", "discovery")),
            *(rate(point["discovery_rate"][kind]) for kind in ("slots", "hits")),
        ]
        for label, point in zip(labels, curve, strict=True)
    ]
    heads = ["factor on the odds", "HR@1", "HR@10", "MRR", "returns HR@10", "discov. HR@10", "D slots", "D hits"]
    return section(
        title,
        "What the model gives up on returns for discovery as the odds of exploring are multiplied; 1 is as learnt.",
        scroll(chart) + _figures(heads, rows),
    )


# ---------------------------------------------------------------- beyond accuracy, slices


_BEYOND = {
    "coverage": "catalogue coverage",
    "calibration_kl": "categories KL",
    "calibration_js": "categories JS",
    "recommended_km": "median km shown",
    "hit_km": "median km hit",
}


def _beyond_section(results: Results) -> str:
    title = "Beyond accuracy"
    if "beyond_accuracy" not in results.raw:
        return section(title, "Not measured: the result has no coverage, category balance or distances.", "")
    rows = []
    for name in results.systems:
        found = results.by_role("beyond_accuracy", name) or {}
        rows.append([name, *("-" if found.get(key) is None else f"{found[key]:.3g}" for key in _BEYOND)])
    k = results.raw["beyond_accuracy"]["k"]
    text = (
        f"Of lists of {k}: share of the catalogue that anyone is shown, how far the categories of a list are from "
        "those of the person's history (0: alike), and distances from the last known place."
    )
    return section(title, text, _figures(["", *_BEYOND.values()], rows))


def _slices_section(results: Results) -> str:
    groups = results.raw.get("breakdown")
    if not groups:
        return section(
            "Slices",
            "Only returns and discoveries were measured apart (above); the result has no slices by popularity, "
            "activity, hour, distance, mode or category.",
            "",
        )
    systems = [MODEL] if MODEL in results.systems else []
    systems += [name for name in (results.best_counter,) if name is not None]
    return section(
        "Slices",
        "The model beside the counter with the highest HR@10. Groups with few targets move by chance.",
        tabs({name: _slice_view(one, systems) for name, one in groups.items()}),
    )


def _slice_view(slicing: Mapping[str, Any], systems: Sequence[str]) -> str:
    groups = {label: one for label, one in slicing["groups"].items() if one["num_targets"]}
    if not groups:
        return table(["", ""], [["no target has this property", ""]])
    series = [
        Series(name, [one["systems"][name]["all"]["hr@10"] or 0.0 for one in groups.values()]) for name in systems
    ]
    ticks = [(i + 0.5, label) for i, label in enumerate(groups) if len(groups) <= 12 or i % 3 == 0]
    chart = charts.bars(series, list(groups), Axis("group"), Axis("HR@10", percent), ticks, wide=True)
    rows = [
        [
            label,
            f"{one['num_targets']:,}",
            f"{one['num_discoveries']:,}",
            *(rate(one["systems"][name]["all"][metric]) for name in systems for metric in ("hr@1", "hr@10", "mrr")),
            *(rate(one["systems"][name]["discovery"]["hr@10"]) for name in systems),
        ]
        for label, one in groups.items()
    ]
    heads = ["group", "targets", "discoveries"]
    heads += [f"{name} {metric}" for name in systems for metric in ("HR@1", "HR@10", "MRR")]
    heads += [f"{name} discov. HR@10" for name in systems]
    definition = str(slicing["definition"])
    said = f"<p>{escape(definition[:1].upper() + definition[1:])}.</p>"
    return said + scroll(chart) + _figures(heads, rows)
