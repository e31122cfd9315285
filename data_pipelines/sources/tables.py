"""Generic tables of events and POIs: CSV, TSV, JSON lines or Parquet, text also as .gz.

Either one file of events whose rows carry the coordinates of their POI, or a folder with `events.*` (or `checkins.*`;
several files in a folder of that name, nested or not, are read in order of name) and optionally `pois.*`. `simulated`
is the folder that `spacetime-gr simulate` writes: the same tables, and a `truth.json` that states the split.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from data_pipelines.sources.base import Origin, PoiEmbeddings, RawSource, TimeBoundaries
from data_pipelines.sources.files import find, require_columns
from data_pipelines.sources.reading import TABLE_SUFFIXES, Reader, column_names, kind

# Canonical name -> names under which it is accepted, the first one preferred.
_EVENT_NAMES = {
    "user_id": ("user_id",),
    "poi_id": ("poi_id",),
    "action": ("action",),
    "timestamp": ("timestamp", "timestamp_utc"),
    "tz_offset_minutes": ("tz_offset_minutes",),
    "latitude": ("latitude",),
    "longitude": ("longitude",),
    "category": ("category",),
    "name": ("name",),
    "user_latitude": ("user_latitude",),
    "user_longitude": ("user_longitude",),
    "mode": ("mode",),
}
_POI_NAMES = {name: (name,) for name in ("poi_id", "latitude", "longitude", "category", "name")}
_FILE_PATTERNS = [f"*{suffix}{packed}" for suffix in TABLE_SUFFIXES for packed in ("", ".gz")]


def locate(path: Path) -> Origin:
    """The event and POI files at a path.

    Raises:
        ValueError: if there are no event files.
    """
    if path.is_file():
        return Origin(root=path.parent, events=(path,))
    events = _tables(path, "events") or _tables(path, "checkins")
    if not events:
        raise ValueError(
            f"{path} holds no events: expected events.csv, events.jsonl, events.parquet "
            "or a folder events/ of such files"
        )
    array = path / "pois_embeddings.npy"
    return Origin(
        root=path, events=events, pois=_tables(path, "pois"), poi_embeddings=array if array.is_file() else None
    )


def locate_simulated(path: Path) -> Origin:
    """The files of a simulated city.

    Raises:
        ValueError: if it is not a folder with events, POIs and truth.json.
    """
    if path.is_file():
        raise ValueError(f"{path} is a file: --format simulated needs the folder that `spacetime-gr simulate` wrote")
    origin = locate(path)
    truth = path / "truth.json"
    if not origin.pois or not truth.is_file():
        raise ValueError(f"{path} is not a simulated city: expected events.parquet, pois.parquet and truth.json in it")
    return replace(origin, extra=(truth,))


def read(origin: Origin, reader: Reader) -> RawSource:
    """Open the tables.

    Raises:
        ValueError: if a file lacks a required column or cannot be read.
    """
    required = ["user_id", "poi_id", "timestamp"]
    located = ["latitude", "longitude"]
    required_of_events = required + ([] if origin.pois else located)
    events = reader.table(origin.events, origin, lambda file: columns_of(file, _EVENT_NAMES, required_of_events))
    pois = None
    if origin.pois:
        pois = reader.table(origin.pois, origin, lambda file: columns_of(file, _POI_NAMES, ["poi_id", *located]))
    return RawSource(events=events, pois=pois, malformed=reader.malformed, poi_embeddings=_embeddings(origin))


def read_simulated(origin: Origin, reader: Reader) -> RawSource:
    """Open a simulated city with the split that its truth.json states, if it states one."""
    (truth,) = origin.extra
    source = read(origin, reader)
    try:
        stated = json.loads(truth.read_text(encoding="utf-8")).get("split")
        boundaries = stated and TimeBoundaries(int(stated["train_end"]), int(stated["validation_end"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{truth} is not as expected ({error!r}): its key "split" must be an object with train_end and '
            "validation_end in unix seconds; simulate the city again"
        ) from error
    return replace(source, boundaries=boundaries or None)


def _embeddings(origin: Origin) -> PoiEmbeddings | None:
    """Raises ValueError if an array lies beside anything but one Parquet file of POIs, or beside a column as well."""
    parquet = [file for file in origin.pois if kind(file) == "parquet"]
    with_column = [file for file in parquet if "embedding" in pq.read_schema(file).names]
    if origin.poi_embeddings is None:
        return PoiEmbeddings({origin.name(file): file for file in with_column}, array=None) if with_column else None
    if len(origin.pois) != 1 or len(parquet) != 1 or with_column:
        raise ValueError(
            f"{origin.poi_embeddings} needs one pois.parquet beside it without a column embedding: "
            "its rows are those of that file"
        )
    return PoiEmbeddings({origin.name(parquet[0]): parquet[0]}, origin.poi_embeddings)


def _tables(folder: Path, stem: str) -> tuple[Path, ...]:
    inner = folder / stem
    if inner.is_dir():
        return tuple(
            file for file in find(inner, [f"**/{pattern}" for pattern in _FILE_PATTERNS]) if not _hidden(file, inner)
        )
    files = find(folder, [f"{stem}{suffix}{packed}" for suffix in TABLE_SUFFIXES for packed in ("", ".gz")])
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ValueError(f"{folder} holds several tables of {stem} ({names}); keep one, or put the parts in {inner}/")
    return files


def _hidden(file: Path, folder: Path) -> bool:
    """Whether a writer's own files are meant: `_temporary/`, `.part.crc` and the like."""
    return any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)


def columns_of(file: Path, names: Mapping[str, Sequence[str]], required: Sequence[str]) -> dict[str, str]:
    """Which column of a file is which: canonical name -> name in the file.

    Args:
        file: CSV, TSV, JSON lines or Parquet.
        names: canonical name -> names under which it is accepted.
        required: canonical names that must be there.

    Raises:
        ValueError: a required column is missing, or the file cannot be read.
    """
    found = column_names(file)
    if found is None:  # JSON lines: a field that is not there is null
        return {canonical: accepted[0] for canonical, accepted in names.items()}
    columns = {
        canonical: next(name for name in accepted if name in found)
        for canonical, accepted in names.items()
        if any(name in found for name in accepted)
    }
    require_columns(file, list(dict.fromkeys([*found, *columns])), required)
    return columns
