"""The fitted cascade as a scorer of all places, and its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from spacetime_gr.evaluation.cascade.calibration import Calibration
from spacetime_gr.evaluation.cascade.embedding import PlaceEmbedding
from spacetime_gr.evaluation.cascade.features import PairFeatures, coarse_features, fine_features
from spacetime_gr.evaluation.cascade.known import KnownEvents
from spacetime_gr.evaluation.cascade.ranking import CoarseRanker, FineRanker, Pairs
from spacetime_gr.evaluation.cascade.recall import MODEL_LIMITS, recall
from spacetime_gr.evaluation.cascade.requests import Requests
from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.harness import fingerprint
from spacetime_gr.evaluation.instances import Instances

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder

COARSE_LIMIT = 150
CHUNK = 256  # requests at a time: tables over all places take some 2 kB x places each
NUM_BOOSTERS = 3
VERSION = 2
DESCRIPTION, FACTORS = "cascade.json", "place_factors.safetensors"
TREES = tuple(f"fine-{number}.txt" for number in range(NUM_BOOSTERS))


def pool(requests: Requests, embedding: PlaceEmbedding) -> tuple[Pairs, dict[str, np.ndarray]]:
    """What recall names for n requests, and each channel's own (n, num_pois) bool."""
    union, channels = recall(requests, embedding)
    return _pairs(union), channels


@dataclass(frozen=True)
class Candidates:
    """The candidates of n requests: `pool`, what recall named, with the coarse ranker's scores; `final`, what the fine
    ranker is to order: the coarse ranker's best, and what a model names if there is one; `channels`, (n, num_pois) bool
    each, what every channel named."""

    pool: Pairs
    coarse: np.ndarray
    final: Pairs
    channels: dict[str, np.ndarray]


def find_candidates(requests: Requests, embedding: PlaceEmbedding, coarse: CoarseRanker) -> Candidates:
    """Recall, and the coarse cut."""
    pairs, channels = pool(requests, embedding)
    scores = coarse.score(pair_matrix(requests, pairs, embedding, coarse.features))
    final = pairs.take(pairs.best(scores, COARSE_LIMIT))
    if requests.model_scores is not None:
        union, named = recall(requests, embedding, MODEL_LIMITS)
        union[final.row, final.poi] = True
        final, channels = _pairs(union), channels | named
    return Candidates(pairs, scores, final, channels)


def _pairs(chosen: np.ndarray) -> Pairs:
    row, poi = np.nonzero(chosen)
    return Pairs(row, poi, len(chosen))


def pair_matrix(requests: Requests, pairs: Pairs, embedding: PlaceEmbedding, names: tuple[str, ...]) -> np.ndarray:
    """Features of pairs: (m, len(names)) float32."""
    return PairFeatures(requests, pairs.row, pairs.poi, embedding).matrix(names)


