"""Rank every target with the model and the counters, and summarise: the result of `spacetime-gr evaluate`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spacetime_gr.evaluation.baselines import Scorer, choose_baselines
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.metrics import expected_ranks, summarise
from spacetime_gr.evaluation.protocols import BY_NAME, choose
from spacetime_gr.evaluation.report import slice_summaries

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder

SETTINGS = ("timed", "blind")
MODEL = "model"
# Scores of one chunk of instances, float64: about 128 MB each.
_SCORES_PER_CHUNK = 1 << 24

Progress = Callable[[int, int], None]  # (targets ranked, of; counted for each system)


@dataclass(frozen=True)
class Task:
    """What is measured: the protocol's name, the setting, the state of knowledge, k and m of D(k, m), and how many
    targets at most (a sample with a fixed seed; None: all)."""

    protocol: str = "public"
    setting: str = "timed"
    knowledge: str = "stream"
    discovery_k: int = 10
    discovery_days: float = 30.0
    max_targets: int | None = None

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
            raise ValueError(f"--setting is {self.setting!r}, expected one of {', '.join(SETTINGS)}")
        if self.max_targets is not None and self.max_targets < 1:
            raise ValueError(f"--max-targets is {self.max_targets}, expected at least 1, or leave it out for all")
        if self.discovery_k < 1 or self.discovery_days <= 0:
            raise ValueError(
                f"--discovery-k is {self.discovery_k} and --discovery-days {self.discovery_days:g}; "
                "both must be positive"
            )


class _Tally:
    """What is kept of one scorer, instance by instance."""

    def __init__(self, count: int) -> None:
        self.ranks, self.target_scores, self.new_slots = (np.empty(count) for _ in range(3))


def evaluate_folder(
    folder: PreparedFolder,
    task: Task,
    model: Scorer | None = None,
    ceiling: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    baselines: Mapping[str, Scorer] | None = None,
) -> dict[str, Any]:
    """Evaluate a model (or the counters alone) on the held-out part of a prepared folder.

    Args:
        model: log-probabilities (n, num_pois) of a batch of instances; None leaves the model out.
        ceiling: what `find_truth` gives.
        baselines: scorers beside the counters, by name, such as a fitted cascade.

    Returns:
        The object that `--json` writes; see docs/evaluate.md.

    Raises:
        ValueError: the protocol does not fit the source, or leaves no target.
    """
    source = folder.protocol
    name = choose(task.protocol, source)
    instances = build_instances(BY_NAME[name](EventLog.from_folder(folder)), task.knowledge)
    num_all = len(instances)
    if task.max_targets is not None and num_all > task.max_targets:
        chosen = np.random.default_rng(0).choice(num_all, task.max_targets, replace=False)
        instances = instances.take(np.sort(chosen))  # in rising order of time, as the counters need
    result: dict[str, Any] = {
        "num_targets_in_protocol": num_all,
        "protocol": name,
        "setting": task.setting,
        "knowledge": task.knowledge,
        "source": source,
        "data_fingerprint": fingerprint([folder.path / "manifest.json"]),
        **evaluate_instances(instances, task, model, progress, baselines),
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
) -> dict[str, Any]:
    """The part of the result that depends on the instances only."""
    scorers = choose_baselines(instances.knowledge, task.setting) | dict(baselines or {})
    if model is not None:
        scorers = {MODEL: model, **scorers}
    tallies = {name: _Tally(len(instances)) for name in scorers}
    k = min(task.discovery_k, instances.log.num_pois)
    is_new = np.empty(len(instances), bool)
    done = 0
    for name, scorer in scorers.items():
        tally = tallies[name]
        # The counters need rising times; a model reads a user's history once for all of his targets.
        order = np.argsort(instances.target) if name == MODEL else np.arange(len(instances))
        for rows in _chunks(order, instances.log.num_pois):
            chunk = instances.take(rows)
            visited = chunk.visited_within(task.discovery_days)
            scores = scorer(chunk)
            assert scores.shape == visited.shape
            is_new[rows] = ~np.take_along_axis(visited, chunk.target_poi[:, None], axis=1)[:, 0]
            tally.ranks[rows] = expected_ranks(scores, chunk.target_poi)
            tally.target_scores[rows] = np.take_along_axis(scores, chunk.target_poi[:, None], axis=1)[:, 0]
            top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            tally.new_slots[rows] = 1 - np.take_along_axis(visited, top, axis=1).mean(axis=1)
            done += len(rows)
            if progress is not None:
                progress(done, len(instances) * len(scorers))

    discovery = instances.is_discovery()
    ranks = {name: tally.ranks for name, tally in tallies.items()}
    metrics = {name: summarise(values) for name, values in ranks.items()}
    slices = {name: slice_summaries(values, discovery) for name, values in ranks.items()}
    novelty = {name: _discovery_rate(ranks[name], tally.new_slots, is_new, k) for name, tally in tallies.items()}
    result: dict[str, Any] = {
        "num_targets": len(instances),
        "num_pois": instances.log.num_pois,
        "num_discoveries": int(discovery.sum()),
        "discovery_rate": {"k": k, "days": task.discovery_days, "baselines": novelty},
    }
    if model is not None:
        result |= {"metrics": metrics.pop(MODEL), "slices": slices.pop(MODEL)}
        result["discovery_rate"][MODEL] = novelty.pop(MODEL)
        nll = -tallies[MODEL].target_scores.mean()
        result["nll_nats"] = float(nll) if np.isfinite(nll) else None
    return result | {"baselines": metrics, "baseline_slices": slices}


def _chunks(order: np.ndarray, num_pois: int) -> Iterator[np.ndarray]:
    size = max(1, min(1024, _SCORES_PER_CHUNK // num_pois))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _discovery_rate(ranks: np.ndarray, new_slots: np.ndarray, is_new: np.ndarray, k: int) -> dict[str, float | None]:
    """D(k, m) in both normalisations: share of the top-k slots that are new, and share of the hits that are new."""
    hits = ranks <= k
    return {"slots": float(new_slots.mean()), "hits": float(is_new[hits].mean()) if hits.any() else None}
