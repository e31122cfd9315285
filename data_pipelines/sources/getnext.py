"""The ready-made splits of GETNext, STHGCN and LLM4POI: one CSV file per part, with trajectory ids.

`*_train*.csv`, `*_val.csv` and `*_test.csv` (or .gz) in one folder. Trajectory numbers run through validation and test
together, and start anew in the training file, so the same number there is another trajectory.
"""

from pathlib import Path

import ibis

from data_pipelines.sources.base import Origin, RawSource
from data_pipelines.sources.files import find, require_columns
from data_pipelines.sources.reading import Reader, column_names, union

_PATTERNS = {
    "train": ("*_train*.csv", "*_train*.csv.gz"),
    "validation": ("*_val.csv", "*_val.csv.gz"),
    "test": ("*_test.csv", "*_test.csv.gz"),
}
_REQUIRED = {
    "user_id": "user_id",
    "poi_id": "POI_id",
    "category": "POI_catname",
    "latitude": "latitude",
    "longitude": "longitude",
    "timestamp": "UTC_time",
    "trajectory": "trajectory_id",
}
_OPTIONAL = {"tz_offset_minutes": "timezone"}


def _parts(folder: Path) -> dict[str, list[Path]]:
    # The id dictionaries that lie beside the splits (`*_dict.csv`) match the pattern of the training file.
    return {
        part: [file for file in find(folder, patterns) if "_dict." not in file.name]
        for part, patterns in _PATTERNS.items()
    }


def locate(path: Path) -> Origin:
    """The split files of a folder.

    Raises:
        ValueError: if a part has no file or several.
    """
    if path.is_file():
        raise ValueError(
            f"{path} is a file: --format getnext needs the folder that holds the train, val and test files"
        )
    parts = _parts(path)
    for part, files in parts.items():
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"{path} must hold one {part} file named like {_PATTERNS[part][0]}, found: {found}")
    return Origin(root=path, events=tuple(files[0] for files in parts.values()))


def read(origin: Origin, reader: Reader) -> RawSource:
    """Open the three files; the column `part` is the split."""
    tables = []
    for part, file in zip(_PATTERNS, origin.events, strict=True):
        found = column_names(file)
        assert found is not None
        require_columns(file, found, list(_REQUIRED.values()))
        columns = _REQUIRED | {new: old for new, old in _OPTIONAL.items() if old in found}
        table = reader.text(file, origin.name(file), columns)
        numbering = "train/" if part == "train" else "later/"
        tables.append(table.mutate(part=ibis.literal(part), trajectory=ibis.literal(numbering) + table.trajectory))
    return RawSource(events=union(tables), malformed=reader.malformed, keep_duplicates=True)
