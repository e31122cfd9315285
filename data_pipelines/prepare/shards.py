"""Writes a shard of user sequences: one row per user, list columns in time order, row groups of bounded size."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.durable import sync

COLUMN_TYPES = {
    "poi_row": pa.int32(),
    "action": pa.int16(),
    "timestamp": pa.int64(),
    "tz_offset_minutes": pa.int16(),
    "user_latitude": pa.float32(),
    "user_longitude": pa.float32(),
    "mode": pa.int8(),
    "trajectory": pa.int32(),
}


def shard_schema(columns: Sequence[str]) -> pa.Schema:
    """Arrow schema of the shards of a source with these event columns."""
    lists = [(name, pa.list_(pa.field("element", kind))) for name, kind in COLUMN_TYPES.items() if name in columns]
    return pa.schema([("user_hash", pa.int64()), *lists])


def write_shard(
    bucket: Path, file: Path, users_per_row_group: int, actions_per_row_group: int
) -> dict[str, int | str | list[int]]:
    """Write the events of a bucket as a shard. The file appears complete or not at all, and is on the disk on return.

    The order is that of user_hash, then timestamp, then source_order: events of one second keep the order of the
    source. Sorting here and not in the engine makes every engine's shards the same, byte by byte.

    Args:
        bucket: folder of Parquet files of events: user_hash, timestamp, source_order and those of `COLUMN_TYPES`.
        file: shard to write.
        users_per_row_group: bound of a row group.
        actions_per_row_group: bound of a row group, or one user who alone has more.

    Returns:
        For the manifest: rows (users), row_groups (users of each), actions, bytes, and fingerprint (see
        `rows_fingerprint`).
    """
    events = pa.concat_tables([pq.read_table(part, partitioning=None) for part in sorted(bucket.glob("*.parquet"))])
    users = events["user_hash"].to_numpy()
    order = np.lexsort((events["source_order"].to_numpy(), events["timestamp"].to_numpy(), users))
    users = users[order]
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    offsets = np.append(starts, len(users))
    schema = shard_schema(events.column_names)
    columns: list[pa.Array] = [pa.array(users[starts])]
    for name in schema.names[1:]:
        values = events[name].cast(COLUMN_TYPES[name]).to_numpy()[order]
        lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))
        columns.append(lists.cast(schema.field(name).type))
    del events
    table = pa.Table.from_arrays(columns, schema=schema)
    groups = row_group_sizes(offsets, users_per_row_group, actions_per_row_group)
    file.parent.mkdir(exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
        start = 0
        for size in groups:
            writer.write_table(table.slice(start, size))
            start += size
    sync(unfinished)
    os.replace(unfinished, file)
    sync(file.parent)
    return {
        "rows": table.num_rows,
        "row_groups": groups,
        "actions": int(offsets[-1]),
        "fingerprint": rows_fingerprint(table),
        "bytes": file.stat().st_size,
    }


def is_whole(file: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a shard is there, readable, and its footer has the row groups that its entry of the manifest states."""
    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowException, OSError):
        return False
    return [footer.row_group(group).num_rows for group in range(footer.num_row_groups)] == entry["row_groups"]


def rows_fingerprint(table: pa.Table) -> str:
    """Sixteen hexadecimal digits of the rows of a shard, whatever their encoding, compression and row groups."""
    digest = hashlib.sha256(",".join(table.column_names).encode())
    for column in table.columns:
        if pa.types.is_list(column.type):
            for lengths in pc.list_value_length(column).chunks:
                digest.update(lengths.to_numpy())
            column = pc.list_flatten(column)
        for values in column.chunks:
            digest.update(values.to_numpy())
    return digest.hexdigest()[:16]


def row_group_sizes(offsets: np.ndarray, most_users: int, most_actions: int) -> list[int]:
    """Users of each row group: as many as both bounds allow, at least one.

    Args:
        offsets: int64 of shape (users + 1,), the first action of each user.
        most_users: bound of users.
        most_actions: bound of actions.
    """
    sizes, start, last = [], 0, len(offsets) - 1
    while start < last:
        fit = int(np.searchsorted(offsets, offsets[start] + most_actions, side="right")) - 1
        end = min(max(fit, start + 1), start + most_users, last)
        sizes.append(end - start)
        start = end
    return sizes
