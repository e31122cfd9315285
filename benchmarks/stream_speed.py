"""Speed and memory of the token stream on one core.

taskset -c 0 python benchmarks/stream_speed.py settings --data FOLDER
taskset -c 0 python benchmarks/stream_speed.py stages --data FOLDER
taskset -c 0 python benchmarks/stream_speed.py rowwise --data FOLDER
taskset -c 0 python benchmarks/stream_speed.py memory --data FOLDER --plot docs/images/stream_memory.png

`settings`: tokens per second of the whole stream (read, clean, tokenise, cut, pack, write), and how full the rows are.
Beside it stands a check: the labels of one finite pass must be those of every action of the training part, once.
`stages`: where the time goes. `rowwise`: the same work written as a row-wise `datasets.map`, and whether every packed
window is equal. `memory`: the process's resident memory over an epoch.

FOLDER is any prepared folder; one of 50,000 random places and 5,120 walkers is made there if it does not exist. Times
are CPU times of this process, so that other work on the machine disturbs them little; wall times stand beside.
"""

import argparse
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines import PreparedFolder, TokenStream
from data_pipelines.prepared import SCHEMA_VERSION
from data_pipelines.stream.modes import segment_modes, single_mode_offsets
from data_pipelines.stream.packing import cut_windows, lay_out, pack_best_fit
from data_pipelines.stream.rows import as_rows
from spacetime_gr import POIIndex, SpacetimeGRTokenizer

NUM_LANES, ROW_LENGTH = 8, 1024
CLEANING: dict[str, Any] = {
    "min_actions": 3,
    "min_distinct_ratio": 0.1,
    "rules": [{"name": "returns", "behaviour": "functional", "anchors": 2}],
}
SETTINGS: dict[str, dict[str, Any]] = {
    "row_length 512": {"row_length": 512},
    "row_length 1024": {"row_length": ROW_LENGTH},
    "row_length 4096": {"row_length": 4096},
    "cleaning: anchors, richness, length": {"row_length": ROW_LENGTH, "cleaning": CLEANING},
    "half single-mode": {"row_length": ROW_LENGTH, "curriculum": {"schedule": "constant", "final_share": 0.5}},
}
Fields = dict[str, np.ndarray]


