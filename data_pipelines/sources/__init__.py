"""Source adapters: each turns a known format into raw events and POIs under canonical column names."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipelines.sources import foursquare, getnext, gowalla, lessismore, tables
from data_pipelines.sources.base import Origin, RawSource
from data_pipelines.sources.reading import Reader

__all__ = ["FORMATS", "Adapter", "Origin", "RawSource", "Reader", "adapter"]


@dataclass(frozen=True)
class Adapter:
    """How a format is found and read.

    Attributes:
        locate: path -> its input files; raises ValueError if they are not there.
        read: input files and reader -> raw tables; raises ValueError if a file is not as expected.
    """

    locate: Callable[[Path], Origin]
    read: Callable[[Origin, Reader], RawSource]


FORMATS: dict[str, Adapter] = {
    "foursquare": Adapter(foursquare.locate, foursquare.read),
    "gowalla": Adapter(gowalla.locate, gowalla.read),
    "getnext": Adapter(getnext.locate, getnext.read),
    "lessismore": Adapter(lessismore.locate, lessismore.read),
    "tables": Adapter(tables.locate, tables.read),
    "simulated": Adapter(tables.locate_simulated, tables.read_simulated),
}


def adapter(name: str) -> Adapter:
    """The adapter of a format.

    Raises:
        ValueError: if the format is unknown.
    """
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]
