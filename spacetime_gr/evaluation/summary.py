"""From rankings to the JSON result: nothing here looks at a score again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from spacetime_gr.evaluation.beyond_accuracy import beyond_accuracy
from spacetime_gr.evaluation.bootstrap import Resampling, bootstrap_ratios, percentile_intervals, user_sums
from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.discovery import discovery_grid
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.metrics import METRICS, contributions, summarise
from spacetime_gr.evaluation.ranking import Ranking
from spacetime_gr.evaluation.slices import Slicing, breakdown

if TYPE_CHECKING:
    from spacetime_gr.evaluation.harness import Task

MODEL = "model"
PARTS = ("all", "return", "discovery", "new_places_only")
T = TypeVar("T")


def model_names(explore_odds: Sequence[float]) -> list[str]:
    """Names of a model's settings of the discovery knob: `model` for the one of the main table (1 if it is among them,
    else the first), `model@ODDS` for the others, in the order given."""
    main = explore_odds.index(1.0) if 1.0 in explore_odds else 0
    return [MODEL if number == main else f"{MODEL}@{odds:g}" for number, odds in enumerate(explore_odds)]


def summarise_rankings(
    instances: Instances,
    rankings: Mapping[str, Ranking],
    models: Sequence[str],
    task: Task,
    target_age: np.ndarray,
    discovery: np.ndarray,
    groups: Sequence[Slicing],
    catalogue: Catalogue | None,
) -> dict[str, Any]:
    """The part of the result that follows from the rankings; its keys are described in docs/evaluate.md.

    Args:
        models: names of the rankings that are a model's settings; empty without a model.
        target_age: (n,) seconds since each user was at his target, from `LastVisits.age`.
        discovery: (n,) bool.
    """
    ks = [min(k, instances.log.num_pois) for k in task.discovery_k]
    main = {name: ranking for name, ranking in rankings.items() if name == MODEL or name not in models}
    ranks = {name: ranking.rank for name, ranking in main.items()}
    grids = {
        name: discovery_grid(ranking.rank, ranking.age, target_age, ks, task.discovery_days)
        for name, ranking in rankings.items()
    }
    metrics = {name: summarise(rank) for name, rank in ranks.items()}
    slices = {name: slice_summaries(rank, discovery) for name, rank in ranks.items()}
    resampling = Resampling(resamples=task.resamples, seed=task.bootstrap_seed)
    user = instances.log.user[instances.target]
    result: dict[str, Any] = {
        "num_targets": len(instances),
        "num_pois": instances.log.num_pois,
        "num_discoveries": int(discovery.sum()),
        "num_users": len(np.unique(user)),
        "baselines": _counters(metrics),
        "baseline_slices": _counters(slices),
        "discovery_rate": {
            "k": ks[0],
            "days": task.discovery_days[0],
            **_by_role({name: {kind: grid[kind][0][0] for kind in ("slots", "hits")} for name, grid in grids.items()}),
            "grid": {"k": ks, "days": list(task.discovery_days), **_by_role(grids)},
        },
        "new_places_only": {
            "num_targets": int(discovery.sum()),
            **_by_role({name: summarise(ranking.new_places_only) for name, ranking in main.items()}),
        },
        "beyond_accuracy": {
            "k": ks[0],
            **_by_role(
                beyond_accuracy(
                    instances, {name: ranking.places[:, : ks[0]] for name, ranking in main.items()}, ranks, catalogue
                )
            ),
        },
        "intervals": {
            "level": resampling.level,
            "resamples": resampling.resamples,
            "seed": resampling.seed,
            "resampled": "users",
            **_by_role(intervals(main, user, discovery, resampling)),
        },
        "breakdown": breakdown(groups, ranks, discovery),
    }
    if models:
        result |= {"metrics": metrics[MODEL], "slices": slices[MODEL], "nll_nats": _nll(rankings[MODEL])}
    if len(models) > 1:
        result["explore_curve"] = [
            {
                "explore_odds": odds,
                "metrics": summarise(rankings[name].rank),
                "slices": slice_summaries(rankings[name].rank, discovery),
                "new_places_only": summarise(rankings[name].new_places_only),
                "discovery_rate": {kind: grids[name][kind][0][0] for kind in ("slots", "hits")},
                "grid": grids[name],
                "nll_nats": _nll(rankings[name]),
            }
            for odds, name in sorted(zip(task.explore_odds, models, strict=True))
        ]
    return result


def slice_summaries(ranks: np.ndarray, discovery: np.ndarray) -> dict[str, dict[str, float | int | None]]:
    """Metrics of returns and of discoveries apart, and how many there are of each."""
    parts = {"return": ranks[~discovery], "discovery": ranks[discovery]}
    return {name: {**summarise(part), "num_targets": len(part)} for name, part in parts.items()}


def intervals(
    rankings: Mapping[str, Ranking], user: np.ndarray, discovery: np.ndarray, resampling: Resampling
) -> dict[str, dict[str, dict[str, list[float] | None]]]:
    """Bootstrap intervals of every metric by system and part (`PARTS`): [low, high], None where there is no target.

    Users are drawn, with all of their targets; the same draws for all systems.

    Args:
        user: (n,) int64 user of each target.
    """
    user = np.unique(user, return_inverse=True)[1]
    num_users = int(user.max(initial=-1)) + 1
    within = dict(zip(PARTS, (np.ones_like(discovery), ~discovery, discovery, discovery), strict=True))
    counts = np.stack([np.bincount(user[rows], minlength=num_users) for rows in within.values()], axis=1)
    sums = []
    for ranking in rankings.values():
        for part, rows in within.items():
            values = contributions((ranking.new_rank if part == "new_places_only" else ranking.rank)[rows])
            sums.append(user_sums(np.stack([values[name] for name in METRICS], axis=1), user[rows], num_users))
    part_of = np.tile(np.repeat(np.arange(len(PARTS)), len(METRICS)), len(rankings))
    draws = bootstrap_ratios(np.concatenate(sums, axis=1), counts.astype(np.float64), part_of, resampling)
    found = percentile_intervals(draws, resampling.level).reshape(len(rankings), len(PARTS), len(METRICS), 2)
    return {
        name: {
            part: {
                metric: None if np.isnan(pair).any() else [float(bound) for bound in pair]
                for metric, pair in zip(METRICS, by_metric, strict=True)
            }
            for part, by_metric in zip(PARTS, by_part, strict=True)
        }
        for name, by_part in zip(rankings, found, strict=True)
    }


def _nll(ranking: Ranking) -> float | None:
    nll = -ranking.score.mean()
    return float(nll) if np.isfinite(nll) else None


def _counters(values: Mapping[str, T]) -> dict[str, T]:
    return {name: value for name, value in values.items() if name.partition("@")[0] != MODEL}


def _by_role(values: Mapping[str, Any]) -> dict[str, Any]:
    """The model's value by itself, if there is a model, and the counters' below `baselines`."""
    model = {MODEL: values[MODEL]} if MODEL in values else {}
    return {**model, "baselines": _counters(values)}
