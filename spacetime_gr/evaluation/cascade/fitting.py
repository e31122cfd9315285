"""Fit a cascade on the training part of a prepared folder, and on nothing else.

The training part is cut in time into three. The first is history only: the place factors that the ranker trains with
are fitted on it. The second gives the ranker's training requests, every event of a known user at a known place, each
with all that came strictly before it. The third is validation: its targets follow the protocol's own rule, it stops
the boosting and picks the point of the grid. The folder's validation and test events are cut off before anything else.
At the end the place factors are fitted again, on the whole training part.

With an early model the first part is what that model was trained on, its candidates join those of the cascade, and the
fine ranker is given its scores: the ranker of a generative model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spacetime_gr.evaluation.baselines import Scorer
from spacetime_gr.evaluation.cascade.calibration import Calibration, Rest
from spacetime_gr.evaluation.cascade.early_model import EarlyModel
from spacetime_gr.evaluation.cascade.embedding import PlaceEmbedding
from spacetime_gr.evaluation.cascade.features import coarse_features, fine_features
from spacetime_gr.evaluation.cascade.known import KnownEvents
from spacetime_gr.evaluation.cascade.ranking import CoarseRanker, FineRanker, Pairs
from spacetime_gr.evaluation.cascade.recall import LIMITS, MODEL_LIMITS
from spacetime_gr.evaluation.cascade.requests import Requests
from spacetime_gr.evaluation.cascade.scorer import (
    CHUNK,
    COARSE_LIMIT,
    NUM_BOOSTERS,
    Cascade,
    find_candidates,
    import_extra,
    pair_matrix,
    pool,
)
from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.harness import fingerprint
from spacetime_gr.evaluation.inner_split import inner_instances, time_at, training_log
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.metrics import HIT_CUTOFFS
from spacetime_gr.evaluation.protocols import BY_NAME, choose, time_split
from spacetime_gr.evaluation.ranking import Progress

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder

RANKER_FROM, VALIDATION_FROM = 0.55, 0.88  # shares of the training events, in time
MAX_REQUESTS, MAX_COARSE_REQUESTS, MAX_VALIDATION_REQUESTS = 4_000, 1_500, 1_500
COARSE_NEGATIVES = 20  # per request
GRID: tuple[Mapping[str, Any], ...] = tuple({"num_leaves": leaves} for leaves in (7, 15, 31))

Report = Callable[[str], None]


@dataclass(frozen=True)
class _Part:
    """Requests of one part of the training events, in the order of users, with the factors fitted on what came before
    the part."""

    instances: Instances
    known: KnownEvents
    embedding: PlaceEmbedding
    timed: bool

    def chunks(self, model: Scorer | None = None) -> Iterator[tuple[slice, Requests]]:
        """A few requests at a time, since their tables run over all places."""
        for start in range(0, len(self.instances), CHUNK):
            rows = slice(start, start + CHUNK)
            chosen = self.instances.take(rows)
            yield rows, Requests(chosen, self.known, self.timed, None if model is None else model(chosen))


@dataclass(frozen=True)
class _Found:
    """Candidates of requests: `features` (m, f) and `is_target` (m,) of the `pairs`, what each step of recall found,
    and with a model what all other places weigh."""

    features: np.ndarray
    is_target: np.ndarray
    pairs: Pairs
    recalled: dict[str, Any]
    rest: Rest | None

    def data(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, whether each pair is the target, and pairs per request: what a fine ranker is fitted to."""
        group = np.bincount(self.pairs.row, minlength=self.pairs.num_requests)
        return self.features, self.is_target, group[group > 0]


