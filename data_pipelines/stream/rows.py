"""From one unit to packed rows: a pure function of (unit, epoch, view) and the settings."""

from collections import Counter
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np

from data_pipelines.stream.behaviour import Behaviour
from data_pipelines.stream.cleaning import CleaningSettings, drop_duplicates, keep_sequences
from data_pipelines.stream.hashing import BLIND, ROW_ORDER, USER_ORDER, permutation, uniform
from data_pipelines.stream.modes import segment_modes, single_mode_offsets
from data_pipelines.stream.packing import (
    IGNORE_LABEL,
    Layout,
    cut_windows,
    lay_out,
    pack_best_fit,
    supervised_windows,
)
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.units import Units

View = Literal["multi", "single"]
VIEWS: tuple[View, View] = ("multi", "single")

# What every consumer may rely on; all other fields keep the dtype of the tokenizer.
_DTYPES = {"input_ids": np.int64, "labels": np.int64, "local_time": np.int64}


@dataclass(frozen=True)
class UnitRows:
    """Rows of one unit, written out only when they are asked for.

    tokens: field -> (num_actions, tokens per action), each action once; layout: where they stand in the rows;
    pad_values: of each field; counts: what was read and what was dropped.
    """

    tokens: dict[str, np.ndarray]
    layout: Layout
    pad_values: dict[str, int]
    counts: Counter[str]

    @property
    def num_rows(self) -> int:
        return len(self.layout.used)

    def new_batch(self, size: int) -> dict[str, np.ndarray]:
        """Padding rows, to be written over: field -> (size, places in a row, tokens per action)."""
        capacity, width = self.layout.source.shape[1], self.tokens["input_ids"].shape[1]
        kinds = {**{name: values.dtype for name, values in self.tokens.items()}, "position_ids": np.dtype(np.int64)}
        return {
            name: np.full((size, capacity, width), self.pad_values.get(name, 0), dtype=kind)
            for name, kind in kinds.items()
        }

    def write(self, row: int, batch: dict[str, np.ndarray], place: int) -> None:
        """Writes row `row` to row `place` of a `new_batch`, whose padding stays where the row has none."""
        used = self.layout.used[row]
        source = self.layout.source[row, :used]
        for name, values in self.tokens.items():
            # `clip` only because numpy copies once more when it has to raise; all numbers are in range.
            values.take(source, axis=0, out=batch[name][place, :used], mode="clip")
        batch["labels"][place, :used][self.layout.context[row, :used]] = IGNORE_LABEL
        width = batch["position_ids"].shape[2]
        first = self.layout.within[row, :used, None] * width
        np.add(first, np.arange(width), out=batch["position_ids"][place, :used])


def as_rows(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A written batch in its final shape: field -> (size, row_length)."""
    return {name: values.reshape(len(values), values.shape[1] * values.shape[2]) for name, values in batch.items()}


class RowMaker:
    """Reads a unit, cleans it, turns it into tokens, cuts and packs it."""

    def __init__(
        self,
        units: Units,
        tokenizer: Any,
        row_length: int,
        seed: int,
        cleaning: CleaningSettings,
        overlap: float,
        blind_share: float,
    ) -> None:
        """Raises ValueError for names in `cleaning` that the data does not have, and shares out of range."""
        width = tokenizer.tokens_per_action
        if row_length < width or row_length % width:
            raise ValueError(f"row_length must be a positive multiple of {width} (tokens per action), got {row_length}")
        if not 0.0 <= overlap < 1.0:
            raise ValueError(f"overlap is the share of a row that repeats as context: 0 <= overlap < 1, got {overlap}")
        if not 0.0 <= blind_share <= 1.0:
            raise ValueError(f"blind_share must lie between 0 and 1, got {blind_share}")
        self.units = units
        self.tokenizer = tokenizer
        self.capacity = row_length // width
        self.overlap = min(int(overlap * self.capacity), self.capacity - 1)
        self.seed = seed
        self.cleaning = cleaning
        self.blind_share = blind_share
        self._pad_values = {**tokenizer.pad_values, "labels": IGNORE_LABEL}
        self.behaviour = Behaviour(
            cleaning.rules, cleaning.default_behaviour, cleaning.classifier, units.folder.actions, tokenizer.index
        )

    def read(self, epoch: int, unit: int) -> tuple[Sequences, Counter[str]]:
        """The sequences of a unit that cleaning keeps in this epoch, and counts of what was read and dropped."""
        read = self.units.read(unit)
        if read.columns["poi_row"].max(initial=-1) >= self.tokenizer.index.num_pois:
            raise ValueError(
                f"{self.units.where(unit)}: column 'poi_row' holds {read.columns['poi_row'].max()}, the tokenizer's "
                f"index has {self.tokenizer.index.num_pois} POIs; read data with the tokenizer it was prepared for"
            )
        sequences, counts = drop_duplicates(read, self.cleaning.duplicate_seconds)
        keep, dropped = keep_sequences(sequences, self.cleaning, self.tokenizer.index, self.seed, epoch)
        counts.update(dropped)
        counts.update(units=1, sequences_read=len(read), actions_read=read.num_actions)
        return sequences.keep(keep), counts

    def make(self, view: View, epoch: int, unit: int) -> UnitRows:
        """Rows of the unit in one view of one epoch, in their final order."""
        sequences, counts = self.read(epoch, unit)
        offsets = sequences.offsets
        if view == "single":
            offsets = single_mode_offsets(
                segment_modes(sequences, self.tokenizer.index, self.cleaning.trip_km), offsets
            )
        tokens, functional = self._encode(sequences)
        counts.update(functional)
        supervised = reduce(np.logical_or, (tokens["labels"] != IGNORE_LABEL).T)
        if self.blind_share > 0.0:
            blind = uniform((self.seed, BLIND, epoch, unit), np.arange(len(supervised))) < self.blind_share
            self.tokenizer.blind(tokens, supervised & blind)

        windows = cut_windows(offsets, self.capacity, self.overlap)
        useful = supervised_windows(windows, supervised)
        counts["windows_unsupervised"] = int((~useful).sum())
        windows = windows.take(useful)
        # The order of users decides which of equally long windows share a row.
        keys = (epoch, unit, VIEWS.index(view))
        windows = windows.take(permutation((self.seed, USER_ORDER, *keys), len(windows)))
        row_of, place_of, num_rows = pack_best_fit(windows.length, self.capacity)
        row_of = permutation((self.seed, ROW_ORDER, *keys), num_rows)[row_of]
        layout = lay_out(windows, row_of, place_of, num_rows, self.capacity)
        counts.update(
            actions_supervised=int(supervised.sum()),
            actions_in_rows=int(windows.length.sum()),
            places_in_rows=num_rows * self.capacity,
            rows=num_rows,
        )
        return UnitRows(tokens, layout, self._pad_values, counts)

    def _encode(self, sequences: Sequences) -> tuple[dict[str, np.ndarray], Counter[str]]:
        """Tokens of all actions, field -> (num_actions, tokens per action), and counts of functional actions."""
        interest, counts = self.behaviour.interest(sequences)
        columns = {**sequences.columns, "user_hash": sequences.user_hash}
        tokens = self.tokenizer.encode_actions(columns, sequences.offsets, interest)
        tokens = {name: values.astype(_DTYPES.get(name, values.dtype), copy=False) for name, values in tokens.items()}
        return tokens, counts
