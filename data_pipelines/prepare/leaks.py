"""Checks that a prepared folder keeps its parts apart: nothing of a later part reaches training, nobody is in twice."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipelines.prepare.fingerprint import content_fingerprint
from data_pipelines.prepare.shards import COLUMN_TYPES, rows_fingerprint
from data_pipelines.prepared import MANIFEST_NAME, SPLITS, PreparedFolder, require_keys

Outcome = Literal["pass", "FAIL", "does not apply"]
Progress = Callable[[str], None]
# The lists of a shard that the checks read.
_LISTS = ("timestamp", "poi_row", "action")
_COUNTS_NAME = "train_visits and train_visitors count training alone"
_CATALOGUE_NAME = "only POIs of training are listed"
_INDEX_NAME = "the tokenizer's index was built from training visits"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what should hold.
        outcome: "pass", "FAIL" or "does not apply".
        detail: numbers behind it, or why it does not apply.
    """

    name: str
    outcome: Outcome
    detail: str


@dataclass
class _Part:
    """What one pass over the shards of a part gathers."""

    first: int | None = None
    last: int | None = None
    visits: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    visitors: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    users: list[np.ndarray] = field(default_factory=list)
    events: list[np.ndarray] = field(default_factory=list)
    unsorted_users: int = 0
    outside: int = 0
    altered: list[str] = field(default_factory=list)


def check_leaks(
    folder: PreparedFolder, index_visits: np.ndarray | None = None, progress: Progress = lambda step: None
) -> list[Check]:
    """Run all checks: one pass over the shards, a shard in memory at a time, and at most 16 bytes for each event.

    Args:
        folder: the prepared folder.
        index_visits: training visits that the tokenizer's POI index holds, int64 of shape (num_pois,) by poi_row; None
            if there is no tokenizer.
        progress: told each shard.

    Raises:
        ValueError: if a file is damaged, or the manifest lacks what the checks compare with.
    """
    place = str(folder.path / MANIFEST_NAME)
    require_keys(folder.manifest, {"split": dict, "settings": dict}, place)
    require_keys(folder.manifest["split"], {"rule": str}, f"{place}, split")
    for number, entry in enumerate(folder.manifest["files"]):
        require_keys(entry, {"fingerprint": str}, f"{place}, files[{number}]")
    pois = folder.pois()
    parts = {split: _read_part(folder, split, pois.num_rows, progress) for split in SPLITS}
    counts = {name: pois[name].to_numpy() for name in ("train_visits", "train_visitors")}
    return [
        _shards_are_those_of_the_manifest(folder, parts),
        _time_order(folder, parts),
        _no_event_twice(folder, parts),
        *_pois_are_of_training(folder, counts, index_visits, parts),
        _nobody_twice(parts),
        _sequences(parts),
    ]


def _read_part(folder: PreparedFolder, split: str, num_pois: int, progress: Progress) -> _Part:
    part = _Part(visits=np.zeros(num_pois, dtype=np.int64), visitors=np.zeros(num_pois, dtype=np.int64))
    stated = {folder.path / entry["path"]: entry["fingerprint"] for entry in folder.manifest["files"]}
    for file in folder.files(split):
        progress(f"reading {file.name} of {split}")
        table = folder.read_file(file)
        _require_sequences(table, file)
        if rows_fingerprint(table) != stated[file]:
            part.altered.append(f"{split}/{file.name}")
        users = table["user_hash"].to_numpy()
        lengths = pc.list_value_length(table["timestamp"]).to_numpy()
        times = pc.list_flatten(table["timestamp"]).to_numpy()
        rows = pc.list_flatten(table["poi_row"]).to_numpy()
        actions = pc.list_flatten(table["action"]).to_numpy()
        owners = np.repeat(users, lengths)
        part.users.append(users)
        part.unsorted_users += len(np.unique(owners[1:][(owners[1:] == owners[:-1]) & (np.diff(times) < 0)]))
        if len(times):
            part.first = min(times.min(), times.max() if part.first is None else part.first)
            part.last = max(times.max(), times.min() if part.last is None else part.last)
        part.outside += int(((rows < -1) | (rows >= num_pois)).sum())
        known = (rows >= 0) & (rows < num_pois)
        part.visits += np.bincount(rows[known], minlength=num_pois)
        # A user's sequence is one row of one shard.
        pairs = np.unique(np.repeat(np.arange(len(users)), lengths)[known] * num_pois + rows[known])
        part.visitors += np.bincount(pairs % max(num_pois, 1), minlength=num_pois)
        # At unknown POIs two events of one second need not be one event.
        part.events.append(_event_keys(owners[known], times[known], rows[known], actions[known]))
    return part