def fit_cascade(
    folder: PreparedFolder,
    *,
    protocol: str = "public",
    setting: str = "timed",
    seed: int = 0,
    early_model: EarlyModel | None = None,
    report: Report = print,
    progress: Progress | None = None,
) -> Cascade:
    """Fit and tune a cascade, or the ranker of a generative model.

    Args:
        protocol, setting: as for `spacetime-gr evaluate`; the protocol's rule makes the validation targets.
        early_model: gives the scores that a ranker of a model's candidates learns from, in the same setting.
        report: is told what is being done.
        progress: is told how many requests have got the features of their candidates, and of how many.

    Raises:
        ValueError: the extra is not installed, the protocol does not fit the source, the training part is too small to
            be cut in three, or the early model's training ends outside of the part that it may end in.
    """
    if setting not in ("timed", "blind"):
        raise ValueError(f"--setting is {setting!r}, expected timed or blind")
    import_extra()
    timed = setting == "timed"
    name = choose(protocol, folder.protocol)
    catalogue = Catalogue.from_folder(folder)
    log = training_log(BY_NAME[name](EventLog.from_folder(folder)))  # the held-out part is out of reach from here on
    start, middle, end = (time_at(log, share) for share in (RANKER_FROM, VALIDATION_FROM, 1.0))
    if early_model is not None:
        start = early_model.until
        if not log.timestamp.min() < start < middle:
            raise ValueError(
                f"the early model was trained up to {start} (Unix seconds), expected a moment within the training "
                f"events, after {log.timestamp.min()} and before the last {1 - VALIDATION_FROM:.0%} of them, which "
                f"begin at {middle}; prepare --early-data so that about {RANKER_FROM:.0%} of them train"
            )
    rng = np.random.default_rng(seed)
    requests = inner_instances(log, (start, middle), time_split).sample(MAX_REQUESTS, rng)
    validation = inner_instances(log, (middle, end), BY_NAME[name]).sample(MAX_VALIDATION_REQUESTS, rng)
    # In the order of users: a model reads a history once for targets that stand near each other.
    learn, check = (
        _part(instances.take(np.argsort(instances.target)), catalogue, timed, seed)
        for instances in (requests, validation)
    )

    few = replace(learn, instances=learn.instances.sample(MAX_COARSE_REQUESTS, rng))
    report(f"coarse ranker: {len(few.instances):,} requests")
    coarse = _fit_coarse(few, coarse_features(timed), rng, seed)
    report(f"features of the candidates: {len(learn.instances):,} and {len(check.instances):,} requests")
    names = fine_features(timed, early_model is not None)
    total = len(learn.instances) + len(check.instances)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    learn_found = _candidates(learn, coarse, names, early_model, tell, complete=True)
    check_found = _candidates(check, coarse, names, early_model, lambda done: tell(len(learn.instances) + done))
    target = check.instances.target_poi

    def fit_fine(point: Mapping[str, Any], seeds: range) -> FineRanker:
        return FineRanker.fit(names, learn_found.data(), check_found.data(), point, seeds)

    def figures(fine: FineRanker) -> dict[str, float]:
        ranks = check_found.pairs.target_ranks(fine.score(check_found.features), target)
        return {f"hr@{k}": float((ranks <= k).mean()) for k in HIT_CUTOFFS} | {"mrr": float((1 / ranks).mean())}

    # No seed of trees in common with the next seed of all.
    grid, first_seed = [], seed * NUM_BOOSTERS
    for point in GRID:
        fine = fit_fine(point, range(first_seed, first_seed + 1))
        rounds = fine.boosters[0].num_trees()
        grid.append({**point, "rounds": rounds, **figures(fine)})
        report(f"fine ranker {dict(point)}: {rounds} rounds, MRR {grid[-1]['mrr']:.4f} on validation")
    chosen = GRID[max(range(len(GRID)), key=lambda number: grid[number]["mrr"])]
    fine = fit_fine(chosen, range(first_seed, first_seed + NUM_BOOSTERS))
    report(f"{NUM_BOOSTERS} of {dict(chosen)}: MRR {figures(fine)['mrr']:.4f} on validation")
    calibration = None
    if check_found.rest is not None:
        is_new = check_found.features[:, names.index("is_new")] > 0
        scores = fine.score(check_found.features)
        calibration = Calibration.fit(check_found.pairs, scores, is_new, target, check_found.rest)
    description = {
        "setting": setting,
        "protocol": name,
        "seed": seed,
        "data_fingerprint": fingerprint([folder.path / "manifest.json"]),
        "early_model": None if early_model is None else {"until": start, "fingerprint": early_model.fingerprint},
        "recall_limits": dict(LIMITS if early_model is None else LIMITS | MODEL_LIMITS),
        "coarse_limit": COARSE_LIMIT,
        "num_requests": {"ranker": len(learn.instances), "validation": len(check.instances)},
        "recall_on_validation": check_found.recalled,
        "chosen": dict(chosen),
        "grid_on_validation": grid,
        "chosen_on_validation": figures(fine),
    }
    embedding = PlaceEmbedding.fit(log.user, log.poi_row, log.num_users, log.num_pois, seed)
    return Cascade(catalogue, timed, embedding, coarse, fine, calibration, description)