def main() -> None:
    """Run one part and print its table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("settings", "stages", "rowwise", "memory"))
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--units", type=int, default=6, help="rowwise: row groups that both ways read")
    parser.add_argument("--plot", type=Path, help="memory: picture to write")
    arguments = parser.parse_args()
    if not arguments.data.exists():
        make_folder(arguments.data)
    tokenizer = SpacetimeGRTokenizer.from_pretrained(PreparedFolder(arguments.data).tokenizer_path)
    if arguments.part == "settings":
        settings(arguments.data, tokenizer, arguments.repeats)
    elif arguments.part == "stages":
        stages(arguments.data, tokenizer, arguments.repeats)
    elif arguments.part == "rowwise":
        rowwise(arguments.data, tokenizer, arguments.units, arguments.repeats)
    else:
        memory(arguments.data, tokenizer, arguments.plot)


def settings(data: Path, tokenizer: Any, repeats: int) -> None:
    """Tokens per second for several settings, over whole passes after a warm-up; the median of the repeats."""
    rows = PreparedFolder(data).read("train", columns=["poi_row"])["poi_row"].combine_chunks().flatten().to_numpy()
    expected, _ = tokenizer.index.encode(rows[rows >= 0], rows=True)
    print("| setting | M tokens/s (CPU) | (wall) | rows filled | labels as expected |\n|---|---|---|---|---|")
    for name, options in SETTINGS.items():
        stream = TokenStream(data, tokenizer, num_lanes=NUM_LANES, **options)
        steps = max(50, len(rows) * 4 // (NUM_LANES * options["row_length"]))
        cpu, wall, filled = [], [], []
        for _ in range(repeats + 1):
            clocks, tokens, places = (time.process_time(), time.perf_counter()), 0, 0
            for _ in range(steps):
                batch = next(stream)
                tokens += int(np.count_nonzero(batch["input_ids"]))
                places += batch["input_ids"].size
            cpu.append(tokens / (time.process_time() - clocks[0]))
            wall.append(tokens / (time.perf_counter() - clocks[1]))
            filled.append(tokens / places)
        same = "not compared: cleaning leaves labels out"
        if "cleaning" not in options:
            once = TokenStream(data, tokenizer, num_lanes=NUM_LANES, **options).rows_once()
            flat = np.concatenate([batch["labels"].ravel() for batch in once])
            vocabulary = tokenizer.vocabulary
            blocks = flat[(flat >= vocabulary.block_start) & (flat < vocabulary.inner_start)] - vocabulary.block_start
            same = "yes" if np.array_equal(np.sort(blocks), np.sort(expected)) else "NO"
        speeds = " | ".join(f"{median(values[1:]) / 1e6:.1f}" for values in (cpu, wall))  # the first pass warms up
        print(f"| {name} | {speeds} | {median(filled):.0%} | {same} |")


def stages(data: Path, tokenizer: Any, repeats: int) -> None:
    """CPU time of each stage of one unit in ms, the median over units, and its share."""
    maker = TokenStream(data, tokenizer, NUM_LANES, ROW_LENGTH, cleaning=CLEANING).makers[0]
    times: dict[str, list[float]] = {}
    tokens = []
    for unit in [unit % len(maker.units) for unit in range(repeats * min(20, len(maker.units)))]:
        clock = time.process_time()

        def lap(stage: str) -> None:
            nonlocal clock
            times.setdefault(stage, []).append((time.process_time() - clock) * 1e3)
            clock = time.process_time()

        maker.units.read(unit)
        lap("read the row group, check it")
        clock = time.process_time()
        sequences, _ = maker.read(0, unit)
        lap("read and clean the sequences")
        interest, _ = maker.behaviour.interest(sequences)
        lap("rules of behaviour")
        single_mode_offsets(segment_modes(sequences, tokenizer.index), sequences.offsets)
        lap("segment (single-mode rows only)")
        columns = {**sequences.columns, "user_hash": sequences.user_hash}
        tokenizer.encode_actions(columns, sequences.offsets, interest)
        lap("tokenise")
        windows = cut_windows(sequences.offsets, maker.capacity, maker.overlap)
        row_of, place_of, num_rows = pack_best_fit(windows.length, maker.capacity)
        lay_out(windows, row_of, place_of, num_rows, maker.capacity)
        lap("cut and pack")
        made = maker.make("multi", 0, unit)
        lap("all of these but segmenting")
        batch = made.new_batch(NUM_LANES)
        for row in range(made.num_rows):
            made.write(row, batch, row % NUM_LANES)
        lap("write the rows")
        tokens.append(int(made.layout.used.sum()) * tokenizer.tokens_per_action)
    middle = {stage: median(values) for stage, values in times.items()}
    middle["clean the sequences"] = max(0.0, middle.pop("read and clean the sequences") - middle[next(iter(times))])
    total = middle.pop("all of these but segmenting") + middle["write the rows"]
    print("| stage | ms a unit | share |\n|---|---|---|")
    for stage, spent in sorted(middle.items(), key=lambda item: -item[1]):
        print(f"| {stage} | {spent:.2f} | {'' if 'single' in stage else f'{spent / total:.0%}'} |")
    print(f"| all, multi-mode | {total:.2f} | {median(tokens) / total / 1e3:.1f} M tokens/s |")


def rowwise(data: Path, tokenizer: Any, num_units: int, repeats: int) -> None:
    """The stream's way and a row-wise `datasets.map` over the same users; are the packed windows equal?"""
    maker = TokenStream(data, tokenizer, NUM_LANES, ROW_LENGTH, cleaning=CLEANING).makers[0]
    num_units = min(num_units, len(maker.units))

    def vectorised() -> Iterator[Fields]:
        for unit in range(num_units):
            made = maker.make("multi", 0, unit)
            batch = made.new_batch(made.num_rows)
            for row in range(made.num_rows):
                made.write(row, batch, row)
            yield as_rows(batch)

    path = maker.units.folder.files("train")[0]
    groups = [users for file, _, users in maker.units.folder.row_groups("train") if file == path]
    assert num_units <= len(groups), f"--units {num_units}: the first file has {len(groups)} row groups"
    num_users = sum(groups[:num_units])

    def mapped(streaming: bool) -> Iterator[Fields]:
        return map_rows(path, num_users, groups[0], tokenizer, maker.capacity, maker.overlap, streaming)

    print("| way | M tokens/s (CPU) | (wall) | rows |\n|---|---|---|---|")
    speeds, windows = {}, {}
    for name, way, times in (
        ("stream", vectorised, repeats),
        ("row-wise `IterableDataset.map`", partial(mapped, streaming=True), 1),
        ("row-wise `Dataset.map`", partial(mapped, streaming=False), 1),
    ):
        next(way())  # warms up
        cpu, wall, rows = [], [], []
        for _ in range(times):
            clocks = time.process_time(), time.perf_counter()
            rows = list(way())
            cpu.append(time.process_time() - clocks[0])
            wall.append(time.perf_counter() - clocks[1])
        windows[name] = packed_windows(rows)
        tokens = sum(int(np.count_nonzero(batch["input_ids"])) for batch in rows)
        speeds[name] = tokens / median(cpu)
        number = sum(len(batch["input_ids"]) for batch in rows)
        print(f"| {name} | {speeds[name] / 1e6:.2f} | {tokens / median(wall) / 1e6:.2f} | {number} |")
    print()
    for name in list(speeds)[1:]:
        equal = "equal" if windows[name] == windows["stream"] else "NOT EQUAL"
        print(f"{name}: the stream is {speeds['stream'] / speeds[name]:.0f} times as fast; packed windows {equal}")