def _require_sequences(table: pa.Table, file: Path) -> None:
    """Raises ValueError if the shard lacks a column that the checks read, or its lists do not fit together."""
    for name in ("user_hash", *_LISTS):
        kind = COLUMN_TYPES.get(name, pa.int64())
        wanted = pa.list_(pa.field("element", kind)) if name in _LISTS else kind
        found = table.schema.field(name).type if name in table.column_names else None
        if found != wanted:
            raise ValueError(
                f"{file}: the column {name} {f'has type {found}' if found else 'is missing'}, expected {wanted}; "
                "copy the file again or run `spacetime-gr prepare --overwrite`"
            )
    lengths = pc.list_value_length(table["timestamp"])
    for name in _LISTS:
        if table[name].null_count or pc.list_flatten(table[name]).null_count:
            raise ValueError(f"{file}: the column {name} holds nulls; run `spacetime-gr prepare --overwrite`")
        if not lengths.equals(pc.list_value_length(table[name])):
            raise ValueError(
                f"{file}: the lists of {name} and timestamp differ in length; run `spacetime-gr prepare --overwrite`"
            )


def _event_keys(users: np.ndarray, times: np.ndarray, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """uint64 hash of each event: two events share one by chance in 2**64."""
    key = np.zeros(len(users), dtype=np.uint64)
    for values in (users, times, rows, actions):
        # One round of SplitMix64 for each value.
        key = key ^ values.astype(np.int64).view(np.uint64)
        key += np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key = key ^ (key >> np.uint64(31))
    return key


def _shards_are_those_of_the_manifest(folder: PreparedFolder, parts: dict[str, _Part]) -> Check:
    altered = [file for part in parts.values() for file in part.altered]
    name = "shards hold the rows that the manifest states"
    if folder.manifest.get("content_fingerprint") != content_fingerprint(folder.manifest["files"]):
        return Check(name, "FAIL", "the manifest's own fingerprints disagree")
    return Check(name, "FAIL" if altered else "pass", f"changed: {', '.join(altered)}" if altered else "all shards")


def _time_order(folder: PreparedFolder, parts: dict[str, _Part]) -> Check:
    name = "each part ends before the next one starts"
    rule = folder.manifest["split"]["rule"]
    if rule in ("source", "leave-last-out"):
        reason = "the source's own split" if rule == "source" else "parts of leave-last-out overlap in time by nature"
        return Check(name, "does not apply", reason)
    filled = [(split, part) for split, part in parts.items() if part.first is not None]
    for (earlier, before), (later, after) in itertools.pairwise(filled):
        assert before.last is not None
        assert after.first is not None
        if before.last >= after.first:
            return Check(name, "FAIL", f"{earlier} ends at {before.last}, {later} starts at {after.first}")
    return Check(name, "pass", ", ".join(f"{split} {part.first}..{part.last}" for split, part in filled))


def _no_event_twice(folder: PreparedFolder, parts: dict[str, _Part]) -> Check:
    name = "no event in two parts"
    if folder.manifest["split"]["rule"] == "source":
        return Check(name, "does not apply", "the source's own split keeps its repetitions")
    if folder.manifest["settings"].get("duplicates") == "keep":
        return Check(name, "does not apply", "--duplicates keep: a repetition may lie in another part")
    num_events = sum(len(keys) for part in parts.values() for keys in part.events)
    ordered = [_in_order(part) for part in parts.values()]
    twice = sum(_num_shared(earlier, later) for earlier, later in itertools.combinations(ordered, 2))
    return Check(name, "FAIL" if twice else "pass", f"{twice:,} of {num_events:,} events at listed POIs")


def _in_order(part: _Part) -> np.ndarray:
    """The keys of a part's events, taken from it: only one part is held twice at any time."""
    keys = np.concatenate([np.zeros(0, np.uint64), *part.events])
    part.events.clear()
    keys.sort()
    return keys


def _num_shared(earlier: np.ndarray, later: np.ndarray) -> int:
    """How many events of a later part an earlier one holds; keys in order."""
    if not len(earlier):
        return 0
    return int((earlier[np.minimum(np.searchsorted(earlier, later), len(earlier) - 1)] == later).sum())


def _pois_are_of_training(
    folder: PreparedFolder, counts: dict[str, np.ndarray], index_visits: np.ndarray | None, parts: dict[str, _Part]
) -> list[Check]:
    other = folder.manifest.get("like")
    if other is not None:
        reason = f"--like: taken over from the folder with content_fingerprint {other}; check that one"
        return [Check(name, "does not apply", reason) for name in (_COUNTS_NAME, _CATALOGUE_NAME, _INDEX_NAME)]
    visits = counts["train_visits"]
    return [
        _counts_are_of_training(visits, counts["train_visitors"], parts["train"]),
        _catalogue_is_of_training(folder, visits),
        _index_counts(visits, index_visits),
    ]


def _counts_are_of_training(visits: np.ndarray, visitors: np.ndarray, train: _Part) -> Check:
    wrong = int(((visits != train.visits) | (visitors != train.visitors)).sum())
    detail = f"{wrong:,} of {len(visits):,} POIs state other visits or visitors than training holds"
    return Check(_COUNTS_NAME, "FAIL" if wrong else "pass", detail)


def _catalogue_is_of_training(folder: PreparedFolder, visits: np.ndarray) -> Check:
    name = _CATALOGUE_NAME
    if folder.manifest["settings"].get("catalogue") == "all":
        return Check(name, "does not apply", "--catalogue all lists the whole POI table")
    unvisited = int((visits == 0).sum())
    return Check(name, "FAIL" if unvisited else "pass", f"{unvisited:,} of {len(visits):,} POIs without a visit")


def _index_counts(visits: np.ndarray, index_visits: np.ndarray | None) -> Check:
    name = _INDEX_NAME
    if index_visits is None:
        return Check(name, "does not apply", "the folder holds no tokenizer")
    if len(index_visits) != len(visits):
        return Check(name, "FAIL", f"the index has {len(index_visits):,} POIs, the folder {len(visits):,}")
    wrong = int((visits != index_visits).sum())
    return Check(name, "FAIL" if wrong else "pass", f"{wrong:,} of {len(visits):,} POIs differ")


def _nobody_twice(parts: dict[str, _Part]) -> Check:
    twice = {}
    for split, part in parts.items():
        users = np.sort(np.concatenate(part.users)) if part.users else np.zeros(0, np.int64)
        twice[split] = int((users[1:] == users[:-1]).sum())
        if len(users) and users[0] < 0:
            return Check("one row per user", "FAIL", f"{split} holds negative user hashes, which prepare never writes")
    detail = ", ".join(f"{split} {num:,}" for split, num in twice.items())
    return Check("one row per user", "FAIL" if any(twice.values()) else "pass", f"repeated users: {detail}")


def _sequences(parts: dict[str, _Part]) -> Check:
    unsorted = sum(part.unsorted_users for part in parts.values())
    outside = sum(part.outside for part in parts.values())
    detail = f"{unsorted:,} users out of order, {outside:,} actions at rows that pois.parquet lacks"
    return Check("sequences are in time order, at listed POIs", "FAIL" if unsorted or outside else "pass", detail)
