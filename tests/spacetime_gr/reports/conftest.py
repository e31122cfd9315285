"""A prepared folder so small that its figures are worked out by hand."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.prepared import SCHEMA_VERSION
from spacetime_gr import POIIndex, SpacetimeGRTokenizer

MONDAY = 1_704_067_200  # 2024-01-01 00:00 UTC; local time is an hour ahead
HOUR = 3600
BAD_CATEGORY, BAD_NAME = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>"
KINDS = {
    "poi_row": pa.int32(),
    "action": pa.int16(),
    "timestamp": pa.int64(),
    "tz_offset_minutes": pa.int16(),
    "mode": pa.int8(),
}
User = dict[str, Any]


def user(user_hash: int, pois: list[int], times: list[int], mode: list[int] | None = None) -> User:
    """One user's part of a split; every action is the first type."""
    num = len(pois)
    return {
        "user_hash": user_hash,
        "poi_row": pois,
        "action": [0] * num,
        "timestamp": times,
        "tz_offset_minutes": [60] * num,
        "mode": mode or [0] * num,
    }


SPLITS = {
    "train": [
        user(10, [0, 1, 0], [MONDAY, MONDAY + HOUR, MONDAY + 2 * HOUR], [0, 0, 2]),
        user(20, [2], [MONDAY + 60], [-1]),
    ],
    "validation": [user(20, [-1], [MONDAY + 20 * HOUR])],
    "test": [user(10, [0], [MONDAY + 30 * HOUR])],
}


def write_folder(path: Path, splits: dict[str, list[User]], users_per_row_group: int = 1) -> Path:
    """A prepared folder of three places: 0 and 1 a degree of longitude apart on the equator, 2 a degree north of 0."""
    pois = pa.table(
        {
            "poi_row": pa.array([0, 1, 2], pa.int32()),
            "poi_id": ["a", "b", "c"],
            "latitude": [0.0, 0.0, 1.0],
            "longitude": [0.0, 1.0, 0.0],
            "category": ["home", BAD_CATEGORY, None],
            "name": ["A", BAD_NAME, None],
            "train_visits": [2, 1, 1],
        }
    )
    files, counts = [], {}
    for split, users in splits.items():
        (path / split).mkdir(parents=True)
        counts[split] = {"actions": sum(len(one["timestamp"]) for one in users), "users": len(users)}
        if not users:
            continue
        columns = {"user_hash": pa.array([one["user_hash"] for one in users], pa.int64())}
        columns |= {name: pa.array([one[name] for one in users], pa.list_(kind)) for name, kind in KINDS.items()}
        name = f"{split}/part-00000.parquet"
        pq.write_table(pa.table(columns), path / name, row_group_size=users_per_row_group)
        groups = [min(users_per_row_group, len(users) - at) for at in range(0, len(users), users_per_row_group)]
        entry = {"split": split, "path": name, "rows": len(users), "row_groups": groups}
        files.append(entry | {"actions": counts[split]["actions"]})
    pq.write_table(pois, path / "pois.parquet")
    index = POIIndex.build(pois, max_pois_per_block=2)
    SpacetimeGRTokenizer(index=index, actions=["click"]).save_pretrained(path / "tokenizer")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "format": "tables",
        "protocol": "tables",
        "actions": ["click"],
        "modes": ["local", "pre_trip", "in_trip"],
        "users_per_row_group": users_per_row_group,
        "fingerprints": {"inputs": {"<b>.csv": "0123456789abcdef"}, "settings": "fedcba9876543210"},
        "counts": {"rows_read": 9, "rows_rejected": 3, "rows_filtered": 0, "splits": counts},
        "rejected": {"duplicate": 2, "missing time": 1},
        "split": {"rule": "global time order", "train_end": MONDAY + 10 * HOUR, "validation_end": MONDAY + 25 * HOUR},
        "files": files,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Two users, six events, three splits; a place's name and its category would be markup."""
    return write_folder(tmp_path / "tiny", SPLITS)
