"""A tiny prepared folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.prepared import SCHEMA_VERSION, PreparedFolder
from spacetime_gr.evaluation.events import SPLITS, EventLog

_TYPES = {
    "poi_row": pa.int32(),
    "action": pa.int16(),
    "timestamp": pa.int64(),
    "tz_offset_minutes": pa.int16(),
    "trajectory": pa.int32(),
}


def write_folder(
    path: Path, log: EventLog, protocol: str = "tables", pois: pa.Table | None = None, **stated: Any
) -> PreparedFolder:
    """Write a log as prepare would: one row per user and split, users in the order of their hash; `stated` goes
    into the manifest."""
    files: list[dict[str, Any]] = []
    for code, split in enumerate(SPLITS):
        users = [user for user in range(log.num_users) if ((log.user == user) & (log.split == code)).any()]
        chosen = [np.flatnonzero((log.user == user) & (log.split == code)) for user in users]
        columns = {"user_hash": pa.array(log.user_hash[users], pa.int64())}
        for name, kind in _TYPES.items():
            columns[name] = pa.array([getattr(log, name)[events].tolist() for events in chosen], pa.list_(kind))
        (path / split).mkdir(parents=True, exist_ok=True)
        file = f"{split}/part-00000.parquet"
        pq.write_table(pa.table(columns), path / file, row_group_size=2)
        row_groups = [min(2, len(users) - start) for start in range(0, len(users), 2)]
        files.append({"split": split, "path": file, "rows": len(users), "row_groups": row_groups})
    if pois is None:
        names = [f"p{row}" for row in range(log.num_pois)]
        places = np.linspace(40.0, 41.0, log.num_pois)
        pois = pa.table({"poi_id": names, "latitude": places, "longitude": -places})
    pq.write_table(pois, path / "pois.parquet")
    held_out = log.timestamp[log.split > 0]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "protocol": protocol,
        "split": {"rule": "global time order", "train_end": int(held_out.min()) if len(held_out) else None},
        "user_key_fingerprint": "one key",
        "like": None,
        "actions": ["check-in"],
        "modes": ["local", "pre_trip", "in_trip"],
        "files": files,
    } | stated
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return PreparedFolder(path)
