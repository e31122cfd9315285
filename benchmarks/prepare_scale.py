"""Prepare at the size of a warehouse, beside DuckDB's own sort of the same table by user and time.

python benchmarks/prepare_scale.py --num-events 100000000 --num-users 1000000 --out FOLDER --memory-limit 5GB
python benchmarks/prepare_scale.py --num-events 1000000 --num-users 10000 --engines duckdb spark --out FOLDER

Events are written as Parquet once: users uniform, POIs Zipf, times uniform over a year, rows in random order, one row
in a thousand with a latitude that does not exist. Then each job runs in a process of its own; memory is the largest sum
of the resident sets of that process and its children, sampled every 50 ms. `sort` is `COPY (SELECT * FROM the files
ORDER BY user_id, timestamp) TO one file` with the same memory limit; it neither checks, hashes, counts, numbers nor
groups.

Checks beside the timings: every planted bad row is set aside and no other; all events and users are there; users are in
the order of their hash over all shards and times in order in each; shards and row groups keep their bounds; the leak
checker passes; all engines give the same content fingerprint.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.prepare import PrepareOptions, prepare_folder
from data_pipelines.prepare.leaks import check_leaks
from data_pipelines.prepared import SPLITS, PreparedFolder

BLOCK = 1_000_000
BAD_EVERY = 1000
START, YEAR = 1_700_000_000, 31_536_000
LATEST = 2_000_000_000
ACTIONS = ["click", "navigate", "order"]


def generate(folder: Path, num_events: int, num_users: int, num_pois: int, seed: int) -> None:
    """Events in files of ten blocks; a block is a function of (seed, number)."""
    if folder.exists():
        return
    events = folder.with_suffix(".unfinished")
    shutil.rmtree(events, ignore_errors=True)
    (events / "events").mkdir(parents=True)
    writer = None
    for number, start in enumerate(range(0, num_events, BLOCK)):
        rng = np.random.default_rng([seed, number])
        size = min(BLOCK, num_events - start)
        # Inverse of the distribution function of a Zipf law with exponent 1.
        poi = (np.exp(rng.random(size) * np.log(num_pois + 1)) - 1).astype(np.int64)
        latitude = 20 + poi * 30.0 / num_pois
        latitude[(start + np.arange(size)) % BAD_EVERY == 0] = 91.0
        table = pa.table(
            {
                "user_id": rng.integers(num_users, size=size),
                "poi_id": poi,
                "action": pa.DictionaryArray.from_arrays(rng.integers(3, size=size).astype(np.int8), ACTIONS).cast(
                    "string"
                ),
                "timestamp": START + rng.integers(YEAR, size=size),
                "tz_offset_minutes": np.full(size, 480, np.int16),
                "latitude": latitude,
                "longitude": 100 + poi % 1000 / 50.0,
            }
        )
        if number % 10 == 0:
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(events / "events" / f"part-{number // 10:05d}.parquet", table.schema)
        assert writer is not None
        writer.write_table(table)
    assert writer is not None
    writer.close()
    events.rename(folder)


def sort(source: Path, out: Path, memory_limit: str) -> None:
    """The baseline."""
    import duckdb

    connection = duckdb.connect(config={"memory_limit": memory_limit, "temp_directory": f"{out}.spill"})
    connection.execute(
        f"COPY (SELECT * FROM '{source}/events/*.parquet' ORDER BY user_id, timestamp) TO '{out}' (FORMAT parquet)"
    )


def prepare(source: Path, out: Path, engine: str, memory_limit: str, times: Path) -> None:
    """The job; writes when each step began."""
    began: list[tuple[float, str]] = []
    options = PrepareOptions(memory_limit=memory_limit, latest_time=LATEST)
    steps: dict[str, Any] = {"progress": lambda step: began.append((time.perf_counter(), step))}
    prepare_folder(source, "tables", out, options, key="benchmark", engine=engine, overwrite=True, **steps)
    began.append((time.perf_counter(), "end"))
    seconds: dict[str, float] = {}
    for (start, step), (end, _) in itertools.pairwise(began):
        name = "writing shards" if step.startswith("writing shard") else step
        seconds[name] = seconds.get(name, 0.0) + end - start
    times.write_text(json.dumps(seconds))


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (GB, of the process and its children) of this script with other arguments."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, __file__, *arguments])
    peak = 0
    while process.poll() is None:
        try:
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in tree))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed")
    return time.perf_counter() - start, peak / 1e9


def check(folder: PreparedFolder, num_events: int, num_users: int) -> None:
    """Asserts what the page promises."""
    counts = folder.manifest["counts"]
    num_bad = -(-num_events // BAD_EVERY)
    assert counts["rows_read"] == num_events
    assert folder.manifest["rejected"].pop("coordinates out of range") == num_bad
    # By chance two events are the same; there is nothing else to reject.
    assert set(folder.manifest["rejected"]) <= {"duplicate"}
    assert counts["actions"] == num_events - counts["rows_rejected"]
    assert counts["actions"] > 0.999 * (num_events - num_bad) - 10
    assert 0.99 * num_users < counts["users"] <= num_users
    options = PrepareOptions()
    num_actions = 0
    for split in SPLITS:
        last = -1
        for file in folder.files(split):
            table = folder.read_file(file, ["user_hash", "timestamp"])
            hashes = table["user_hash"].to_numpy()
            assert hashes[0] > last
            assert (np.diff(hashes) > 0).all()
            last = hashes[-1]
            lists = table["timestamp"].combine_chunks()
            offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
            steps = np.diff(values)
            steps[offsets[1:-1] - 1] = 0
            assert (steps >= 0).all()
            num_actions += len(values)
            assert len(values) <= options.actions_per_file
    assert num_actions == counts["actions"]
    failed = [found for found in check_leaks(folder) if found.outcome == "FAIL"]
    assert not failed, failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-events", type=int, default=1_000_000)
    parser.add_argument("--num-users", type=int, default=10_000)
    parser.add_argument("--num-pois", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything (100 M events: 20 GB)")
    parser.add_argument("--memory-limit", default="5GB", help="of the engine; the process needs some more")
    parser.add_argument("--engines", nargs="+", choices=["duckdb", "spark"], default=["duckdb"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=["sort", "duckdb", "spark"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    source = (
        arguments.out / f"events-{arguments.num_events}-{arguments.num_users}-{arguments.num_pois}-{arguments.seed}"
    )
    times = arguments.out / "times.json"
    if arguments.job == "sort":
        sort(source, arguments.out / "sorted.parquet", arguments.memory_limit)
        return
    if arguments.job:
        prepare(source, arguments.out / f"prepared-{arguments.job}", arguments.job, arguments.memory_limit, times)
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    generate(source, arguments.num_events, arguments.num_users, arguments.num_pois, arguments.seed)
    seconds_of_sort, memory_of_sort = measured([*sys.argv[1:], "--job", "sort"])
    (arguments.out / "sorted.parquet").unlink()
    rows = [["sort (DuckDB)", f"{seconds_of_sort:.1f}", "1.0", f"{memory_of_sort:.2f}"]]
    fingerprints = set()
    for engine in arguments.engines:
        seconds, memory = measured([*sys.argv[1:], "--job", engine])
        rows.append([f"prepare ({engine})", f"{seconds:.1f}", f"{seconds / seconds_of_sort:.1f}", f"{memory:.2f}"])
        folder = PreparedFolder(arguments.out / f"prepared-{engine}")
        fingerprints.add(folder.manifest["content_fingerprint"])
        check(folder, arguments.num_events, arguments.num_users)
        print(engine, ", ".join(f"{step} {spent:.1f} s" for step, spent in json.loads(times.read_text()).items()))
    assert len(fingerprints) == 1
    print("| job | seconds | ratio | peak memory (GB) |\n|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
