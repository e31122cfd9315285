"""The training part of a ready split as tables, to cut it again by time: what an early model is trained on.

    python benchmarks/training_tables.py DATA/nyc_foursquare/splits/getnext OUT --format getnext
    spacetime-gr prepare --source OUT --format tables --catalogue all --duplicates keep --train-fraction 0.55 \\
        --validation-fraction 0.33 --max-pois-per-block 32 --out FOLDER

Writes OUT/events.parquet and OUT/pois.parquet, with all of the places of the training part.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from data_pipelines.prepare.duckdb_engine import DuckDBEngine
from data_pipelines.sources import Reader, adapter

EVENTS = ("user_id", "poi_id", "timestamp", "tz_offset_minutes")  # the last where the source has it
PLACES = ("latitude", "longitude", "category")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="folder or file of the split")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--format", choices=("getnext", "lessismore"), required=True)
    parsed = parser.parse_args(arguments)
    if parsed.out.exists():
        raise SystemExit(f"{parsed.out} exists; name a new folder")
    source = adapter(parsed.format)
    with tempfile.TemporaryDirectory(prefix="spacetime-gr-") as work:
        engine = DuckDBEngine(Path(work))
        try:
            staging = Path(work) / "text"
            staging.mkdir()
            raw = source.read(source.locate(parsed.split), Reader(engine, staging, progress=lambda step: None))
            events = raw.events.filter(raw.events.part == "train").order_by("source_row")
            first = {name: events[name].first(order_by=events.source_row) for name in PLACES}
            places = engine.table(events.group_by("poi_id").agg(**first).order_by("poi_id"))
            table = engine.table(events.select(*(name for name in EVENTS if name in events.columns)))
        finally:
            engine.close()
    parsed.out.mkdir(parents=True)
    pq.write_table(table, parsed.out / "events.parquet")
    pq.write_table(places, parsed.out / "pois.parquet")
    print(f"{table.num_rows:,} events at {places.num_rows:,} places: {parsed.out}")


if __name__ == "__main__":
    main()
