"""The POI index at the size of a country: build, encode, save, open and grow, beside a plain sort of the same keys.

python benchmarks/index_scale.py --num-pois 100000000 --out FOLDER      # 100 M places: 12 minutes, 8 GB of disk

Places are clustered: cities with Zipf sizes over a country, each a mixture of a dense core and a wide rim; ids are
scattered integers below 2^40 (`--ids text`: text of 12 characters), popularity is Zipf, rows in random order. They are
written as Parquet once; then build and baseline run in turn, each in a process of its own (so that its peak memory is
its own), and the ratio is that of the medians. The baseline is `np.argsort(kind="stable")` on the uint64 Morton keys of
the places; it reads the keys from a file and times the sort alone, while the build's time holds reading the Parquet
file, checking, sorting, the hash table of the ids and all columns.

Checks beside the timings: every pair is distinct and decodes back to its place; encoding by row and by id agree; no old
pair moves when places are added.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from spacetime_gr import POIIndex
from spacetime_gr.index.schemes import Quadtree

ROWS_PER_GROUP = 1 << 20
NUM_CITIES = 4000
VOCABULARY = 400_000


def places(count: int, seed: int, first: int, ids: str, total: int) -> pa.Table:
    """`count` clustered places; ids are a permutation of 0 .. total - 1 taken from `first` on, spread over 2^40."""
    rng = np.random.default_rng([seed, first])
    cities = np.random.default_rng(seed)
    center = np.stack([cities.uniform(20.0, 50.0, NUM_CITIES), cities.uniform(75.0, 130.0, NUM_CITIES)])
    share = 1.0 / np.arange(1, NUM_CITIES + 1)
    city = rng.choice(NUM_CITIES, count, p=share / share.sum())
    spread = 0.02 + 0.1 * share[city] ** 0.25
    wide = np.where(rng.random(count) < 0.3, 4.0, 1.0) * spread
    # An affine map modulo a prime larger than `total` spreads the ids without a table of all of them.
    number = (np.arange(first, first + count, dtype=np.int64) * 48_271 + 11) % 1_099_511_627_689
    column: Any = number
    if ids == "text":
        column = pc.binary_join_element_wise(
            "p", pc.utf8_lpad(pa.array(number % 10**11).cast(pa.string()), 11, "0"), ""
        )
    return pa.table(
        {
            "poi_id": column,
            "latitude": np.clip(center[0][city] + rng.normal(0, 1, count) * wide, -89, 89),
            "longitude": center[1][city] + rng.normal(0, 1, count) * wide,
            "category": pa.DictionaryArray.from_arrays(
                rng.integers(0, 300, count).astype(np.int16), [f"category {i:03d}" for i in range(300)]
            ),
            "train_visits": np.minimum(rng.zipf(1.6, count), 10**7),
        }
    )


def write_input(out: Path, num_pois: int, ids: str) -> None:
    """Parquet of the places and, beside it, their keys for the baseline."""
    scheme = Quadtree()
    keys = np.lib.format.open_memmap(out / "keys.npy", "w+", np.uint64, (num_pois,))
    writer = None
    for start in range(0, num_pois, ROWS_PER_GROUP):
        table = places(min(ROWS_PER_GROUP, num_pois - start), 0, start, ids, num_pois)
        keys[start : start + table.num_rows] = scheme.keys(table["latitude"].to_numpy(), table["longitude"].to_numpy())
        writer = writer or pq.ParquetWriter(out / "pois.parquet", table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def peak_gib() -> float:
    """Most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def private_mib() -> float:
    """Memory that this process shares with no other, neither files nor libraries."""
    fields = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return (int(fields["Private_Dirty"].split()[0]) + int(fields["Private_Clean"].split()[0])) / 1024


def timed(action: Any) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


# ---- steps that run in processes of their own; each prints one line of JSON


def step_argsort(out: Path) -> dict[str, Any]:
    """The baseline."""
    keys = np.fromfile(out / "keys.npy", np.uint64, offset=128)
    seconds, _ = timed(lambda: np.argsort(keys, kind="stable"))
    return {"seconds": seconds, "peak_gib": peak_gib()}


def step_build(out: Path, bound: int) -> dict[str, Any]:
    """From Parquet to an index."""
    seconds, index = timed(lambda: POIIndex.build(out / "pois.parquet", max_pois_per_block=bound))
    return {"seconds": seconds, "peak_gib": peak_gib(), "num_blocks": index.num_blocks}


def step_save(out: Path, bound: int) -> dict[str, Any]:
    """Build, check every pair, save."""
    index = POIIndex.build(out / "pois.parquet", max_pois_per_block=bound)
    rows = np.arange(index.num_pois)
    blocks, inners = index.encode(rows, rows=True)
    exact = bool(np.array_equal(index.decode_rows(blocks, inners), rows))
    seconds, _ = timed(lambda: index.save(out / "index"))
    files = {path.name: path.stat().st_size for path in sorted((out / "index").rglob("*")) if path.is_file()}
    own = index.poi_ids.nbytes
    return {
        "seconds": seconds,
        "every pair decodes to its place": exact,
        "num_blocks": index.num_blocks,
        "block_capacity": index.block_capacity,
        "num_inner": index.num_inner,
        "vocabulary": index.block_capacity + index.num_inner,
        "bytes_per_poi": sum(files.values()) / index.num_pois,
        "bytes_per_poi_beside_ids": (sum(files.values()) - own) / index.num_pois,
    }


