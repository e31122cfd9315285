"""Ways to give a place its tokens, compared: statistics of the ids, and data for models that differ in the blocks only.

python benchmarks/index_alternatives.py table --pois DATA/pois.parquet     # the statistics (needs `pip install h3`)
python benchmarks/index_alternatives.py country --out FOLDER               # eight simulated cities as one country
python benchmarks/index_alternatives.py clustered --num-pois N --out FILE  # places of a country, for `table`
python benchmarks/index_alternatives.py variants --data FOLDER --out OUT   # OUT/{quadtree,grid,random,flat}/data

`bash benchmarks/geography.sh` trains and evaluates a model on each variant.
"""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipelines import PreparedFolder
from data_pipelines.simulator import CitySettings, simulate
from spacetime_gr import POIIndex, SpacetimeGRTokenizer
from spacetime_gr.index.build import centers_of
from spacetime_gr.index.geometry import morton

WIDTH = 256
CITIES = (
    (31.23, 121.47), (39.90, 116.40), (23.13, 113.26), (30.57, 104.07),
    (34.34, 108.94), (45.80, 126.53), (30.59, 114.30), (36.07, 120.38),
)  # fmt: skip


def grouped(cells: NDArray[np.uint64], visits: NDArray[np.int64]) -> tuple[int, int]:
    """Number of cells, and of the most places in one: sizes of 'cell + rank' ids, unique by the rank."""
    _, counts = np.unique(cells, return_counts=True)
    return len(counts), int(counts.max())


def geohash(latitude: NDArray[np.float64], longitude: NDArray[np.float64], letters: int) -> NDArray[np.uint64]:
    """Geohash cells of an even number of letters (5 bits each, longitude first) as integers."""
    bits = 5 * letters // 2
    x = np.minimum((longitude + 180.0) / 360.0 * (1 << bits), (1 << bits) - 1).astype(np.uint64)
    y = np.minimum((latitude + 90.0) / 180.0 * (1 << bits), (1 << bits) - 1).astype(np.uint64)
    return morton(y, x)


def schemes(pois: pa.Table, bound: int) -> Iterator[tuple[str, int, int, float, float]]:
    """Name, tokens of both levels, share of places whose id is not theirs alone, bytes per place of the table."""
    import h3

    latitude, longitude = (pois[name].to_numpy() for name in ("latitude", "longitude"))
    size = len(latitude)
    visits = pois["train_visits"].to_numpy()
    yield "flat POI ids", size, 0, 0.0, 0.0
    index = POIIndex.build(pois, max_pois_per_block=bound)
    pairs = {"quadtree": index, "grid, 5 km": POIIndex.build(pois, scheme="grid")}
    for name, built in pairs.items():
        blocks, inners = built.encode(np.arange(size), rows=True)
        distinct = len(np.unique(blocks.astype(np.int64) * built.num_inner + inners))
        # The code and its inverse; coordinates, categories, visits and the ids' table are not needed to decode.
        table = built.base.codes.nbytes + built.rows_by_block.nbytes + built.block_starts.nbytes
        yield f"{name}", built.num_blocks, built.num_inner, 1 - distinct / size, table / size
    cells = {"geohash-6 + rank": geohash(latitude, longitude, 6)}
    for resolution in (6, 7, 8):
        strings = [h3.latlng_to_cell(a, b, resolution) for a, b in zip(latitude, longitude, strict=True)]
        cells[f"H3 resolution {resolution} + rank"] = np.array([int(cell, 16) for cell in strings], np.uint64)
    for name, keys in cells.items():
        count, most = grouped(keys, visits)
        # A cell id of 8 bytes and a rank per place, and the way back.
        yield name, count, most, 0.0, 8.0 + 4.0 + 4.0
    # Random codes as a learnt quantiser without collision handling gives at best: two levels of the same sizes.
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, index.num_blocks, size), rng.integers(0, index.num_inner, size)
    _, counts = np.unique(first * index.num_inner + second, return_counts=True)
    yield "random two-level codes", index.num_blocks, index.num_inner, float(counts[counts > 1].sum() / size), 4.0 + 4.0


def table(pois_path: Path, bound: int) -> None:
    """Print the comparison as Markdown."""
    pois = pq.read_table(pois_path)
    size = pois.num_rows
    print(f"{size:,} places, at most {bound} a quadtree block\n")
    print("| ids | tokens | of these: cells + ranks | places that share an id | id pairs that name no place |")
    print("|---|---|---|---|---|")
    rows = list(schemes(pois, bound))
    for name, first, second, shared, _ in rows:
        pairs = first * max(1, second)
        invalid = max(0.0, 1.0 - size * (1 - shared) / pairs)
        print(f"| {name} | {first + second:,} | {first:,} + {second:,} | {shared:.1%} | {invalid:.1%} |")
    print(f"\n| ids | embedding and head, MB (width {WIDTH}, fp32, tied) | table, bytes per place |\n|---|---|---|")
    for name, first, second, _, table_bytes in rows:
        print(f"| {name} | {(first + second) * WIDTH * 4 / 1e6:,.1f} | {table_bytes:.1f} |")