def map_rows(
    path: Path, num_users: int, buffer: int, tokenizer: Any, capacity: int, overlap: int, streaming: bool
) -> Iterator[Fields]:
    """What one would write first: a function of one user, given to `datasets.map`, and a packer behind it."""
    from datasets import Dataset, IterableDataset, disable_progress_bars

    disable_progress_bars()

    def clean_and_encode(user: dict[str, Any]) -> dict[str, Any]:
        places = user["poi_row"]
        distinct = len(set(places))
        keep = len(places) >= CLEANING["min_actions"]
        keep = keep and (len(places) < 8 or distinct / len(places) >= CLEANING["min_distinct_ratio"])
        if not keep:
            return {name: np.zeros((0, 4), np.int64) for name in tokenizer.token_fields}
        visits = Counter(places)
        first = {place: number for number, place in reversed(list(enumerate(places)))}
        ranked = sorted(visits, key=lambda place: (-visits[place], first[place]))
        anchors = {place for place in ranked[:2] if visits[place] >= 3}
        interest = [place not in anchors or first[place] == number for number, place in enumerate(places)]
        columns = {name: np.array(user[name]) for name in user if name != "user_hash"}
        columns["user_hash"] = np.array([user["user_hash"]])
        return tokenizer.encode_actions(columns, np.array([0, len(places)]), np.array(interest))

    def windows_of(user: dict[str, Any]) -> Iterator[tuple[Fields, int]]:
        length = len(user["input_ids"])
        stride = capacity - overlap
        for start in range(0, max(1, length - overlap) if length > capacity else min(1, length), stride):
            window = {name: np.array(user[name][start : start + capacity]) for name in tokenizer.token_fields}
            if start:
                window["labels"][:overlap] = -100
            if (window["labels"] != -100).any():
                yield window, len(window["input_ids"])

    with tempfile.TemporaryDirectory() as cache:
        if streaming:
            users = IterableDataset.from_parquet(str(path), cache_dir=cache).take(num_users).map(clean_and_encode)
        else:
            whole = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
            users = whole.take(num_users).map(clean_and_encode, keep_in_memory=True).with_format("numpy")
        waiting: list[tuple[Fields, int]] = []
        for number, user in enumerate(users, 1):
            waiting.extend(windows_of(user))
            if number % buffer == 0 or number == num_users:
                lengths = np.array([length for _, length in waiting])
                row_of, place_of, num_rows = pack_best_fit(lengths, capacity)
                batch = {
                    name: np.full((num_rows, capacity, 4), tokenizer.pad_values[name], np.int64)
                    for name in (*tokenizer.token_fields, "position_ids")
                }
                for (window, length), row, place in zip(waiting, row_of, place_of, strict=True):
                    for name, values in window.items():
                        batch[name][row, place : place + length] = values
                    batch["position_ids"][row, place : place + length] = np.arange(4 * length).reshape(length, 4)
                yield as_rows(batch)
                waiting = []


def packed_windows(batches: list[Fields]) -> Counter[bytes]:
    """The windows in rows, each as the bytes of all its fields."""
    found: Counter[bytes] = Counter()
    for batch in batches:
        for row in range(len(batch["input_ids"])):
            real = batch["input_ids"][row] != 0
            starts = [*np.flatnonzero(real & (batch["position_ids"][row] == 0)), int(real.sum())]
            for start, stop in pairwise(starts):
                found[b"".join(batch[name][row, start:stop].tobytes() for name in sorted(batch))] += 1
    return found


