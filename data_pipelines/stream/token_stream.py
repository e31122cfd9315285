"""The endless, resumable stream of packed token rows that training reads."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.prepared import PreparedFolder
from data_pipelines.stream.cleaning import CleaningSettings
from data_pipelines.stream.curriculum import CurriculumSettings, choose_multi_mode
from data_pipelines.stream.lanes import Cursor, Lane, UnitFeed, UnitOrder
from data_pipelines.stream.rows import VIEWS, RowMaker, View
from data_pipelines.stream.settings import as_settings
from data_pipelines.stream.units import Units

STATE_VERSION = 1


class TokenStream:
    """Batches of packed rows, endless; an iterator.

    Yields dicts of arrays (num_lanes / world_size, row_length): `input_ids`, `labels` (-100 where not supervised),
    `position_ids` (restart at 0 in each packed sequence), `local_time`, all int64, and the tokenizer's other side
    inputs. Row i of a rank's batch is lane `rank * num_lanes / world_size + i`: the batches of all ranks, concatenated
    in rank order, are the same at any world size.

    Args:
        data_folder: a prepared folder.
        tokenizer: gives `encode_actions`, `modes`, `blind`, `pad_values`, `tokens_per_action` and `index`.
        num_lanes: rows of the global batch; a multiple of world_size.
        row_length: tokens in a row; a multiple of the tokens per action.
        seed: of all orders and choices.
        rank, world_size: this process among those that share the global batch.
        num_workers: threads that make rows ahead of time; they do not change the result.
        cleaning, curriculum: settings, or mappings of them; None for the defaults.
        blind_share: share of supervised actions whose state token is made time-less.
        split: train, validation or test.
        overlap: share of a row that repeats as unsupervised context when a sequence is longer than a row.

    Raises:
        ValueError: for settings that do not fit each other or the data; each message names what to change.
    """

    def __init__(
        self,
        data_folder: str | Path,
        tokenizer: Any,
        num_lanes: int,
        row_length: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        cleaning: CleaningSettings | Mapping[str, Any] | None = None,
        curriculum: CurriculumSettings | Mapping[str, Any] | None = None,
        blind_share: float = 0.0,
        split: str = "train",
        overlap: float = 0.5,
    ) -> None:
        if world_size < 1 or not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..world_size-1, got rank {rank} of world_size {world_size}")
        if num_lanes < 1 or num_lanes % world_size:
            raise ValueError(
                f"num_lanes must be a positive multiple of world_size, got {num_lanes} lanes for {world_size} ranks"
            )
        if num_workers < 0:
            raise ValueError(f"num_workers must be 0 (none) or more, got {num_workers}")
        folder = PreparedFolder(data_folder)
        self.num_lanes = num_lanes
        self.row_length = row_length
        self.seed = seed
        self.curriculum = as_settings(CurriculumSettings, curriculum, "curriculum")
        self.row_number = 0
        settings = as_settings(CleaningSettings, cleaning, "cleaning")
        units = Units(folder, split)
        self._maker = RowMaker(units, tokenizer, row_length, seed, settings, overlap, blind_share)
        self._order = UnitOrder(len(units), num_lanes, seed)
        self._feed = UnitFeed(self._maker.make, len(units), num_workers)
        num_own = num_lanes // world_size
        self._own = range(rank * num_own, (rank + 1) * num_own)
        units_ahead = -(-num_workers // num_own)
        self._lanes = [Lane(lane, self._order, self._feed, units_ahead) for lane in self._own]
        # What a cursor's meaning depends on. The curriculum is not part of it: it may change between runs.
        self._identity: dict[str, Any] = {
            "version": STATE_VERSION,
            "split": split,
            "num_lanes": num_lanes,
            "row_length": row_length,
            "seed": seed,
            "overlap": overlap,
            "blind_share": blind_share,
            "cleaning": json.dumps(dataclasses.asdict(settings), sort_keys=True),
            "data": data_fingerprint(folder, split),
        }

    def __iter__(self) -> "TokenStream":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        multi_mode = self._choices(self.row_number)
        views: list[View] = ["multi" if multi_mode[lane] else "single" for lane in self._own]
        for lane, view in zip(self._lanes, views, strict=True):
            lane.prepare(view)
        rows = [lane.next_row(view) for lane, view in zip(self._lanes, views, strict=True)]
        self.row_number += 1
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def rows_once(self) -> Iterator[dict[str, np.ndarray]]:
        """Every row of the split exactly once, multi-mode, in a fixed order: for held-out loss.

        Batches have the shape of the stream's; the last one is filled up with padding rows, so all ranks give equally
        many batches. Each rank makes all rows and keeps its share. Does not move the stream. Raises ValueError if
        cleaning leaves no row.
        """
        num_made = 0
        waiting: list[dict[str, np.ndarray]] = []
        num_waiting = 0
        for unit in range(self._order.num_units):
            made = self._maker.make("multi", 0, unit)
            if made.num_rows:
                waiting.append(made.fields)
                num_waiting += made.num_rows
                num_made += made.num_rows
            if num_waiting >= self.num_lanes:
                ready = _concatenate(waiting)
                for start in range(0, num_waiting - self.num_lanes + 1, self.num_lanes):
                    yield self._own_rows(ready, start)
                num_waiting %= self.num_lanes
                waiting = [_last_rows(ready, num_waiting)]
        if not num_made:
            self._feed.require_rows("multi")
        if num_waiting:
            yield self._own_rows(_concatenate([*waiting, self._maker.padding(self.num_lanes - num_waiting)]), 0)

    @property
    def tokens_seen(self) -> int:
        """Tokens yielded so far over all ranks, padding included."""
        return self.row_number * self.row_length * self.num_lanes

    @property
    def scheduled_multi_mode_share(self) -> float:
        """Share of multi-mode rows that the curriculum asks of the next batch."""
        return self.curriculum.share(self.tokens_seen)

    @property
    def multi_mode_share(self) -> float:
        """Share of multi-mode rows in the last global batch (all ranks); NaN before the first."""
        return float(self._choices(self.row_number - 1).mean()) if self.row_number else float("nan")

    def survey(self, progress: Callable[[int, int], None]) -> dict[str, int]:
        """The counts of `stats` over exactly one multi-mode pass of the whole split; does not move the stream.

        progress: told how many of how many units are done. Every rank reads all units.
        """
        counts: Counter[str] = Counter()
        for unit in range(self._order.num_units):
            counts.update(self._maker.make("multi", 0, unit).counts)
            progress(unit + 1, self._order.num_units)
        return dict(counts)

    def stats(self) -> dict[str, int]:
        """Counts over the units this rank entered since the stream was made: read, kept, and dropped by reason.

        `actions_in_rows / places_in_rows` is how full the rows are.
        """
        return dict(self._feed.counts)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after what was yielded, whatever was made ahead. Small and JSON-able."""
        lanes = {
            str(lane.lane): {view: [at.epoch, at.position, at.row] for view, at in sorted(lane.cursors.items())}
            for lane in self._lanes
        }
        return {**self._identity, "row_number": self.row_number, "lanes": lanes}

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> None:
        """Continues exactly after the given state.

        state: one state that covers this rank's lanes, or the states of all ranks of the earlier run, whose world size
            may differ. Raises ValueError if states disagree, do not cover the lanes, or belong to another stream.
        """
        states = [state] if isinstance(state, Mapping) else list(state)
        if not states:
            raise ValueError("no stream state to load: expected one state or a list of the states of all ranks")
        for one in states:
            for name, expected in self._identity.items():
                if one.get(name) != expected:
                    raise ValueError(
                        f"the stream state was saved with {name}={one.get(name)!r}, this stream has {expected!r}; "
                        f"restore that setting (or data) to resume, or start a new run"
                    )
        row_numbers = sorted({int(one["row_number"]) for one in states})
        if len(row_numbers) > 1:
            raise ValueError(
                f"stream states of different steps, row_number {row_numbers}: load those of one checkpoint"
            )
        lanes = {lane: cursors for one in states for lane, cursors in one["lanes"].items()}
        missing = [lane for lane in self._own if str(lane) not in lanes]
        if missing:
            raise ValueError(
                f"the stream state lacks lanes {missing[0]}..{missing[-1]} of {self.num_lanes}; "
                "the world size changed: load the list of all ranks' states"
            )
        self._feed.forget()
        for lane in self._lanes:
            saved = lanes[str(lane.lane)]
            lane.restore({view: Cursor(*saved[view]) for view in VIEWS if view in saved})
        self.row_number = row_numbers[0]

    def close(self) -> None:
        """Stops the worker threads."""
        self._feed.close()

    def _choices(self, row_number: int) -> np.ndarray:
        return choose_multi_mode(self.curriculum, self.seed, self.num_lanes, row_number, self.row_length)

    def _own_rows(self, fields: dict[str, np.ndarray], start: int) -> dict[str, np.ndarray]:
        return {name: rows[start + self._own.start : start + self._own.stop].copy() for name, rows in fields.items()}


def data_fingerprint(folder: PreparedFolder, split: str) -> str:
    """A short hash of what the manifest says of a split's files and of the inputs they were made of."""
    manifest = folder.manifest
    files = [entry for entry in manifest["files"] if entry["split"] == split]
    described = {"files": files, "actions": folder.actions, "fingerprints": manifest.get("fingerprints")}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _concatenate(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _last_rows(fields: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {name: rows[len(rows) - count :] for name, rows in fields.items()}
