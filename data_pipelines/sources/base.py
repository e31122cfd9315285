"""What a source adapter hands to `prepare`: raw events and POIs under canonical column names, as Ibis tables."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ibis.expr.types as ir

# Canonical columns of raw events. Those of text sources are all text; those of Parquet keep their types.
EVENT_COLUMNS = (
    "user_id",
    "poi_id",
    "action",
    "timestamp",
    "tz_offset_minutes",
    "latitude",
    "longitude",
    "category",
    "name",
    "user_latitude",
    "user_longitude",
    "mode",
    "trajectory",
    "part",
)
POI_COLUMNS = ("poi_id", "latitude", "longitude", "category", "name")
# Every raw table also says where a row stands: the file's name below the source and the line (text) or row (Parquet).
ORIGIN_COLUMNS = ("source_file", "source_row")
DEFAULT_ACTION = "check-in"

Progress = Callable[[str], None]


@dataclass(frozen=True)
class TimeBoundaries:
    """Split that the source states: train before `train_end`, validation before `validation_end` (unix seconds)."""

    train_end: int
    validation_end: int


@dataclass(frozen=True)
class Origin:
    """The input files of a source.

    Attributes:
        root: the folder that file names are relative to.
        events: event files in reading order.
        pois: POI files, empty if POIs are derived from the events.
        extra: other files that determine the result and are copied beside it.
        poi_embeddings: array with a row per row of the POI table, if the source has one.
    """

    root: Path
    events: tuple[Path, ...]
    pois: tuple[Path, ...] = ()
    extra: tuple[Path, ...] = ()
    poi_embeddings: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All input files."""
        return (*self.events, *self.pois, *self.extra, *([self.poi_embeddings] if self.poi_embeddings else []))

    def name(self, file: Path) -> str:
        """Name of a file as reports and quarantined rows show it."""
        return file.relative_to(self.root).as_posix()


@dataclass(frozen=True)
class PoiEmbeddings:
    """Where the embeddings of the POI table's rows are: in a column of its files, or in one array beside it.

    Attributes:
        files: Parquet files of the POI table, by the name that `source_file` has.
        array: `.npy` file of shape (rows of the only file, size); None if the files hold the column `embedding`.
    """

    files: dict[str, Path]
    array: Path | None


@dataclass(frozen=True)
class RawSource:
    """Opened source.

    Attributes:
        events: Ibis table with ORIGIN_COLUMNS and those of EVENT_COLUMNS that the source has.
        pois: Ibis table with ORIGIN_COLUMNS and those of POI_COLUMNS that the source has, or None.
        malformed: rows that no table could take, as (file name, row, reason).
        boundaries: the source's own split in time, if it states one. A split row by row is the column `part`.
        poi_embeddings: embeddings of the rows of `pois`, if the source has them.
        keep_duplicates: the format is a published split, whose rows are all to be kept.
    """

    events: ir.Table
    pois: ir.Table | None = None
    malformed: list[tuple[str, int, str]] = field(default_factory=list)
    boundaries: TimeBoundaries | None = None
    poi_embeddings: PoiEmbeddings | None = None
    keep_duplicates: bool = False
