"""The time-block split of 'Less Is More: Next-POI Benchmarks Reward Returning'.

`checkins.csv` (or .gz) with columns user_idx, poi_idx, cat, lat, lon, unix_s, hour, dow, traj_id, block. Block T0 is
the training part, T1 to T5 are the test part; there is no validation part. Blocks are cut between trajectories, so they
overlap a little in time. The offset to UTC follows from the local hour and day of the week (Monday is 0).
"""

from pathlib import Path

import ibis
import ibis.expr.types as ir

from data_pipelines.sources.base import Origin, RawSource
from data_pipelines.sources.files import matching_files, require_columns
from data_pipelines.sources.reading import Reader, column_names, union

_COLUMNS = {
    "user_id": "user_idx",
    "poi_id": "poi_idx",
    "category": "cat",
    "latitude": "lat",
    "longitude": "lon",
    "timestamp": "unix_s",
    "hour": "hour",
    "dow": "dow",
    "trajectory": "traj_id",
    "block": "block",
}
_HOURS_PER_WEEK = 168
# 1 January 1970 was a Thursday, day 3 if Monday is 0.
_EPOCH_HOUR_OF_WEEK = 3 * 24
_MAX_OFFSET_HOURS = 14


def locate(path: Path) -> Origin:
    """The check-in file, or `checkins.csv` (.gz) in a folder."""
    return matching_files(path, ("checkins.csv", "checkins.csv.gz"))


def read(origin: Origin, reader: Reader) -> RawSource:
    """Open the check-ins; the column `part` is the split."""
    tables = []
    for file in origin.events:
        found = column_names(file)
        assert found is not None
        require_columns(file, found, list(_COLUMNS.values()))
        tables.append(reader.text(file, origin.name(file), _COLUMNS))
    events = union(tables)
    events = events.mutate(
        part=ibis.ifelse(events.block.strip() == "T0", "train", "test"), tz_offset_minutes=_offset_minutes(events)
    ).drop("hour", "dow", "block")
    return RawSource(events=events, malformed=reader.malformed, keep_duplicates=True)


def _offset_minutes(events: ir.Table) -> ir.StringValue:
    """Offset to UTC from local and UTC hour of the week; null where no offset within 14 hours explains it."""
    local = events.dow.try_cast("int64") * 24 + events.hour.try_cast("int64")
    utc = (events.timestamp.try_cast("int64") // 3600 + _EPOCH_HOUR_OF_WEEK) % _HOURS_PER_WEEK
    ahead = (local - utc + _HOURS_PER_WEEK + _MAX_OFFSET_HOURS) % _HOURS_PER_WEEK - _MAX_OFFSET_HOURS
    return ibis.ifelse(ahead <= _MAX_OFFSET_HOURS, ahead * 60, ibis.null("int64")).cast("string")
