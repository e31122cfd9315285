"""Writes events as Parquet shards of user sequences: one row per user, list columns in time order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

_HASH_RANGE = 2**63
_COLUMN_TYPES = {
    "poi_row": pa.int32(),
    "action": pa.int16(),
    "timestamp": pa.int64(),
    "tz_offset_minutes": pa.int16(),
    "user_latitude": pa.float32(),
    "user_longitude": pa.float32(),
    "mode": pa.int8(),
    "trajectory": pa.int32(),
}
# Events of one second keep the order of the source.
_ORDER = ("timestamp", "source_file", "source_row")


def shard_schema(columns: list[str]) -> pa.Schema:
    """Arrow schema of the shards of a source with these event columns."""
    lists = [(name, pa.list_(pa.field("element", kind))) for name, kind in _COLUMN_TYPES.items() if name in columns]
    return pa.schema([("user_hash", pa.int64()), *lists])


def sequences(events: ir.Table) -> ir.Table:
    """One row per user in the order of user_hash: the events' columns as lists in time order.

    Structs that start with the time are collected and then sorted, because not every engine can collect in order.
    """
    values = [name for name in _COLUMN_TYPES if name in events.columns]
    keys = [name for name in _ORDER if name not in values]
    order = ["timestamp", *keys]
    packed = ibis.struct({name: events[name] for name in [*order, *(name for name in values if name not in order)]})
    grouped = events.group_by("user_hash").agg(events=packed.collect())
    grouped = grouped.select("user_hash", events=grouped.events.sort())
    lists = {name: grouped.events.map(lambda event, name=name: event[name]) for name in values}
    return grouped.select("user_hash", **lists).order_by("user_hash")


def write_split(
    events: ir.Table,
    split: str,
    folder: Path,
    num_actions: int,
    actions_per_file: int,
    users_per_row_group: int,
    run: Callable[[ir.Table], pa.Table],
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Write the shards of a split.

    Each file takes an equal range of user hashes, so users are spread over files, and in a file over row groups, by
    their hash: an order that does not depend on behaviour.

    Args:
        events: events of all splits with the columns part, user_hash, the order columns and those of the shards.
        split: train, validation or test.
        folder: the prepared folder; files go to its sub-folder `split`.
        num_actions: number of events of this split.
        actions_per_file: events in a file, roughly.
        users_per_row_group: users in a row group.
        run: evaluates a table expression.
        progress: told which file is written.

    Returns:
        The files' entries for the manifest.
    """
    schema = shard_schema(events.columns)
    num_files = -(-num_actions // actions_per_file)
    bounds = [_HASH_RANGE * part // num_files for part in range(num_files)] + [_HASH_RANGE - 1]
    entries: list[dict[str, Any]] = []
    for number in range(num_files):
        progress(f"writing {split}: file {number + 1} of {num_files}")
        low, high = bounds[number], bounds[number + 1]
        below = events.user_hash <= high if number == num_files - 1 else events.user_hash < high
        table = run(sequences(events.filter((events.part == split) & (events.user_hash >= low) & below)))
        table = table.select(schema.names).cast(schema)
        if table.num_rows == 0:
            continue
        name = f"{split}/part-{len(entries):05d}.parquet"
        (folder / split).mkdir(exist_ok=True)
        pq.write_table(table, folder / name, row_group_size=users_per_row_group, compression="zstd")
        entries.append(
            {
                "split": split,
                "path": name,
                "rows": table.num_rows,
                "row_groups": -(-table.num_rows // users_per_row_group),
                "actions": sum(len(chunk.flatten()) for chunk in table["poi_row"].chunks),
            }
        )
    return entries
