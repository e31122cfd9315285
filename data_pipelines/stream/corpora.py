"""The corpora of a stream: prepared folders with weights that share a tokenizer."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.prepared import PreparedFolder
from data_pipelines.stream.hashing import CORPUS, hash_integers
from data_pipelines.stream.settings import as_settings


@dataclass(frozen=True)
class CorpusSettings:
    """A prepared folder and its weight: the chance of a row to come from it is weight / sum of all weights.

    Raises ValueError for a weight that is not a positive number.
    """

    path: str | Path = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | Path) or not str(self.path):
            raise ValueError(f"a corpus needs the path of a prepared folder, got {self.path!r}")
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(f"the weight of {self.path} must be a positive number, got {self.weight}; leave it out")


def as_corpora(data: str | Path | Sequence[Any], what: str) -> tuple[CorpusSettings, ...]:
    """Corpora of one path, or of a list of paths, mappings {path, weight} or settings.

    Raises ValueError for an empty list, an unknown key, and a folder that is named twice.
    """
    if isinstance(data, str | Path):
        return (CorpusSettings(data),)
    corpora = []
    for number, entry in enumerate(data):
        where = f"{what}[{number}]"
        if not isinstance(entry, str | Path | Mapping | CorpusSettings):
            raise ValueError(f"{where} must be a path or {{path, weight}}, got {entry!r}")
        corpora.append(
            CorpusSettings(entry) if isinstance(entry, str | Path) else as_settings(CorpusSettings, entry, where)
        )
    if not corpora:
        raise ValueError(f"{what} is an empty list; expected a prepared folder or several of them")
    paths = [Path(corpus.path).resolve() for corpus in corpora]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise ValueError(f"{what} names {path} twice; give it one entry, with the sum of the weights")
    return tuple(corpora)


def corpus_seed(seed: int, number: int) -> int:
    """Seed of all that is random in corpus `number`; that of the stream itself for the first."""
    return seed if number == 0 else int(hash_integers((seed, CORPUS), np.array([number]))[0])


def check_names_agree(folders: Sequence[PreparedFolder]) -> None:
    """Raises ValueError if the folders number their action types or modes differently: one tokenizer reads them all."""
    first = folders[0]
    for folder in folders[1:]:
        for name in ("actions", "modes"):
            if getattr(folder, name) != getattr(first, name):
                raise ValueError(
                    f"{folder.path} has the {name} {getattr(folder, name)}, {first.path} has {getattr(first, name)}; "
                    "corpora of one stream must share a tokenizer"
                )


def data_fingerprint(folder: PreparedFolder, split: str) -> str:
    """A short hash of what the manifest says of a split's files and of the inputs they were made of."""
    manifest = folder.manifest
    files = [entry for entry in manifest["files"] if entry["split"] == split]
    described = {"files": files, "actions": folder.actions, "fingerprints": manifest.get("fingerprints")}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