def _part(instances: Instances, catalogue: Catalogue, timed: bool, seed: int) -> _Part:
    earlier = instances.log.select(instances.training)
    embedding = PlaceEmbedding.fit(earlier.user, earlier.poi_row, earlier.num_users, earlier.num_pois, seed)
    return _Part(instances, KnownEvents(instances, catalogue), embedding, timed)


def _fit_coarse(part: _Part, names: tuple[str, ...], rng: np.random.Generator, seed: int) -> CoarseRanker:
    """Every request's target against a few of its other candidates, drawn evenly.

    Returns and discoveries weigh the same in all: an unweighted fit sees seven returns of ten and cuts the discoveries.
    """
    discovery = part.instances.is_discovery()
    share = max(discovery.mean(), 1 / len(discovery))
    request_weight = np.where(discovery, 0.5 / share, 0.5 / max(1 - share, 1 / len(discovery)))
    matrices, labels, weights = [], [], []
    for rows, requests in part.chunks():
        pairs, _ = pool(requests, part.embedding)
        label = pairs.poi == part.instances.target_poi[rows][pairs.row]
        keep = pairs.best(np.where(label, 2.0, rng.random(len(label))), COARSE_NEGATIVES + 1)
        matrices.append(pair_matrix(requests, pairs.take(keep), part.embedding, names))
        labels.append(label[keep])
        weights.append(request_weight[rows][pairs.row[keep]])
    label = np.concatenate(labels)
    if not label.any():
        raise ValueError("recall found the target of no training request; the training part is too small for a cascade")
    return CoarseRanker.fit(names, np.concatenate(matrices), label, np.concatenate(weights), seed)


def _candidates(
    part: _Part,
    coarse: CoarseRanker,
    names: tuple[str, ...],
    model: Scorer | None,
    tell: Callable[[int], None],
    complete: bool = False,
) -> _Found:
    """Candidates of the fine ranker for all requests of a part.

    `tell` is told how many requests are done. `complete`, for training, leaves out requests whose target is no
    candidate (nothing can be learnt from those) and what the other places weigh.
    """
    matrices, row, poi, rest = [], [], [], []
    found: dict[str, list[np.ndarray]] = {}
    sizes: dict[str, list[np.ndarray]] = {}
    for rows, requests in part.chunks(model):
        candidates = find_candidates(requests, part.embedding, coarse)
        final, channels = candidates.final, candidates.channels
        target = part.instances.target_poi[rows]
        for step, members in (("to the coarse ranker", candidates.pool), ("to the fine ranker", final)):
            hits = members.row[members.poi == target[members.row]]
            found.setdefault(step, []).append(np.isin(np.arange(len(target)), hits))
            sizes.setdefault(step, []).append(np.bincount(members.row, minlength=len(target)))
        for step, chosen in channels.items():
            found.setdefault(step, []).append(np.take_along_axis(chosen, target[:, None], axis=1)[:, 0])
            sizes.setdefault(step, []).append(chosen.sum(axis=1))
        if requests.model_scores is not None and not complete:
            rest.append(Rest.of(requests.model_scores, final, target))
        if complete:
            final = final.take(found["to the fine ranker"][-1][final.row])
        matrices.append(pair_matrix(requests, final, part.embedding, names))
        row.append(final.row + rows.start)
        poi.append(final.poi)
        tell(min(rows.stop, len(part.instances)))
    pairs = Pairs(np.concatenate(row), np.concatenate(poi), len(part.instances))
    label = pairs.poi == part.instances.target_poi[pairs.row]
    discovery = part.instances.is_discovery()
    recalled = {step: _recall(np.concatenate(found[step]), np.concatenate(sizes[step]), discovery) for step in found}
    return _Found(np.concatenate(matrices), label, pairs, recalled, Rest.join(rest) if rest else None)


def _recall(found: np.ndarray, size: np.ndarray, discovery: np.ndarray) -> dict[str, float | None]:
    """Share of the targets (n,) that are among the candidates, and how many candidates there are on average."""
    parts = {"all": np.ones_like(discovery), "return": ~discovery, "discovery": discovery}
    shares = {part: float(found[rows].mean()) if rows.any() else None for part, rows in parts.items()}
    return {**shares, "candidates": float(size.mean())}