def memory(data: Path, tokenizer: Any, plot: Path | None) -> None:
    """Resident memory at every step of two epochs."""
    stream = TokenStream(data, tokenizer, NUM_LANES, ROW_LENGTH, cleaning=CLEANING)
    largest = max(
        sum(values.nbytes for values in stream.makers[0].make("multi", 0, unit).tokens.values())
        for unit in range(min(10, len(stream.makers[0].units)))
    )
    resident, epochs = [], []
    before = _resident()
    while not epochs or epochs[-1] < 2:
        next(stream)
        resident.append(_resident())
        epochs.append(min(lane["0/multi"][0] for lane in stream.state_dict()["lanes"].values()))
    first, second = (np.array(resident)[np.array(epochs) == epoch] for epoch in range(2))
    print("| | MB |\n|---|---|")
    print(f"| before the first batch | {before / 1e6:.0f} |")
    print(f"| first epoch: middle, most | {np.median(first) / 1e6:.0f}, {first.max() / 1e6:.0f} |")
    print(f"| second epoch: middle, most | {np.median(second) / 1e6:.0f}, {second.max() / 1e6:.0f} |")
    print(f"| tokens of {NUM_LANES} lanes x the largest unit | {NUM_LANES * largest / 1e6:.0f} |")
    if plot is not None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(np.array(resident) / 1e6, color="#c2410c", label="resident memory")
        axes.axhline(before / 1e6, color="#6b7488", linestyle="--", label="before the first batch")
        axes.axvline(len(first), color="#1c2333", linewidth=1, label="every lane in its second epoch")
        axes.set(
            xlabel="batches", ylabel="MB", ylim=(0, 1.25 * max(resident) / 1e6), title=f"{NUM_LANES} lanes, one process"
        )
        axes.legend(loc="lower right")
        axes.grid(alpha=0.3)
        plot.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(plot, dpi=130)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def make_folder(folder: Path, num_users: int = 5120, mean_actions: int = 200, num_pois: int = 50_000) -> None:
    """A prepared folder of walkers between random places, of which each prefers twelve."""
    rng = np.random.default_rng(0)
    (folder / "train").mkdir(parents=True)
    pois = pa.table(
        {
            "poi_row": pa.array(range(num_pois), pa.int32()),
            "poi_id": [f"p{row}" for row in range(num_pois)],
            "latitude": 40.7 + 2 * rng.random(num_pois),
            "longitude": -74.0 + 2 * rng.random(num_pois),
            "category": [f"c{row % 9}" for row in range(num_pois)],
            "train_visits": pa.array(range(num_pois, 0, -1), pa.int64()),
        }
    )
    pq.write_table(pois, folder / "pois.parquet")
    group, actions, files = 128, ["visit", "navigate", "save"], []
    for number in range(math.ceil(num_users / (10 * group))):
        users = min(10 * group, num_users - number * 10 * group)
        lengths = rng.geometric(1 / mean_actions, users)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        total, who = int(offsets[-1]), np.repeat(np.arange(users), lengths)
        own = rng.integers(0, num_pois, (users, 12))[who, np.minimum(rng.geometric(0.3, total), 12) - 1]
        time_of = np.cumsum(rng.exponential(40_000, total)).astype(np.int64)
        columns = {
            "poi_row": (np.where(rng.random(total) < 0.7, own, num_pois * rng.random(total) ** 2), pa.int32()),
            "action": (rng.integers(0, len(actions), total), pa.int16()),
            "timestamp": (time_of - np.repeat(time_of[offsets[:-1]], lengths) + 1_600_000_000, pa.int64()),
            "tz_offset_minutes": (np.full(total, -300), pa.int16()),
        }
        table: dict[str, Any] = {"user_hash": pa.array(rng.integers(1, 2**62, users), pa.int64())}
        for name, (values, kind) in columns.items():
            table[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int64)).cast(kind))
        path = f"train/part-{number:05d}.parquet"
        pq.write_table(pa.table(table), folder / path, row_group_size=group, compression="zstd")
        entry = {
            "split": "train",
            "path": path,
            "rows": users,
            "row_groups": [min(group, users - start) for start in range(0, users, group)],
            "actions": total,
            "bytes": (folder / path).stat().st_size,
        }
        files.append(entry)
    index = POIIndex.build(pois, scheme="quadtree", max_pois_per_block=256)
    SpacetimeGRTokenizer(index=index, actions=actions).save_pretrained(folder / "tokenizer")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "protocol": "tables",
        "actions": actions,
        "modes": ["local", "pre_trip", "in_trip"],
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


if __name__ == "__main__":
    main()
