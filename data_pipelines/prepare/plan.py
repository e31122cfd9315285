"""Which user goes to which shard: files of bounded size, users in the order of a hash."""

from dataclasses import asdict, dataclass
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.prepared import SPLITS

# Users are planned in ranges of their hash, so that the plan of a billion users is still a small table.
_RANGE_BITS = 20


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be written.

    Attributes:
        split: train, validation or test.
        path: in the prepared folder.
        bucket: number of the partition that holds its events.
        actions: number of events.
    """

    split: str
    path: str
    bucket: int
    actions: int

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return asdict(self)


def hash_range(user_hash: ir.IntegerValue) -> ir.IntegerValue:
    """Number of the range that a user's hash lies in, 0 .. 2**20 - 1, in the order of the hashes."""
    return user_hash >> (63 - _RANGE_BITS)


def range_counts(events: ir.Table) -> ir.Table:
    """Per part and range of hashes: users, actions, actions_at_unknown_pois and largest (actions of one user).

    Args:
        events: with the columns part, user_hash and poi_row.
    """
    users = events.group_by("part", "user_hash").agg(actions=events.count(), unknown=(events.poi_row < 0).sum())
    users = users.mutate(hash_range=hash_range(users.user_hash))
    return users.group_by("part", "hash_range").agg(
        users=users.count(),
        actions=users.actions.sum(),
        actions_at_unknown_pois=users.unknown.sum(),
        largest=users.actions.max(),
    )


def plan_shards(counts: pa.Table, actions_per_file: int) -> tuple[list[PlannedShard], pa.Table]:
    """Cut each split into shards of at most `actions_per_file` events, or of one range of hashes that alone holds more.

    Args:
        counts: result of `range_counts`.
        actions_per_file: bound of a shard.

    Returns:
        The shards, and a table (part, hash_range, bucket) that sends events to them.
    """
    shards: list[PlannedShard] = []
    pieces: list[pa.Table] = []
    for split in SPLITS:
        of_split = counts.filter(pc.equal(counts["part"], split)).sort_by("hash_range")
        through = np.cumsum(of_split["actions"].to_numpy(), dtype=np.int64)
        buckets = np.empty(len(through), dtype=np.int64)
        start, before, number = 0, 0, 0
        while start < len(through):
            end = max(start + 1, int(np.searchsorted(through, before + actions_per_file, side="right")))
            buckets[start:end] = len(shards)
            actions = int(through[end - 1]) - before
            shards.append(PlannedShard(split, f"{split}/part-{number:05d}.parquet", len(shards), actions))
            start, before, number = end, int(through[end - 1]), number + 1
        pieces.append(
            pa.table({"part": of_split["part"], "hash_range": of_split["hash_range"], "bucket": pa.array(buckets)})
        )
    return shards, pa.concat_tables(pieces)
