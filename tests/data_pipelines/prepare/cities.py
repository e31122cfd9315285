"""A small made corpus."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = 1_700_000_000


def event_table(seed: int = 0, num_events: int = 400, num_users: int = 9, num_pois: int = 30) -> pa.Table:
    """Events in random row order, several of the same second; each POI has one place."""
    rng = np.random.default_rng(seed)
    poi = (num_pois * rng.random(num_events) ** 2).astype(int)
    return pa.table(
        {
            "user_id": [f"person-{user}" for user in rng.integers(num_users, size=num_events)],
            "poi_id": [f"poi-{number:03d}" for number in poi],
            "action": rng.choice(["click", "navigate"], size=num_events).tolist(),
            "timestamp": START + rng.integers(num_events * 2, size=num_events) * 600,
            "tz_offset_minutes": np.full(num_events, 480),
            "latitude": 31 + poi / 100,
            "longitude": 121 + poi / 100,
            "category": [f"kind {number % 4}" for number in poi],
        }
    )


def write(table: pa.Table, folder: Path, name: str = "events.parquet") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    pq.write_table(table, folder / name)
    return folder / name
