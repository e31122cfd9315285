"""Foursquare check-ins as published with TSMC2014 (New York, Tokyo).

One file, latin-1, no header, eight tab-separated columns: user, venue, category id, category name, latitude, longitude,
offset to UTC in minutes, UTC time such as `Tue Apr 03 18:00:09 +0000 2012`. Plain or gzip.
"""

from pathlib import Path

from data_pipelines.sources.base import Origin, RawSource
from data_pipelines.sources.files import matching_files
from data_pipelines.sources.reading import Reader, union
from data_pipelines.sources.text import TextLayout

_NAMES = (
    "user_id",
    "poi_id",
    "category_id",
    "category",
    "latitude",
    "longitude",
    "tz_offset_minutes",
    "timestamp",
)
_LAYOUT = TextLayout(delimiter="\t", quoted=False, encoding="latin-1", names=_NAMES)
_COLUMNS = {name: name for name in _NAMES if name != "category_id"}


def locate(path: Path) -> Origin:
    """The check-in file, or all `dataset_TSMC2014_*` files of a folder."""
    return matching_files(path, ("dataset_TSMC2014_*.txt", "dataset_TSMC2014_*.txt.gz"))


def read(origin: Origin, reader: Reader) -> RawSource:
    """Open the check-ins."""
    tables = [reader.text(file, origin.name(file), _COLUMNS, _LAYOUT) for file in origin.events]
    return RawSource(events=union(tables), malformed=reader.malformed)
