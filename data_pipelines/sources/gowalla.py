"""SNAP check-ins of Gowalla and Brightkite.

One file, no header, five tab-separated columns: user, ISO time in UTC, latitude, longitude, location id. Neither
categories nor local time are known. Plain or gzip.
"""

from pathlib import Path

from data_pipelines.sources.base import Origin, RawSource
from data_pipelines.sources.files import matching_files
from data_pipelines.sources.reading import Reader, union
from data_pipelines.sources.text import TextLayout

_NAMES = ("user_id", "timestamp", "latitude", "longitude", "poi_id")
_LAYOUT = TextLayout(delimiter="\t", quoted=False, names=_NAMES)


def locate(path: Path) -> Origin:
    """The check-in file, or all `*totalCheckins*` files of a folder."""
    return matching_files(path, ("*totalCheckins.txt", "*totalCheckins.txt.gz"))


def read(origin: Origin, reader: Reader) -> RawSource:
    """Open the check-ins."""
    columns = {name: name for name in _NAMES}
    tables = [reader.text(file, origin.name(file), columns, _LAYOUT) for file in origin.events]
    return RawSource(events=union(tables), malformed=reader.malformed)
