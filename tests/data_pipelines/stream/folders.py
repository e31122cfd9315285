"""Tiny prepared folders and a transparent tokenizer, so that every token tells which action it is from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.prepared import SCHEMA_VERSION

# One user: user_hash and the columns of the actions.
User = dict[str, Any]

POI_SHIFT, ACTION_SHIFT = 1_000, 500_000


class FakeIndex:
    """Places 0..99 on the equator, a degree (111.2 km) apart; place p has category p % 3."""

    num_pois = 100
    category_names = ("food", "office", "park")

    def categories(self, poi_rows: np.ndarray) -> np.ndarray:
        return np.where(np.asarray(poi_rows) < 0, -1, np.asarray(poi_rows) % 3).astype(np.int32)

    def coordinates(self, poi_rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        longitude = np.where(np.asarray(poi_rows) < 0, np.nan, np.asarray(poi_rows, float))
        return 0.0 * longitude, longitude


class FakeTokenizer:
    """Same calls as the real tokenizer. The `stamp` field carries the timestamp, which the tests make unique."""

    tokens_per_action = 4
    token_fields = ("input_ids", "labels", "local_time", "stamp")
    pad_values = {"input_ids": 0, "labels": -100, "local_time": 0, "stamp": -1}  # noqa: RUF012
    actions = ("browse", "navigate")

    def __init__(self) -> None:
        self.index = FakeIndex()

    def encode_actions(
        self, columns: dict[str, np.ndarray], offsets: np.ndarray, interest: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        poi = columns["poi_row"].astype(np.int32)
        assert len(columns["user_hash"]) == len(offsets) - 1
        assert offsets[-1] == len(poi)
        action = columns["action"].astype(np.int32) + ACTION_SHIFT
        ids = np.stack([np.full_like(poi, 1), poi + POI_SHIFT, poi + 2 * POI_SHIFT, action], axis=1)
        labels = ids.astype(np.int64)
        labels[:, 0] = -100
        labels[poi < 0] = -100
        if interest is not None:
            labels[~interest] = -100
        time = columns["timestamp"] + 60 * columns["tz_offset_minutes"].astype(np.int64)
        return {
            "input_ids": ids.astype(np.int32),
            "labels": labels,
            "local_time": np.repeat(time[:, None], 4, axis=1),
            "stamp": np.repeat(columns["timestamp"].astype(np.int32)[:, None], 4, axis=1),
        }

    def blind(self, tokens: dict[str, np.ndarray], mask: np.ndarray) -> None:
        tokens["input_ids"][mask, 0] = 2
        tokens["local_time"][mask, 0] = 0


def make_users(lengths: list[int], **columns: Callable[[np.ndarray], np.ndarray]) -> list[User]:
    """Users of the given lengths; timestamps 0, 1, 2, ... over all; other columns are functions of them."""
    users, start = [], 0
    for number, length in enumerate(lengths):
        stamp = np.arange(start, start + length)
        users.append(
            {
                "user_hash": 7_000_000_000 + number,
                "poi_row": columns.get("poi_row", lambda t: t % 97)(stamp),
                "action": columns.get("action", lambda t: t % 2)(stamp),
                "timestamp": stamp,
                "tz_offset_minutes": np.zeros(length, int),
                **{name: make(stamp) for name, make in columns.items() if name not in ("poi_row", "action")},
            }
        )
        start += length
    return users


TYPES = {
    "poi_row": pa.int32(),
    "action": pa.int16(),
    "timestamp": pa.int64(),
    "tz_offset_minutes": pa.int16(),
    "user_latitude": pa.float64(),
    "user_longitude": pa.float64(),
    "mode": pa.int8(),
}
OPTIONAL = ("user_latitude", "user_longitude", "mode")


def write_folder(path: Path, shards: list[list[User]], users_per_row_group: int = 3, split: str = "train") -> Path:
    """Writes a prepared folder with one file per list of users (which may be empty)."""
    names = [name for name in TYPES if any(name in user for users in shards for user in users) or name not in OPTIONAL]
    files = []
    (path / split).mkdir(parents=True)
    for number, users in enumerate(shards):
        columns: dict[str, pa.Array] = {"user_hash": pa.array([user["user_hash"] for user in users], pa.int64())}
        for name in names:
            columns[name] = pa.array([user[name].tolist() for user in users], pa.list_(TYPES[name]))
        file = path / split / f"part-{number:05d}.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=users_per_row_group)
        metadata = pq.read_metadata(file)
        files.append(
            {
                "split": split,
                "path": f"{split}/{file.name}",
                "rows": len(users),
                "row_groups": [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)],
                "actions": sum(len(user["timestamp"]) for user in users),
            }
        )
    pq.write_table(pa.table({"poi_row": pa.array(range(100), pa.int32())}), path / "pois.parquet")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "protocol": "tables",
        "actions": list(FakeTokenizer.actions),
        "modes": ["local", "pre_trip", "in_trip"],
        "files": files,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


def stamps_supervised(batch: dict[str, np.ndarray]) -> list[int]:
    """Timestamps of the supervised actions of a batch."""
    return batch["stamp"][:, 1::4][batch["labels"][:, 1::4] != -100].tolist()
