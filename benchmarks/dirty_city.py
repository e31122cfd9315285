"""A simulated city with dirt in its training part: what cleaning is worth where the truth is known.

python benchmarks/dirty_city.py --city CITY --out DIRTY [--seed 0]

CITY is a folder of `spacetime-gr simulate`. DIRTY holds the same places, the same people and the same held-out events,
and besides, all before the end of the training part: bots (every tenth account: 400 events at places drawn evenly, 20
to 80 s apart), accounts that report one place only (another tenth: 200 events an hour or more apart), and a second copy
of a fifth of the people's events, 1 to 30 s later. The held-out people act as before: CITY's ceiling holds for DIRTY.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ACCOUNTS_SHARE = 0.1  # of each kind, relative to the people
BOT_EVENTS, MONOTONE_EVENTS = 400, 200
DUPLICATES_SHARE = 0.2


def accounts(
    name: str, num_accounts: int, num_events: int, gaps: tuple[int, int], same_place: bool, pois: pa.Table,
    span: tuple[int, int], offset: int, rng: np.random.Generator,
) -> pa.Table:  # fmt: skip
    """Events of made-up accounts: `num_events` each, `gaps` seconds apart from a start in `span` (unix seconds)."""
    steps = rng.integers(*gaps, (num_accounts, num_events)).cumsum(axis=1)
    latest = span[1] - steps[:, -1] - 1
    assert (latest > span[0]).all(), "the training part is too short for these accounts"
    times = rng.integers(span[0], latest)[:, None] + steps
    places = rng.integers(0, pois.num_rows, (num_accounts, 1 if same_place else num_events))
    places = np.broadcast_to(places, times.shape)
    # Where the account stands: at its previous place.
    stood = np.concatenate([places[:, :1], places[:, :-1]], axis=1).ravel()
    users = np.repeat([f"{name}{number:04d}" for number in range(num_accounts)], num_events)
    return pa.table(
        {
            "user_id": users,
            "poi_id": pois["poi_id"].take(places.ravel()),
            "action": pa.array(["click"] * times.size),
            "timestamp": pa.array(times.ravel() * 1000).cast(pa.timestamp("ms", tz="UTC")),
            "tz_offset_minutes": pa.array(np.full(times.size, offset), pa.int16()),
            "user_latitude": pois["latitude"].take(stood),
            "user_longitude": pois["longitude"].take(stood),
            "mode": pa.array(["local"] * times.size),
        }
    )


def soil(city: Path, out: Path, seed: int) -> dict[str, int]:
    """Write the dirty copy of a city; returns the number of added events by kind."""
    rng = np.random.default_rng(seed)
    events, pois = pq.read_table(city / "events.parquet"), pq.read_table(city / "pois.parquet")
    seconds = events["timestamp"].cast(pa.int64()).to_numpy() // 1000
    train_end = json.loads((city / "truth.json").read_text())["split"]["train_end"]
    span, offset = (int(seconds.min()), int(train_end)), int(events["tz_offset_minutes"][0].as_py())
    num_accounts = max(1, round(ACCOUNTS_SHARE * pc.count_distinct(events["user_id"]).as_py()))
    delays = rng.integers(1, 30, len(seconds))
    repeated = np.flatnonzero((rng.random(len(seconds)) < DUPLICATES_SHARE) & (seconds + delays < train_end))
    copies = events.take(repeated)
    moved = pa.array((seconds + delays)[repeated] * 1000).cast(events.schema.field("timestamp").type)
    parts = {
        "bots": accounts("bot", num_accounts, BOT_EVENTS, (20, 80), False, pois, span, offset, rng),
        "one_place": accounts("one", num_accounts, MONOTONE_EVENTS, (3600, 7200), True, pois, span, offset, rng),
        "duplicates": copies.set_column(copies.schema.get_field_index("timestamp"), "timestamp", moved),
    }
    whole = pa.concat_tables([events, *(part.cast(events.schema) for part in parts.values())])
    out.mkdir(parents=True)
    pq.write_table(whole.sort_by([("user_id", "ascending"), ("timestamp", "ascending")]), out / "events.parquet")
    for name in ("pois.parquet", "truth.json"):
        shutil.copy(city / name, out / name)
    return {name: part.num_rows for name, part in parts.items()}


def main() -> None:
    """Parse, write, say what was added."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--city", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for kind, count in soil(given.city, given.out, given.seed).items():
        print(f"{kind}: {count:,} events added")


if __name__ == "__main__":
    main()