@dataclass
class Cascade:
    """Recall, coarse and fine ranking; call it with `Instances`, get (n, num_pois) float64 scores.

    Every place gets a score, so that ranks over the whole catalogue exist: the fine ranker's candidates first, in its
    order, then what the coarse ranker cut, in its order, then all other places by their visits so far.

    calibration: of a cascade that was fitted with a model's scores, which is the ranker of a `RankedModel` and cannot
    be called by itself; else None.
    description: what the folder's JSON holds: how it was fitted, on which data, and how it did on validation.
    """

    catalogue: Catalogue
    timed: bool
    embedding: PlaceEmbedding
    coarse: CoarseRanker
    fine: FineRanker
    calibration: Calibration | None = None
    description: dict[str, Any] = field(default_factory=dict)
    _known: KnownEvents | None = field(default=None, repr=False)

    def __call__(self, instances: Instances) -> np.ndarray:
        """(n, num_pois) float64."""
        scores = np.empty((len(instances), instances.log.num_pois))
        for rows, requests in self.requests(instances):
            found, fine = self.rank(requests)
            scores[rows] = requests.visits_of_all
            _lift(scores[rows], found.pool, found.coarse)
            _lift(scores[rows], found.final, fine)
        return scores

    def requests(
        self, instances: Instances, model_scores: np.ndarray | None = None
    ) -> Iterator[tuple[slice, Requests]]:
        """A few requests at a time, with their rows; `model_scores` (n, num_pois) are a model's log-probabilities."""
        if self._known is None or not self._known.is_of(instances):
            self._known = KnownEvents(instances, self.catalogue)
        for start in range(0, len(instances), CHUNK):
            rows = slice(start, start + CHUNK)
            scores = None if model_scores is None else model_scores[rows]
            yield rows, Requests(instances.take(rows), self._known, self.timed, scores)

    def rank(self, requests: Requests) -> tuple[Candidates, np.ndarray]:
        """The candidates, and the fine ranker's scores of the final ones."""
        found = find_candidates(requests, self.embedding, self.coarse)
        return found, self.fine.score(pair_matrix(requests, found.final, self.embedding, self.fine.features))

    def save(self, folder: Path) -> None:
        """Write the folder: `cascade.json`, `fine-*.txt` (LightGBM's text form), `place_factors.safetensors`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"factors": self.embedding.factors}, folder / FACTORS)
        for name, booster in zip(TREES, self.fine.boosters, strict=True):
            (folder / name).write_text(booster.model_to_string(), encoding="utf-8")
        coarse = {
            name: {"mean": float(mean), "weight": float(weight)}
            for name, mean, weight in zip(self.coarse.features, self.coarse.means, self.coarse.weights, strict=True)
        }
        # The description last: a folder without it is not a cascade.
        calibration = None if self.calibration is None else asdict(self.calibration)
        content = {"version": VERSION, "coarse": coarse, "calibration": calibration, **self.description}
        (folder / DESCRIPTION).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def cascade_files(folder: Path) -> list[Path]:
    """The files that decide what a cascade's folder scores.

    Raises:
        ValueError: one is missing.
    """
    files = [folder / name for name in (DESCRIPTION, *TREES, FACTORS)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(
            f"{folder} holds no {', '.join(missing)}; expected a folder written by this version of `spacetime-gr "
            "cascade --out`; fit the cascade again"
        )
    return files


def load_cascade(path: Path, folder: PreparedFolder, setting: str, *, with_model: bool = False) -> Cascade:
    """Read a cascade that was fitted on this prepared folder, in this setting (timed or blind).

    Args:
        with_model: it was fitted with a model's scores and is to rank a model's candidates.

    Raises:
        ValueError: the packages of the extra are missing, a file is missing or damaged, or the cascade was fitted on
            other data, in the other setting, or with a model where it should be without, or the reverse.
    """
    import_extra()
    import lightgbm

    description_file, *trees, factors = cascade_files(path)
    try:
        description = json.loads(description_file.read_text(encoding="utf-8"))
        version = description.pop("version")
        coarse = description.pop("coarse")
        calibration = description.pop("calibration", None)
        calibration = None if calibration is None else Calibration(**calibration)
        fitted_on, fitted_in = description["data_fingerprint"], description["setting"]
        means, weights = (np.array([entry[key] for entry in coarse.values()], float) for key in ("mean", "weight"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{description_file} is damaged ({error!r}); fit the cascade again") from error
    timed = setting == "timed"
    option = "--ranker" if with_model else "--cascade"
    if with_model != (calibration is not None):
        raise ValueError(
            f"--ranker {path} was fitted without a model: fit one with `spacetime-gr cascade --early-model`"
            if with_model
            else f"--cascade {path} was fitted with a model's scores: give it as --ranker, beside a RUN"
        )
    if fitted_in != setting:
        raise ValueError(
            f"{option} {path} was fitted {fitted_in}, --setting is {setting}: fit one with "
            f"`spacetime-gr cascade --setting {setting}`"
        )
    if version != VERSION or tuple(coarse) != coarse_features(timed):
        raise ValueError(f"{path} was fitted by another version (format {version}); fit the cascade again")
    if fitted_on != fingerprint([folder.path / "manifest.json"]):
        raise ValueError(
            f"{option} {path} was fitted on another prepared folder than {folder.path}; fit it on this one"
        )
    try:
        table = load_file(factors)["factors"]
        boosters = tuple(lightgbm.Booster(model_str=file.read_text(encoding="utf-8")) for file in trees)
    except (SafetensorError, KeyError, ValueError, lightgbm.basic.LightGBMError) as error:
        raise ValueError(f"{path} is damaged ({error}); fit the cascade again") from error
    features = fine_features(timed, with_model)
    if any(tuple(booster.feature_name()) != features for booster in boosters):
        raise ValueError(f"{path} was fitted on other features than this version has; fit the cascade again")
    return Cascade(
        catalogue=Catalogue.from_folder(folder),
        timed=timed,
        embedding=PlaceEmbedding(table),
        coarse=CoarseRanker(coarse_features(timed), means, weights),
        fine=FineRanker(features, boosters),
        calibration=calibration,
        description=description,
    )


def import_extra() -> None:
    """Say how to install what the cascade needs, where it is missing.

    Raises:
        ValueError: a package of the `cascade` extra is not installed.
    """
    try:
        import implicit  # noqa: F401
        import lightgbm  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"the cascade needs {error.name}, which is not installed: pip install 'spacetime-gr[cascade]'"
        ) from error


def _lift(scores: np.ndarray, pairs: Pairs, values: np.ndarray) -> None:
    """Give pairs new scores, in place: all above every score of their row so far, in the order of `values`."""
    if len(pairs.row) == 0:
        return
    lowest = np.full(len(scores), np.inf)
    np.minimum.at(lowest, pairs.row, values)
    top = scores.max(axis=1) + 1
    scores[pairs.row, pairs.poi] = top[pairs.row] + (values - lowest[pairs.row])