def country(out: Path, seed: int) -> None:
    """Simulate eight cities and write them as one country: `events.parquet`, `pois.parquet`."""
    out.mkdir(parents=True, exist_ok=True)
    events, pois = [], []
    for number, (latitude, longitude) in enumerate(CITIES):
        folder = out / f"city-{number}"
        settings = CitySettings(
            num_users=300, num_pois=400, num_events=30_000, seed=seed + number, latitude=latitude, longitude=longitude
        )
        simulate(folder, settings)
        for name, tables in (("events", events), ("pois", pois)):
            part = pq.read_table(folder / f"{name}.parquet")
            for column in {"user_id", "poi_id"} & set(part.column_names):
                marked = pa.array([f"c{number}-{value}" for value in part[column].to_pylist()])
                part = part.set_column(part.column_names.index(column), column, marked)
            tables.append(part)
        shutil.rmtree(folder)
    pq.write_table(pa.concat_tables(events), out / "events.parquet")
    pq.write_table(pa.concat_tables(pois), out / "pois.parquet")


def grid_of_size(pois: pa.Table, bound: int, num_blocks: int) -> POIIndex:
    """The grid with the same bound whose number of blocks comes nearest to a given one: bisection of the side.

    (Without a bound no grid of New York has as few tokens: 1.6 km squares need 495 + 374, larger ones more inner ids.)
    """
    smallest, largest = 0.05, 50.0
    best: POIIndex | None = None
    for _ in range(30):
        side = (smallest * largest) ** 0.5
        index = POIIndex.build(pois, scheme="grid", cell_km=side, max_pois_per_block=bound)
        if best is None or abs(index.num_blocks - num_blocks) < abs(best.num_blocks - num_blocks):
            best = index
        smallest, largest = (side, largest) if index.num_blocks > num_blocks else (smallest, side)
    assert best is not None
    return best


def scattered(pois: pa.Table, bound: int, seed: int) -> POIIndex:
    """Blocks of the quadtree's sizes whose places lie anywhere; all else (categories, order of visits) as there."""
    order = np.random.default_rng(seed).permutation(pois.num_rows)
    moved = pois.set_column(pois.column_names.index("latitude"), "latitude", pois["latitude"].take(pa.array(order)))
    moved = moved.set_column(
        moved.column_names.index("longitude"), "longitude", pois["longitude"].take(pa.array(order))
    )
    index = POIIndex.build(moved, max_pois_per_block=bound)
    true = POIIndex.build(pois, max_pois_per_block=bound)
    block, _ = index.encode(np.arange(index.num_pois), rows=True)
    centers = centers_of(block, index.num_blocks, true.base.latitude, true.base.longitude)
    base = replace(
        index.base,
        latitude=true.base.latitude,
        longitude=true.base.longitude,
        position=np.zeros_like(index.base.position),  # a place has no position in a block that is no area
    )
    return replace(index, base=base, blocks=replace(index.blocks, centers=centers))


def variants(data: Path, out: Path, bound: int, seed: int) -> None:
    """Copies of a prepared folder that differ in their tokenizers."""
    folder = PreparedFolder(data)
    pois = folder.pois()
    quadtree = POIIndex.build(pois, max_pois_per_block=bound)
    indexes: dict[str, Any] = {
        "quadtree": quadtree,
        "grid": grid_of_size(pois, bound, quadtree.num_blocks),
        "random": scattered(pois, bound, seed),
        "flat": POIIndex.build(pois, max_pois_per_block=pois.num_rows),  # one block: its inner ids are flat ids
    }
    for name, index in indexes.items():
        target = out / name / "data"
        shutil.copytree(data, target, ignore=shutil.ignore_patterns("tokenizer"))
        SpacetimeGRTokenizer(index=index, actions=folder.actions).save_pretrained(target / "tokenizer")
        side = f", squares of {index.scheme.cell_km:.2f} km" if name == "grid" else ""
        print(f"{name}: {index.num_blocks} blocks + {index.num_inner} inner ids{side}")


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("table", "country", "clustered", "variants"):
        command = commands.add_parser(name)
        command.add_argument("--seed", type=int, default=0)
        if name == "table":
            command.add_argument("--pois", type=Path, required=True)
        if name == "variants":
            command.add_argument("--data", type=Path, required=True)
        if name in ("table", "variants"):
            command.add_argument("--max-pois-per-block", type=int, default=32)
        if name != "table":
            command.add_argument("--out", type=Path, required=True)
        if name == "clustered":
            command.add_argument("--num-pois", type=int, default=1_000_000)
    arguments = parser.parse_args()
    if arguments.command == "table":
        table(arguments.pois, arguments.max_pois_per_block)
    elif arguments.command == "country":
        country(arguments.out, arguments.seed)
    elif arguments.command == "clustered":
        from index_scale import places

        pq.write_table(places(arguments.num_pois, arguments.seed, 0, "integer", arguments.num_pois), arguments.out)
    else:
        variants(arguments.data, arguments.out, arguments.max_pois_per_block, arguments.seed)


if __name__ == "__main__":
    main()
