"""A small prepared folder, written directly: what the training tests stream from."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.prepared import SCHEMA_VERSION
from spacetime_gr import POIIndex, SpacetimeGRTokenizer

NUM_POIS, USERS_PER_ROW_GROUP = 60, 4
ACTIONS = ["visit", "save"]


def write_city(folder: Path, num_users: int = 24, num_actions: int = 20, validation_actions: int = 20) -> Path:
    """Users who walk between 60 places; `train` and `validation` parts, with users of half to all of these actions."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    pois = pa.table(
        {
            "poi_row": pa.array(range(NUM_POIS), pa.int32()),
            "poi_id": [f"p{row}" for row in range(NUM_POIS)],
            "latitude": 40.7 + 0.1 * rng.random(NUM_POIS),
            "longitude": -74.0 + 0.1 * rng.random(NUM_POIS),
            "category": [("cafe", "park", "home")[row % 3] for row in range(NUM_POIS)],
            "name": pa.nulls(NUM_POIS, pa.string()),
            "train_visits": pa.array(range(NUM_POIS), pa.int64()),
        }
    )
    pq.write_table(pois, folder / "pois.parquet")
    files = []
    for split, users, most in (("train", num_users, num_actions), ("validation", num_users // 2, validation_actions)):
        path = f"{split}/part-00000.parquet"
        (folder / split).mkdir()
        lengths = rng.integers(most // 2, most, users)
        rows = [[int(row) for row in rng.integers(0, NUM_POIS, length)] for length in lengths]
        times = [[1_330_000_000 + int(t) for t in np.cumsum(rng.integers(600, 90_000, length))] for length in lengths]
        table = pa.table(
            {
                "user_hash": pa.array(rng.integers(1, 2**60, users), pa.int64()),
                "poi_row": pa.array(rows, pa.list_(pa.int32())),
                "action": pa.array([[row % 2 for row in user] for user in rows], pa.list_(pa.int16())),
                "timestamp": pa.array(times, pa.list_(pa.int64())),
                "tz_offset_minutes": pa.array([[-300] * length for length in lengths], pa.list_(pa.int16())),
            }
        )
        pq.write_table(table, folder / path, row_group_size=USERS_PER_ROW_GROUP)
        groups = [min(USERS_PER_ROW_GROUP, users - start) for start in range(0, users, USERS_PER_ROW_GROUP)]
        files.append({"split": split, "path": path, "rows": users, "row_groups": groups, "actions": int(lengths.sum())})
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "protocol": "tables",
        "actions": ACTIONS,
        "modes": ["local", "pre_trip", "in_trip"],
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    index = POIIndex.build(pois, scheme="quadtree", max_pois_per_block=8)
    SpacetimeGRTokenizer(index=index, actions=ACTIONS).save_pretrained(folder / "tokenizer")
    return folder
