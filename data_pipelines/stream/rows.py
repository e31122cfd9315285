"""From one unit to packed rows: a pure function of (unit, epoch, view) and the settings."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data_pipelines.stream.behaviour import Behaviour
from data_pipelines.stream.cleaning import CleaningSettings, drop_duplicates, keep_sequences
from data_pipelines.stream.hashing import BLIND, ROW_ORDER, USER_ORDER, permutation, uniform
from data_pipelines.stream.modes import segment_modes, single_mode_offsets
from data_pipelines.stream.packing import IGNORE_LABEL, cut_windows, expand_rows, pack_best_fit, supervised_windows
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.units import Units

View = Literal["multi", "single"]
VIEWS: tuple[View, View] = ("multi", "single")

# What every consumer may rely on; all other fields keep the dtype of the tokenizer.
_DTYPES = {"input_ids": np.int64, "labels": np.int64, "local_time": np.int64}


@dataclass(frozen=True)
class UnitRows:
    """Rows of one unit: field -> (num_rows, row_length); `counts` says what was read and what was dropped."""

    fields: dict[str, np.ndarray]
    num_rows: int
    counts: Counter[str]


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
            offsets = single_mode_offsets(segment_modes(sequences, self.tokenizer.index), offsets)
        tokens, functional = self._encode(sequences)
        counts.update(functional)
        supervised = (tokens["labels"] != IGNORE_LABEL).any(axis=1)
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
        fields = expand_rows(tokens, self._pad_values, windows, row_of, place_of, num_rows, self.capacity)
        counts.update(
            actions_supervised=int(supervised.sum()),
            actions_in_rows=int(windows.length.sum()),
            places_in_rows=num_rows * self.capacity,
            rows=num_rows,
        )
        return UnitRows(fields, num_rows, counts)

    def padding(self, num_rows: int) -> dict[str, np.ndarray]:
        """Rows of nothing but padding, of the same fields and dtypes as `make` gives."""
        empty = np.zeros(1, dtype=np.int64)
        tokens, _ = self._encode(Sequences(self._no_columns(), empty, empty[:0]))
        none = cut_windows(empty, self.capacity, self.overlap)
        return expand_rows(tokens, self._pad_values, none, none.start, none.start, num_rows, self.capacity)

    def _no_columns(self) -> dict[str, np.ndarray]:
        return {name: values[:0] for name, values in self.units.read(0).columns.items()}

    def _encode(self, sequences: Sequences) -> tuple[dict[str, np.ndarray], Counter[str]]:
        """Tokens of all actions, field -> (num_actions, tokens per action), and counts of functional actions."""
        interest, counts = self.behaviour.interest(sequences)
        columns = {**sequences.columns, "user_hash": sequences.user_hash}
        tokens = self.tokenizer.encode_actions(columns, sequences.offsets, interest)
        tokens = {name: values.astype(_DTYPES.get(name, values.dtype), copy=False) for name, values in tokens.items()}
        return tokens, counts
