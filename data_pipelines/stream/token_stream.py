"""The endless, resumable stream of packed token rows that training reads."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.prepared import PreparedFolder
from data_pipelines.stream.cleaning import CleaningSettings
from data_pipelines.stream.corpora import CorpusSettings, as_corpora, check_names_agree, corpus_seed, data_fingerprint
from data_pipelines.stream.curriculum import CurriculumSettings, choose_corpus, choose_multi_mode
from data_pipelines.stream.lanes import Cursor, Lane, Source, UnitFeed, UnitOrder, Walk
from data_pipelines.stream.rows import VIEWS, RowMaker, UnitRows, View, as_rows
from data_pipelines.stream.settings import as_settings
from data_pipelines.stream.units import Units

STATE_VERSION = 2


@dataclasses.dataclass(frozen=True)
class RowPlace:
    """Where a row of the stream came from.

    `row` of `lane`, both from 0, is what `spacetime-gr stream --inspect` takes; it was made from row `row_in_unit` of
    `unit` (a row group of the prepared folder `corpus`) in `view` and `epoch`.
    """

    lane: int
    row: int
    corpus: str
    view: View
    epoch: int
    unit: int
    row_in_unit: int


class TokenStream:
    """Batches of packed rows, endless; an iterator.

    Yields dicts of arrays (num_lanes / world_size, row_length): `input_ids`, `labels` (-100 where not supervised),
    `position_ids` (restart at 0 in each packed sequence), `local_time`, all int64, and the tokenizer's other side
    inputs. Row i of a rank's batch is lane `rank * num_lanes / world_size + i`: the batches of all ranks, concatenated
    in rank order, are the same at any world size.

    Args:
        data: a prepared folder, or a list of several with weights: paths, or mappings {path, weight} (default 1). They
            must have been prepared for the one tokenizer. Each row comes from one of them, by chance in proportion to
            the weights.
        tokenizer: gives `encode_actions`, `blind`, `pad_values`, `tokens_per_action` and `index`.
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
        data: str | Path | Sequence[str | Path | Mapping[str, Any] | CorpusSettings],
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
        self.corpora = as_corpora(data, "data")
        self.num_lanes = num_lanes
        self.row_length = row_length
        self.seed = seed
        self.curriculum = as_settings(CurriculumSettings, curriculum, "curriculum")
        self.row_number = 0
        self.cleaning = settings = as_settings(CleaningSettings, cleaning, "cleaning")
        folders = [PreparedFolder(corpus.path) for corpus in self.corpora]
        check_names_agree(folders)
        self.makers = [
            RowMaker(
                Units(folder, split), tokenizer, row_length, corpus_seed(seed, number), settings, overlap, blind_share
            )
            for number, folder in enumerate(folders)
        ]
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="units") if num_workers else None
        self._sources = [
            Source(
                UnitOrder(len(maker.units), num_lanes, maker.seed),
                UnitFeed(
                    maker.make,
                    len(maker.units),
                    f"split {split!r} of {maker.units.folder.path}",
                    self._pool,
                    epochs_alike=not settings.soft_richness,
                ),
            )
            for maker in self.makers
        ]
        num_own = num_lanes // world_size
        self._own = range(rank * num_own, (rank + 1) * num_own)
        units_ahead = -(-num_workers // num_own)
        self._lanes = [Lane(lane, self._sources, units_ahead) for lane in self._own]
        # What a cursor's meaning depends on. The curriculum and the weights are not part of it: they may change.
        self._identity: dict[str, Any] = {
            "version": STATE_VERSION,
            "split": split,
            "num_lanes": num_lanes,
            "row_length": row_length,
            "seed": seed,
            "overlap": overlap,
            "blind_share": blind_share,
            "cleaning": json.dumps(dataclasses.asdict(settings), sort_keys=True),
            "data": [data_fingerprint(folder, split) for folder in folders],
        }

    def __iter__(self) -> "TokenStream":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        multi_mode, corpus = self._choices(self.row_number)
        walks: list[Walk] = [(int(corpus[lane]), "multi" if multi_mode[lane] else "single") for lane in self._own]
        for lane, walk in zip(self._lanes, walks, strict=True):
            lane.prepare(walk)
        rows = [lane.next_row(walk) for lane, walk in zip(self._lanes, walks, strict=True)]
        batch = rows[0][0].new_batch(len(rows))
        for place, (unit_rows, row) in enumerate(rows):
            unit_rows.write(row, batch, place)
        self.row_number += 1
        return as_rows(batch)

    def rows_once(self) -> Iterator[dict[str, np.ndarray]]:
        """Every row of the split exactly once, multi-mode, in a fixed order: for held-out loss.

        The corpora take turns row by row until each has given all of its rows, so that the first rows are of every
        corpus. Batches have the shape of the stream's; the last one is filled up with padding rows, so all ranks give
        equally many batches. Each rank makes all rows and keeps its share. Does not move the stream. Raises ValueError
        with the first batch if cleaning leaves no row of a corpus.
        """
        batch: dict[str, np.ndarray] | None = None
        lane = 0
        # A whole turn is taken before its rows are given out, so the first turn finds every corpus without rows.
        turns = zip_longest(*(self._rows_of(corpus) for corpus in range(len(self.corpora))))
        for made, row in (found for turn in turns for found in turn if found is not None):
            if batch is None:
                batch = made.new_batch(len(self._own))
            if lane in self._own:
                made.write(row, batch, lane - self._own.start)
            lane += 1
            if lane == self.num_lanes:
                yield as_rows(batch)
                batch, lane = None, 0
        if batch is not None:
            yield as_rows(batch)

    def _rows_of(self, corpus: int) -> Iterator[tuple[UnitRows, int]]:
        """The rows of a corpus once, each as the rows of its unit and its number there. ValueError if it has none."""
        maker = self.makers[corpus]
        num_made = 0
        for unit in range(len(maker.units)):
            made = maker.make("multi", 0, unit)
            num_made += made.num_rows
            for row in range(made.num_rows):
                yield made, row
        if not num_made:
            self._sources[corpus].feed.require_rows("multi")

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
        return float(self._choices(self.row_number - 1)[0].mean()) if self.row_number else float("nan")

    @property
    def lane_views(self) -> list[View]:
        """View (`multi` or `single`) of this rank's rows in the last batch, by lane; empty before the first."""
        if not self.row_number:
            return []
        multi_mode = self._choices(self.row_number - 1)[0]
        return ["multi" if multi_mode[lane] else "single" for lane in self._own]

    @property
    def last_rows(self) -> list[RowPlace]:
        """Where this rank's rows of the last batch came from, by lane; empty before the first batch."""
        places = []
        for lane in self._lanes:
            if lane.last is not None:
                (corpus, view), cursor = lane.last
                unit = self._sources[corpus].order.unit(cursor)
                path = str(self.corpora[corpus].path)
                places.append(RowPlace(lane.lane, self.row_number - 1, path, view, cursor.epoch, unit, cursor.row))
        return places

    @property
    def corpus_shares(self) -> dict[str, float]:
        """Share of each corpus, by path, in the rows of the last global batch (all ranks); NaN before the first."""
        paths = [str(corpus.path) for corpus in self.corpora]
        if not self.row_number:
            return dict.fromkeys(paths, float("nan"))
        counts = np.bincount(self._choices(self.row_number - 1)[1], minlength=len(paths))
        return dict(zip(paths, (counts / self.num_lanes).tolist(), strict=True))

    def stats(self) -> dict[str, int]:
        """Counts over the units this rank entered since the stream was made: read, kept, and dropped by reason.

        `actions_in_rows / places_in_rows` is how full the rows are.
        """
        total: Counter[str] = Counter()
        for source in self._sources:
            total.update(source.feed.counts)
        return dict(total)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands after what was yielded, whatever was made ahead. Small and JSON-able."""
        lanes = {
            str(lane.lane): {
                f"{corpus}/{view}": [at.epoch, at.position, at.row]
                for (corpus, view), at in sorted(lane.cursors.items())
            }
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
        for source in self._sources:
            source.feed.forget()
        walks: dict[str, Walk] = {
            f"{number}/{view}": (number, view) for number in range(len(self.corpora)) for view in VIEWS
        }
        for lane in self._lanes:
            lane.restore({walks[key]: Cursor(*at) for key, at in lanes[str(lane.lane)].items()})
        self.row_number = row_numbers[0]

    def close(self) -> None:
        """Stops the worker threads; the stream then works without them."""
        for source in self._sources:
            source.feed.detach()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _choices(self, row_number: int) -> tuple[np.ndarray, np.ndarray]:
        """For a row of all lanes: is it multi-mode (bool), and the number of its corpus; (num_lanes,) each."""
        multi_mode = choose_multi_mode(self.curriculum, self.seed, self.num_lanes, row_number, self.row_length)
        weights = [corpus.weight for corpus in self.corpora]
        return multi_mode, choose_corpus(weights, self.seed, self.num_lanes, row_number)
