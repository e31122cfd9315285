"""The event log that protocols, counters and the model scorer read: every event of every user, in flat arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder

SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
TRAJECTORY_GAP_SECONDS = 86_400


@dataclass(frozen=True)
class EventLog:
    """All events of a benchmark, sorted by (user, time); events of one second keep the order they came in.

    Every array but the last three has one entry per event, N in all.

    user: int64 dense user index, 0..num_users-1. poi_row: int64, -1 where the place is unknown in training.
    timestamp: int64 Unix seconds, UTC. tz_offset_minutes: int64. action: int64 index into the folder's actions.
    split: int8 code (TRAIN, VALIDATION, TEST). trajectory: int64, rising along the log, equal inside one trajectory.
    user_latitude, user_longitude (degrees), mode: None where the source has none.
    user_offsets: (num_users + 1,) the events of user i are user_offsets[i]..user_offsets[i + 1]-1.
    user_hash: (num_users,) int64 keyed hash of the user. num_pois: number of places that can be ranked.
    """

    user: np.ndarray
    poi_row: np.ndarray
    timestamp: np.ndarray
    tz_offset_minutes: np.ndarray
    action: np.ndarray
    split: np.ndarray
    trajectory: np.ndarray
    user_offsets: np.ndarray
    user_hash: np.ndarray
    num_pois: int
    user_latitude: np.ndarray | None = None
    user_longitude: np.ndarray | None = None
    mode: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.user)

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.user_hash)

    @property
    def local_hour(self) -> np.ndarray:
        """Hour of the local day of every event, 0..23: (N,) int64."""
        return (self.timestamp // 60 + self.tz_offset_minutes) // 60 % 24

    @classmethod
    def from_arrays(
        cls,
        *,
        user: np.ndarray,
        poi_row: np.ndarray,
        timestamp: np.ndarray,
        split: np.ndarray,
        num_pois: int,
        trajectory: np.ndarray | None = None,
        tz_offset_minutes: np.ndarray | None = None,
        action: np.ndarray | None = None,
        **optional: np.ndarray | None,
    ) -> EventLog:
        """Sort raw columns of equal length into a log.

        Args:
            user: any integers; kept as `user_hash`, numbered densely in rising order.
            trajectory: the source's own numbers, meaningful inside one user; None applies the 24 h gap rule.
            optional: `user_latitude`, `user_longitude`, `mode`.

        Raises:
            ValueError: a place outside -1..num_pois-1, or columns of unequal length.
        """
        lengths = {len(user), len(poi_row), len(timestamp), len(split)}
        if len(lengths) != 1:
            raise ValueError(f"event columns have unequal lengths {sorted(lengths)}; give one value per event")
        if len(poi_row) and not (int(poi_row.min()) >= -1 and int(poi_row.max()) < num_pois):
            raise ValueError(
                f"poi_row runs from {poi_row.min()} to {poi_row.max()}, expected -1..{num_pois - 1}: events and "
                "pois.parquet do not belong to the same prepared folder; prepare it again"
            )
        order = np.lexsort((timestamp, user))
        hashes, dense = np.unique(user[order], return_inverse=True)
        zeros = np.zeros(len(order), np.int64)
        columns: dict[str, Any] = {
            "user": dense.astype(np.int64),
            "poi_row": poi_row[order].astype(np.int64),
            "timestamp": timestamp[order].astype(np.int64),
            "tz_offset_minutes": zeros if tz_offset_minutes is None else tz_offset_minutes[order].astype(np.int64),
            "action": zeros if action is None else action[order].astype(np.int64),
            "split": split[order].astype(np.int8),
            **{name: None if values is None else values[order] for name, values in optional.items()},
        }
        starts = _first_of_user(columns["user"])
        if trajectory is None:
            starts[1:] |= np.diff(columns["timestamp"]) > TRAJECTORY_GAP_SECONDS
        else:
            starts[1:] |= np.diff(trajectory[order]) != 0
        return cls(
            trajectory=np.cumsum(starts, dtype=np.int64) - 1,
            user_offsets=np.searchsorted(columns["user"], np.arange(len(hashes) + 1)),
            user_hash=hashes.astype(np.int64),
            num_pois=num_pois,
            **columns,
        )

    @classmethod
    def from_folder(cls, folder: PreparedFolder) -> EventLog:
        """Read all splits of a prepared folder into memory (about 60 bytes per event)."""
        parts: dict[str, list[np.ndarray]] = {}
        for code, split in enumerate(SPLITS):
            table = folder.read(split)
            lengths = np.diff(_list_column(table, "poi_row")[1])
            parts.setdefault("user", []).append(np.repeat(table["user_hash"].to_numpy(), lengths))
            parts.setdefault("split", []).append(np.full(int(lengths.sum()), code, np.int8))
            for name in table.column_names:
                if name in _EVENT_COLUMNS:
                    parts.setdefault(name, []).append(_list_column(table, name)[0])
        columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        return cls.from_arrays(**columns, num_pois=folder.pois().num_rows)

    def select(self, keep: np.ndarray) -> EventLog:
        """The log of the events where `keep` (N,) is true; users and places keep their numbers."""
        chosen = {
            field.name: value[keep]
            for field in fields(self)
            if field.name not in ("user_offsets", "user_hash", "num_pois")
            and (value := getattr(self, field.name)) is not None
        }
        return replace(self, **chosen, user_offsets=np.searchsorted(chosen["user"], np.arange(self.num_users + 1)))

    def trajectory_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First event and one past the last event of each event's trajectory: two (N,) int64 arrays."""
        first = np.searchsorted(self.trajectory, self.trajectory, side="left")
        return first, np.searchsorted(self.trajectory, self.trajectory, side="right")

    def cut_at_splits(self) -> EventLog:
        """The same log, with a trajectory that runs on into another split cut into one per split."""
        starts = _first_of_user(self.user)
        starts[1:] |= (np.diff(self.trajectory) != 0) | (np.diff(self.split) != 0)
        return replace(self, trajectory=np.cumsum(starts, dtype=np.int64) - 1)

    def known(self, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which users (num_users,) and places (num_pois,) occur in the events where `training` (N,) is true."""
        users = np.zeros(self.num_users, bool)
        users[self.user[training]] = True
        pois = np.zeros(self.num_pois, bool)
        rows = self.poi_row[training]
        pois[rows[rows >= 0]] = True
        return users, pois


_EVENT_COLUMNS = frozenset(
    {"poi_row", "action", "timestamp", "tz_offset_minutes", "user_latitude", "user_longitude", "mode", "trajectory"}
)


def _list_column(table: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values and offsets of a list column, whatever its chunks."""
    column = table[name].combine_chunks()
    offsets = column.offsets.to_numpy()
    return column.flatten().to_numpy(zero_copy_only=False), offsets - offsets[0]


def _first_of_user(user: np.ndarray) -> np.ndarray:
    first = np.ones(len(user), bool)
    first[1:] = np.diff(user) != 0
    return first