def step_open(out: Path) -> dict[str, Any]:
    """Open the saved index and answer one question."""
    before = private_mib()
    seconds, index = timed(lambda: POIIndex.load(out / "index"))
    return {"seconds": seconds, "private_mib": private_mib() - before, "num_pois": index.num_pois}


def step_encode(out: Path, num_actions: int) -> dict[str, Any]:
    """Encode actions at places drawn by popularity, at uniform ones, and by id."""
    index = POIIndex.load(out / "index")
    rng = np.random.default_rng(1)
    uniform = rng.integers(0, index.num_pois, num_actions)
    visits = index.visits(np.arange(index.num_pois))
    popular = np.searchsorted(np.cumsum(visits), rng.integers(0, int(visits.sum()), num_actions), side="right")
    del visits
    result: dict[str, Any] = {}
    few = uniform[: num_actions // 10]
    ids, pairs = index.poi_ids.take(pa.array(few)), index.encode(few, rows=True)
    for name, action, count in (
        ("rows by popularity", lambda: index.encode(popular, rows=True), num_actions),
        ("uniform rows", lambda: index.encode(uniform, rows=True), num_actions),
        ("uniform ids", lambda: index.encode(ids), len(few)),
        ("decode", lambda: index.decode_rows(*pairs), len(few)),
    ):
        action()
        result[f"{name}, M/s"] = count / median(timed(action)[0] for _ in range(5)) / 1e6
    by_row, by_id = index.encode(few, rows=True), index.encode(ids)
    result["ids and rows agree"] = all(np.array_equal(a, b) for a, b in zip(by_row, by_id, strict=True))
    return result


def step_add(out: Path, ids: str) -> dict[str, Any]:
    """Add 1 % new places to the saved index, and save again."""
    index = POIIndex.load(out / "index")
    count = index.num_pois // 100
    new = places(count, 0, index.num_pois, ids, index.num_pois + count)
    rows = np.random.default_rng(2).integers(0, index.num_pois, 1_000_000)
    old = index.encode(rows, rows=True)
    index.rows(new["poi_id"].slice(0, 1000))  # the first touch of the files is not what is measured
    seconds, grown = timed(lambda: index.add(new))
    save_seconds, _ = timed(lambda: grown.save(out / "index"))
    again = POIIndex.load(out / "index")
    unmoved = all(np.array_equal(a, b) for a, b in zip(old, again.encode(rows, rows=True), strict=True))
    found = bool((again.decode(*again.encode(new["poi_id"])) == np.array(new["poi_id"].to_pylist(), object)).all())
    return {
        "seconds": seconds,
        "save_seconds": save_seconds,
        "new_blocks": grown.num_blocks - index.num_blocks,
        "no old pair moves": unmoved,
        "every new place is found": found,
    }


def run(step: str, *arguments: object) -> dict[str, Any]:
    """Run a step in a process of its own."""
    command = [sys.executable, __file__, "--step", step, *map(str, arguments)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(f"{step}: {result}", flush=True)
    return result


def main() -> None:
    """Everything in turn; prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-pois", type=int, default=100_000_000)
    parser.add_argument("--max-pois-per-block", type=int, default=1024)
    parser.add_argument("--ids", choices=["integer", "text"], default="integer")
    parser.add_argument("--num-actions", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, out, *rest = arguments.step
        numbers = [int(value) if value.isdigit() else value for value in rest]
        print(json.dumps(globals()[f"step_{name}"](Path(out), *numbers)))
        return
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "pois.parquet").is_file():
        write_input(out, arguments.num_pois, arguments.ids)
    bound = arguments.max_pois_per_block
    sorts, builds = [], []
    for _ in range(arguments.repeats):
        sorts.append(run("argsort", out))
        builds.append(run("build", out, bound))
    saved = run("save", out, bound)
    opened = [run("open", out) for _ in range(arguments.repeats)]
    encoded = run("encode", out, arguments.num_actions)
    added = run("add", out, arguments.ids)
    sort_seconds, build_seconds = (median(part["seconds"] for part in parts) for parts in (sorts, builds))
    rows = {
        "np.argsort(kind='stable') of the keys, s": f"{sort_seconds:.1f}",
        "POIIndex.build, s": f"{build_seconds:.1f}",
        "build / argsort": f"{build_seconds / sort_seconds:.2f}",
        "peak memory of the build, GiB": f"{max(part['peak_gib'] for part in builds):.2f}",
        "blocks + spare + inner ids": f"{saved['vocabulary']:,} (at most {VOCABULARY:,})",
        "file, bytes per POI": f"{saved['bytes_per_poi']:.1f}",
        "file, bytes per POI beside the ids' own": f"{saved['bytes_per_poi_beside_ids']:.1f}",
        "open, s": f"{median(part['seconds'] for part in opened):.3f}",
        "private memory after opening, MiB": f"{max(part['private_mib'] for part in opened):.1f}",
        **{name: f"{value:.1f}" for name, value in encoded.items() if name.endswith("M/s")},
        "adding 1 %, s": f"{added['seconds']:.2f}",
        "adding 1 % / build": f"{added['seconds'] / build_seconds:.1%}",
        "blocks taken for them": f"{added['new_blocks']}",
        "saving after adding, s": f"{added['save_seconds']:.2f}",
    }
    checks = {
        name: value for part in (saved, encoded, added) for name, value in part.items() if isinstance(value, bool)
    }
    print("\n| 1 core | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for name, value in checks.items():
        print(f"| {name} | {'yes' if value else 'NO'} |")


if __name__ == "__main__":
    main()
