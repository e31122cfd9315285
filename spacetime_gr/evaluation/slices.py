"""Groups of targets that are reported apart: by place, user, hour, distance, mode and category."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.metrics import contributions

SLICE_METRICS = ("hr@1", "hr@10", "mrr")
# Shares of all training visits at which head, middle and tail are cut.
HEAD_SHARE, MIDDLE_SHARE = 0.2, 0.8
DISTANCE_EDGES_KM = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
TOP_CATEGORIES = 10


@dataclass(frozen=True)
class Slicing:
    """One way to group n targets: `code` (n,) int64 is an index into `labels`, -1 where the source does not tell."""

    name: str
    definition: str
    labels: list[str]
    code: np.ndarray


def slicings(instances: Instances, discovery: np.ndarray, catalogue: Catalogue | None) -> list[Slicing]:
    """Every way to group the targets that the source allows.

    Args:
        discovery: (n,) bool, from `Instances.is_discovery`.
        catalogue: None leaves out distances and categories.
    """
    found = [
        _popularity(instances),
        _seen(instances, discovery),
        _activity(instances),
        Slicing(
            "hour",
            "hour of the local day of the target",
            [f"{hour:02d}" for hour in range(24)],
            instances.log.local_hour[instances.target],
        ),
    ]
    if catalogue is not None:
        found.append(_distance(instances, catalogue))
        found += _modes(instances, catalogue)
        if catalogue.category is not None:
            found.append(_category(catalogue.category[instances.target_poi], catalogue.categories))
    return found


def breakdown(
    groups: Sequence[Slicing], ranks: Mapping[str, np.ndarray], discovery: np.ndarray
) -> dict[str, dict[str, Any]]:
    """HR@1, HR@10 and MRR of every system in every group: on all its targets, on returns and on discoveries.

    Returns:
        By slicing: `definition`, and `groups` by label with `num_targets`, `num_returns`, `num_discoveries` and
        `systems`, by name: {"all", "return", "discovery"}, each with the metrics, None where there is no target.
    """
    values = {name: contributions(rank) for name, rank in ranks.items()}
    result: dict[str, dict[str, Any]] = {}
    for slicing in groups:
        num_cells = 2 * len(slicing.labels)
        cell = (2 * slicing.code + discovery)[slicing.code >= 0]
        counts = np.bincount(cell, minlength=num_cells).reshape(-1, 2)
        sums = {
            (name, metric): np.bincount(
                cell, weights=values[name][metric][slicing.code >= 0], minlength=num_cells
            ).reshape(-1, 2)
            for name in ranks
            for metric in SLICE_METRICS
        }
        result[slicing.name] = {
            "definition": slicing.definition,
            "groups": {
                label: {
                    "num_targets": int(counts[row].sum()),
                    "num_returns": int(counts[row, 0]),
                    "num_discoveries": int(counts[row, 1]),
                    "systems": {
                        name: _parts({metric: sums[name, metric][row] for metric in SLICE_METRICS}, counts[row])
                        for name in ranks
                    },
                }
                for row, label in enumerate(slicing.labels)
            },
        }
    return result


def _parts(sums: Mapping[str, np.ndarray], counts: np.ndarray) -> dict[str, dict[str, float | None]]:
    parts = {"all": slice(0, 2), "return": slice(0, 1), "discovery": slice(1, 2)}
    return {
        part: {
            metric: float(values[columns].sum() / counts[columns].sum()) if counts[columns].sum() else None
            for metric, values in sums.items()
        }
        for part, columns in parts.items()
    }


def training_visits(instances: Instances) -> np.ndarray:
    """(num_pois,) int64 training visits of anyone to each place."""
    return np.bincount(instances.log.poi_row[instances.training], minlength=instances.log.num_pois)


def _popularity(instances: Instances) -> Slicing:
    visits = training_visits(instances)
    order = np.argsort(-visits, kind="stable")
    before = np.empty(len(visits))
    before[order] = np.cumsum(visits[order]) - visits[order]  # visits to busier places
    share = before / max(visits.sum(), 1)
    code = (share >= HEAD_SHARE).astype(np.int64) + (share >= MIDDLE_SHARE)
    code[visits == 0] = 3
    return Slicing(
        "popularity",
        f"places by training visits, busiest first: head takes the first {HEAD_SHARE:.0%} of all visits, middle up to "
        f"{MIDDLE_SHARE:.0%}, tail the rest; cold has no training visit. Places: "
        + ", ".join(f"{label} {(code == i).sum():,}" for i, label in enumerate(_POPULARITY)),
        list(_POPULARITY),
        code[instances.target_poi],
    )


_POPULARITY = ("head", "middle", "tail", "cold")


def _seen(instances: Instances, discovery: np.ndarray) -> Slicing:
    log, training = instances.log, instances.training
    pair = log.user * np.int64(log.num_pois) + log.poi_row
    in_training = np.isin(pair[instances.target], pair[training])
    return Slicing(
        "seen",
        "whether the user was at the target's place: in training, only since then, or never (a discovery)",
        ["in training", "since training", "never"],
        np.where(discovery, 2, np.where(in_training, 0, 1)),
    )


def _activity(instances: Instances) -> Slicing:
    log = instances.log
    actions = np.bincount(log.user[instances.training], minlength=log.num_users)
    user = log.user[instances.target]
    low, high = np.quantile(actions[np.unique(user)], [1 / 3, 2 / 3], method="lower") if len(user) else (0, 0)
    return Slicing(
        "activity",
        f"thirds of the users of the targets by training actions: low up to {low}, middle up to {high}, high above",
        ["low", "middle", "high"],
        (actions[user] > low).astype(np.int64) + (actions[user] > high),
    )


def _distance(instances: Instances, catalogue: Catalogue) -> Slicing:
    last = instances.last_place()
    km = catalogue.distance_km(last, instances.target_poi)
    bucket = 1 + np.searchsorted(DISTANCE_EDGES_KM, km, side="right")
    edges = [f"{edge:g}" for edge in DISTANCE_EDGES_KM]
    between = [f"{a}-{b} km" for a, b in pairwise(edges)]
    return Slicing(
        "distance",
        "distance of the target from the user's last known place",
        ["same place", f"under {edges[0]} km", *between, f"{edges[-1]} km and more"],
        np.where(last < 0, -1, np.where(last == instances.target_poi, 0, bucket)),
    )


def _modes(instances: Instances, catalogue: Catalogue) -> Iterator[Slicing]:
    if instances.log.mode is not None:
        code = instances.log.mode[instances.target].astype(np.int64)
        yield Slicing("mode", "the user's mode at the request, as the source states it", catalogue.modes, code)


def _category(category: np.ndarray, names: list[str]) -> Slicing:
    counts = np.bincount(category[category >= 0], minlength=len(names))
    top = np.argsort(-counts, kind="stable")[: min(TOP_CATEGORIES, int((counts > 0).sum()))]
    code_of = np.full(len(names) + 1, len(top))
    code_of[top] = np.arange(len(top))
    code_of[-1] = -1  # a place without a category
    return Slicing(
        "category",
        f"category of the target: the {len(top)} with the most targets, and all others",
        [*(names[i] for i in top), "other"],
        code_of[category],
    )
