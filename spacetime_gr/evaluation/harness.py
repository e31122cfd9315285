"""Rank every target with the model and the counters, and summarise: the result of `spacetime-gr evaluate`."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spacetime_gr.evaluation.baselines import Scorer, choose_baselines
from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.protocols import BY_NAME, choose
from spacetime_gr.evaluation.ranking import Progress, System, rank_targets
from spacetime_gr.evaluation.records import write_records
from spacetime_gr.evaluation.slices import slicings
from spacetime_gr.evaluation.summary import model_names, summarise_rankings
from spacetime_gr.evaluation.visits import NEVER, LastVisits

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder

SETTINGS = ("timed", "blind")
DISCOVERY_K = (10, 1, 5, 20)
DISCOVERY_DAYS = (30.0, 7.0, 90.0)


@dataclass(frozen=True)
class Task:
    """What is measured: the protocol's name, the setting, the state of knowledge, every k and m of D(k, m) (the first
    of each for the main table), the factors on a model's odds of exploring, how many targets at most (a sample with a
    fixed seed; None: all), how often users are resampled, from which seed, and whether the counters are ranked beside a
    model (they depend on the data alone: repeated runs on the same data may leave them out)."""

    protocol: str = "public"
    setting: str = "timed"
    knowledge: str = "stream"
    discovery_k: tuple[int, ...] = DISCOVERY_K
    discovery_days: tuple[float, ...] = DISCOVERY_DAYS
    explore_odds: tuple[float, ...] = (1.0,)
    max_targets: int | None = None
    resamples: int = 1000
    bootstrap_seed: int = 0
    counters: bool = True

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
            raise ValueError(f"--setting is {self.setting!r}, expected one of {', '.join(SETTINGS)}")
        if self.max_targets is not None and self.max_targets < 1:
            raise ValueError(f"--max-targets is {self.max_targets}, expected at least 1, or leave it out for all")
        if self.resamples < 1:
            raise ValueError(f"--resamples is {self.resamples}, expected at least 1")
        for option, values in (
            ("--discovery-k", self.discovery_k),
            ("--discovery-days", self.discovery_days),
            ("--explore-odds", self.explore_odds),
        ):
            if not values or not all(0 < value < math.inf for value in values) or len(set(values)) < len(values):
                given = " ".join(f"{value:g}" for value in values)
                raise ValueError(f"{option} is {given or 'empty'}; expected positive numbers, each once")


def evaluate_folder(
    folder: PreparedFolder,
    task: Task,
    model: Scorer | None = None,
    ceiling: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    baselines: Mapping[str, Scorer] | None = None,
    records: Path | None = None,
) -> dict[str, Any]:
    """Evaluate a model (or the counters alone) on the held-out part of a prepared folder.

    Args:
        model: log-probabilities of a batch of instances, (n, num_pois), or (settings, n, num_pois) where the task has
            several `explore_odds`; None leaves the model out.
        ceiling: what `find_truth` gives.
        baselines: scorers beside the counters, by name, such as a fitted cascade.
        records: Parquet file for the results target by target; None writes none.

    Returns:
        The object that `--json` writes; see docs/evaluate.md.

    Raises:
        ValueError: the protocol does not fit the source, or leaves no target.
    """
    source = folder.protocol
    name = choose(task.protocol, source)
    instances = build_instances(BY_NAME[name](EventLog.from_folder(folder)), task.knowledge)
    num_all = len(instances)
    if task.max_targets is not None:
        instances = instances.sample(task.max_targets, np.random.default_rng(0))
    result: dict[str, Any] = {
        "num_targets_in_protocol": num_all,
        "protocol": name,
        "setting": task.setting,
        "knowledge": task.knowledge,
        "source": source,
        "data_fingerprint": fingerprint([folder.path / "manifest.json"]),
        **evaluate_instances(
            instances, task, model, progress, baselines, catalogue=Catalogue.from_folder(folder), records=records
        ),
    }
    if ceiling is not None:
        result["ceiling"] = dict(ceiling)
    return result


def fingerprint(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def evaluate_instances(
    instances: Instances,
    task: Task,
    model: Scorer | None = None,
    progress: Progress | None = None,
    baselines: Mapping[str, Scorer] | None = None,
    *,
    catalogue: Catalogue | None = None,
    records: Path | None = None,
) -> dict[str, Any]:
    """The part of the result that depends on the instances only.

    Args:
        baselines: scorers beside the counters, by name.
        catalogue: None leaves out what needs the coordinates or categories of places.
    """
    if model is None and not task.counters and not baselines:
        raise ValueError("neither a model nor counters nor other baselines: there is nothing to rank")
    models = model_names(task.explore_odds) if model is not None else []
    counters = choose_baselines(instances.knowledge, task.setting) if task.counters else {}
    others = counters | dict(baselines or {})
    systems = [System((name,), scorer) for name, scorer in others.items()]
    if model is not None:
        systems.insert(0, System(models, model, by_user=True))
    last_visits = LastVisits(instances.log)
    k = min(max(task.discovery_k), instances.log.num_pois)
    rankings = rank_targets(instances, systems, k, last_visits, progress)
    target_age = last_visits.age(instances.log.user[instances.target], instances.target_poi, instances.target_time)
    discovery = target_age == NEVER
    groups = slicings(instances, discovery, catalogue)
    if records is not None:
        write_records(records, instances, target_age, discovery, groups, rankings, models)
    return summarise_rankings(instances, rankings, models, task, target_age, discovery, groups, catalogue)
