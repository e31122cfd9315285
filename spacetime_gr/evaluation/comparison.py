"""Systems side by side: mean and spread over seeds, and paired tests where two systems answered the same questions."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spacetime_gr.evaluation.bootstrap import (
    Resampling,
    bootstrap_ratios,
    percentile_intervals,
    sign_flip_p_values,
    user_sums,
)
from spacetime_gr.evaluation.metrics import METRICS, contributions
from spacetime_gr.evaluation.records import Records, read_records, records_path
from spacetime_gr.evaluation.summary import MODEL

# What makes two results answers to one question, and how each is called in a message.
_QUESTION = ("protocol", "knowledge", "setting", "data_fingerprint", "num_targets")
TESTED = ("hr@1", "hr@10", "mrr")


@dataclass(frozen=True)
class Run:
    """One result of `spacetime-gr evaluate`: its JSON, and its targets if their file stands beside it."""

    path: Path
    result: dict[str, Any]
    records: Records | None


@dataclass(frozen=True, eq=False)
class Row:
    """One system of a comparison.

    run: the first of the runs it was read from. values: figures of each seed by column, see `figures`. ranks:
    (seeds, n) float64 of the targets, None where a file of targets is missing or is of other targets. intervals:
    bootstrap intervals of the first run by part and metric. curve: the first run's settings of the knob, if there are
    several.
    """

    name: str
    run: Run
    values: list[dict[str, float | None]]
    ranks: np.ndarray | None
    intervals: Mapping[str, Any]
    curve: list[dict[str, Any]] = field(default_factory=list)

    def mean(self, column: str) -> float | None:
        """Mean over the seeds; None where no seed has a value."""
        present = self.present(column)
        return statistics.fmean(present) if present else None

    def spread(self, column: str) -> float | None:
        """Standard deviation over the seeds (n - 1); None with fewer than two."""
        present = self.present(column)
        return statistics.stdev(present) if len(present) > 1 else None

    def present(self, column: str) -> list[float]:
        """The values of the seeds that have one."""
        return [value for values in self.values if (value := values.get(column)) is not None]


@dataclass(frozen=True)
class Difference:
    """System minus reference over the same targets: means, intervals and p-values by metric.

    why_not: why there is no test, else empty.
    """

    name: str
    why_not: str = ""
    means: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    p_values: Mapping[str, float] = field(default_factory=dict)


def read_groups(given: Sequence[str]) -> dict[str, list[Run]]:
    """Runs by name from `FILE`, `FOLDER`, or `NAME=` and either of them or several, separated by commas.

    A folder stands for every eval*.json below it. Without a name the path gives it.

    Raises:
        ValueError: a file is missing or is no result, a name is given twice, or the runs of a group answered different
            questions.
    """
    groups: dict[str, list[Run]] = {}
    for text in given:
        # An equals sign may be part of a path.
        name, separator, paths = ("", "", text) if Path(text).exists() else text.partition("=")
        parts = [Path(part) for part in (paths if separator else text).split(",")]
        name = name if separator else _name(parts[0])
        files = [file for part in parts for file in _files(part)]
        if name in groups:
            raise ValueError(f"two systems are called {name!r}; give them names: NAME=FILE")
        groups[name] = [_read(file) for file in files]
        for run in groups[name][1:]:
            if reason := different_question(run.result, groups[name][0].result):
                raise ValueError(f"{run.path} and {groups[name][0].path} are no seeds of one system: {reason}")
    return groups


def different_question(result: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """Why two results cannot be compared, empty if they can."""
    return "; ".join(
        f"{key.replace('_', ' ')} {_short(result.get(key))} against {_short(reference.get(key))}"
        for key in _QUESTION
        if result.get(key) != reference.get(key)
    )


def rows(groups: Mapping[str, Sequence[Run]]) -> list[Row]:
    """One row per group that has a model, then one per counter (once per question).

    The discovery rate is that of the first group's k and m; a row of others has none.
    """
    first = next(iter(groups.values()))[0]
    rate = {name: first.result["discovery_rate"][name] for name in ("k", "days")}
    found = [_row(name, runs, MODEL, rate) for name, runs in groups.items() if "metrics" in runs[0].result]
    seen: set[tuple[Any, ...]] = set()
    for run in (runs[0] for runs in groups.values()):
        # What a counter scores does not depend on whether the time is hidden from a model.
        question = tuple(run.result[key] for key in _QUESTION if key != "setting")
        other = question != tuple(first.result[key] for key in _QUESTION if key != "setting")
        suffix = f" ({run.result['protocol']}, {run.result['knowledge']})" if other else ""
        for name in run.result["baselines"]:
            if (name, *question) not in seen:
                seen.add((name, *question))
                found.append(_row(name + suffix, [run], name, rate))
    return found


def figures(result: Mapping[str, Any], system: str, rate: Mapping[str, float]) -> dict[str, float | None]:
    """The figures of one system in a result by column: `METRICS`, and some of other parts of the result.

    Args:
        rate: the k and m (`days`) of the discovery rate; if the result has others, `slots` and `hr@k` are None.
    """
    same = all(result["discovery_rate"][name] == value for name, value in rate.items())
    if system == MODEL:
        metrics, slices = result["metrics"], result["slices"]
    else:
        metrics, slices = result["baselines"][system], result["baseline_slices"][system]
    return {
        **{name: metrics.get(name) for name in METRICS},
        "returns": slices["return"]["hr@10"],
        "discoveries": slices["discovery"]["hr@10"],
        "new_only": _part(result["new_places_only"], system)["hr@10"],
        "slots": _part(result["discovery_rate"], system)["slots"] if same else None,
        "hr@k": _part(result["discovery_rate"]["grid"], system)["hr"][0] if same else None,
    }


def _part(values: Mapping[str, Any], system: str) -> Any:
    return values[MODEL] if system == MODEL else values["baselines"][system]


def compare_with(system: Row, reference: Row, resampling: Resampling) -> Difference:
    """Paired tests of a system against a reference.

    The value of a target is its mean over the seeds of a system, so the test is about these trained models together.
    Interval: percentile bootstrap over users of the mean difference. p: `sign_flip_p_values`, users as units.
    """
    if reason := different_question(system.run.result, reference.run.result):
        return Difference(system.name, reason)
    ours, theirs = system.run.records, reference.run.records
    if ours is None or theirs is None or system.ranks is None or reference.ranks is None:
        missing = " and ".join(str(records_path(row.run.path)) for row in (system, reference) if row.ranks is None)
        return Difference(system.name, f"no results target by target, or other targets between seeds: {missing}")
    if not ours.same_targets(theirs):
        return Difference(system.name, "other targets")
    users = np.unique(ours.identity["user_hash"], return_inverse=True)[1]
    num_users = int(users.max(initial=-1)) + 1
    values = _mean_values(system.ranks) - _mean_values(reference.ranks)
    sums = user_sums(values, users, num_users)
    counts = np.bincount(users, minlength=num_users).astype(np.float64)[:, None]
    draws = bootstrap_ratios(sums, counts, np.zeros(len(TESTED), np.int64), resampling)
    found = percentile_intervals(draws, resampling.level)
    return Difference(
        system.name,
        means=dict(zip(TESTED, values.mean(axis=0).tolist(), strict=True)),
        intervals={metric: (float(low), float(high)) for metric, (low, high) in zip(TESTED, found, strict=True)},
        p_values=dict(zip(TESTED, sign_flip_p_values(sums, resampling).tolist(), strict=True)),
    )


def _mean_values(ranks: np.ndarray) -> np.ndarray:
    """(n, TESTED) contributions of each target, averaged over the seeds of ranks (seeds, n)."""
    values = contributions(ranks)
    return np.stack([values[name].mean(axis=0) for name in TESTED], axis=1)


def _row(name: str, runs: Sequence[Run], system: str, rate: Mapping[str, float]) -> Row:
    first, values = runs[0], [figures(run.result, system, rate) for run in runs]
    ranks = [
        run.records.ranks[system]
        for run in runs
        if run.records is not None and first.records is not None and run.records.same_targets(first.records)
    ]
    has_curve = system == MODEL and values[0]["slots"] is not None
    return Row(
        name=name,
        run=first,
        values=values,
        ranks=np.stack(ranks) if len(ranks) == len(runs) else None,
        intervals=_part(first.result["intervals"], system),
        curve=first.result.get("explore_curve", []) if has_curve else [],
    )


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.rglob("eval*.json"))
    if not found:
        raise ValueError(f"no eval*.json below {path}: expected results of `spacetime-gr evaluate --json`")
    return found


def _name(path: Path) -> str:
    """`runs/nyc/eval.json` is called nyc, `results/sasrec.json` sasrec, `out/full` full."""
    return path.parent.resolve().name if path.name == "eval.json" else path.resolve().stem


def _read(path: Path) -> Run:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a result of `spacetime-gr evaluate --json`")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON ({error}); evaluate again") from error
    if not isinstance(result, dict) or not {"baselines", "intervals", "discovery_rate"} <= result.keys():
        raise ValueError(
            f"{path} is not a result of this version of `spacetime-gr evaluate --json` (no baselines or intervals "
            "in it); evaluate again"
        )
    records = records_path(path)
    return Run(path, result, read_records(records) if records.is_file() else None)


def _short(value: object) -> str:
    text = f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 20 else f"{text[:8]}..."
