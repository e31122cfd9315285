"""SpacetimeGRTokenizer: actions to aligned token rows `u, block, inner, a`, and back.

One implementation makes the tokens of training streams, evaluation and serving: `encode_actions`. Everything else here
prepares its input or pads its output.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import snapshot_download
from numpy.typing import ArrayLike, NDArray
from transformers import BatchEncoding
from transformers.utils import PushToHubMixin

from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import haversine_km
from spacetime_gr.vocabulary import (
    CELL_BITS,
    EOS,
    HOURS,
    HOURS_PER_WEEK,
    MODES,
    PAD,
    SPECIAL_TOKENS,
    TOKENS_PER_ACTION,
    UNK,
    Vocabulary,
)

FORMAT_VERSION = 1
IGNORE = -100
CONFIG_FILE = "tokenizer_config.json"
INDEX_FOLDER = "poi_index"

# Time since the last action: 24 log-spaced buckets from one minute to about 90 days; bucket 0 means unknown or none.
NUM_GAP_BUCKETS = 25
_GAP_EDGES = 60.0 * np.geomspace(1.0, 90.0 * 1440.0, NUM_GAP_BUCKETS - 2)
USER_HASH_BITS = 31
# A person is in trip while further than this from the middle of the places seen so far.
TRIP_KM = 50.0

Arrays = dict[str, NDArray[Any]]
History = Mapping[str, Any]


class SpacetimeGRTokenizer(PushToHubMixin):
    """Turns histories of actions into model inputs.

    Fields, all aligned with `input_ids`: `labels` (-100 where nothing is to be learnt), `user_hash` (31-bit hash of the
    person, 0 unknown; at u), `user_block` (id of the block token where the person stood, 0 unknown; at u), `gap`
    (bucket of the time since the last action; at u), `category` (1 + category id; at inner), `cell` (1 + position in
    the block; at inner), `local_time` (local seconds since 1970, 0 unknown).

    Args:
        index: the POI index.
        actions: names of the action types; their order gives the ids.
        padding_side: `left` (default, as for generation) or `right`.
    """

    token_fields = ("input_ids", "labels", "user_hash", "user_block", "gap", "category", "cell", "local_time")
    model_input_names = ("input_ids", "attention_mask", "position_ids", *token_fields[2:])
    pad_values: dict[str, int] = {name: IGNORE if name == "labels" else 0 for name in token_fields} | {
        "position_ids": 0,
        "attention_mask": 0,
    }
    tokens_per_action = TOKENS_PER_ACTION

    def __init__(self, index: POIIndex, actions: Sequence[str], padding_side: str = "left") -> None:
        if not actions or len(set(actions)) != len(actions):
            raise ValueError(f"actions must be at least one and distinct, got {list(actions)}")
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is {padding_side!r}; expected 'left' or 'right'")
        self.index = index
        self.actions = list(actions)
        self.padding_side = padding_side
        self.vocabulary = Vocabulary(index.block_capacity, index.num_inner, len(self.actions))
        self.pad_token_id, self.unk_token_id, self.eos_token_id = PAD, UNK, EOS

    def __len__(self) -> int:
        return self.vocabulary.size

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.vocabulary.size

    def config_kwargs(self) -> dict[str, int]:
        """The sizes that a `SpacetimeGRConfig` needs to fit this tokenizer."""
        return {
            "num_blocks": self.index.block_capacity,
            "num_inner": self.index.num_inner,
            "num_actions": len(self.actions),
            "num_pois": self.index.num_pois,
            "num_categories": len(self.index.category_names),
            "num_cells": 1 << CELL_BITS,
            "num_gap_buckets": NUM_GAP_BUCKETS,
        }

    # ---------------------------------------------------------------- actions to tokens

    def encode_actions(
        self, columns: Mapping[str, NDArray[Any]], offsets: NDArray[np.int64], interest: NDArray[np.bool_] | None = None
    ) -> Arrays:
        """Tokens of many sequences at once.

        Args:
            columns: flat per-action arrays of all sequences, one after the other, each in time order: `poi_row` (-1
                unknown), `action` (ids), `timestamp` (s UTC), `tz_offset_minutes`; optional `user_latitude`,
                `user_longitude` (where the person stood, NaN unknown), `mode` (ids, -1 inferred). Optional `user_hash`
                per sequence.
            offsets: first action of each sequence, and the end, shape (num_sequences + 1,).
            interest: which actions are supervised, shape (num_actions,); default all.

        Returns:
            For each of `token_fields` an array of shape (num_actions, 4): the tokens u, block, inner, a.

        The person's place at an action is the given one, else the place of the previous action of the sequence: never
        the place that is to be predicted.
        """
        rows = np.asarray(columns["poi_row"], dtype=np.int64)
        num_actions, vocabulary, index = len(rows), self.vocabulary, self.index
        first = np.zeros(num_actions, bool)
        first[offsets[:-1][np.diff(offsets) > 0]] = True
        known = rows >= 0
        pairs = index.encode(rows, rows=True, unknown="mark")
        starts = (vocabulary.block_start, vocabulary.inner_start)
        block, inner = (
            np.where(known, ids.astype(np.int64) + start, UNK) for ids, start in zip(pairs, starts, strict=True)
        )

        timestamp = np.asarray(columns["timestamp"], dtype=np.int64)
        local_time = timestamp + 60 * np.asarray(columns["tz_offset_minutes"], dtype=np.int64)
        # 1970-01-01 was a Thursday, so 72 hours are added: hour 0 of the week is Monday 00:00.
        hour = (local_time // 3600 + 72) % HOURS_PER_WEEK
        mode = self.modes(columns, offsets)
        elapsed = np.diff(timestamp, prepend=timestamp[:1])
        gap = np.where(first, 0, 1 + np.searchsorted(_GAP_EDGES, elapsed, side="right"))

        tokens = {name: np.zeros((num_actions, TOKENS_PER_ACTION), np.int64) for name in self.token_fields}
        ids = tokens["input_ids"]
        ids[:, 0] = vocabulary.context_start + mode * HOURS + hour
        ids[:, 1], ids[:, 2] = block, inner
        ids[:, 3] = vocabulary.action_start + np.asarray(columns["action"], dtype=np.int64)
        tokens["labels"][:] = IGNORE
        supervised = known if interest is None else known & interest
        tokens["labels"][supervised, 1:] = ids[supervised, 1:]
        if "user_hash" in columns:
            given = np.asarray(columns["user_hash"]).astype(np.uint64)
            folded = (given % np.uint64((1 << USER_HASH_BITS) - 1)).astype(np.int64) + 1
            tokens["user_hash"][:, 0] = np.repeat(np.where(given == 0, 0, folded), np.diff(offsets))
        tokens["user_block"][:, 0] = self._user_blocks(columns, block, first)
        tokens["gap"][:, 0] = gap
        tokens["category"][:, 2] = index.categories(rows) + 1
        tokens["cell"][:, 2] = index.positions(rows, CELL_BITS) + 1
        tokens["local_time"][:] = local_time[:, None]
        return tokens

    def _user_blocks(
        self, columns: Mapping[str, NDArray[Any]], block: NDArray[np.int64], first: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Block tokens of where the person stood at each action: the given place, else the previous action's."""
        previous = np.roll(block, 1)
        previous = np.where(first | (previous == UNK), 0, previous)
        if "user_latitude" not in columns:
            return previous
        given = self.index.block_of_point(columns["user_latitude"], columns["user_longitude"])
        return np.where(given >= 0, given + self.vocabulary.block_start, previous)

    def modes(self, columns: Mapping[str, NDArray[Any]], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Mode ids, shape (num_actions,): those of the `mode` column, inferred where there is none or it holds -1.

        Inferred is `in_trip` where the person stands further than 50 km from the middle of the places seen before in
        the sequence, else `local`. That uses the past only, so it is known at a request. (`pre_trip` is a matter of
        intent: it comes with the data or not at all.)
        """
        given = columns.get("mode")
        if given is None:
            return self._infer_modes(columns, offsets).astype(np.int64)
        given = np.asarray(given, np.int64)
        missing = given < 0
        return np.where(missing, self._infer_modes(columns, offsets), given) if missing.any() else given

    def _infer_modes(self, columns: Mapping[str, NDArray[Any]], offsets: NDArray[np.int64]) -> NDArray[np.int8]:
        latitude, longitude = self._standing(columns, offsets)
        starts = np.repeat(offsets[:-1], np.diff(offsets))
        place_lat, place_lon = self.index.coordinates(np.asarray(columns["poi_row"], dtype=np.int64))
        middle_lat = _mean_before(place_lat.astype(np.float64), starts)
        middle_lon = _mean_before(place_lon.astype(np.float64), starts)
        distance = haversine_km(latitude, longitude, middle_lat, middle_lon)
        return np.where(np.nan_to_num(distance, nan=0.0) > TRIP_KM, MODES.index("in_trip"), 0).astype(np.int8)

    def _standing(
        self, columns: Mapping[str, NDArray[Any]], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the person stood at each action in degrees, NaN where it is not known."""
        place = self.index.coordinates(np.asarray(columns["poi_row"], dtype=np.int64))
        first = offsets[:-1][np.diff(offsets) > 0]
        standing = []
        for name, values in zip(("user_latitude", "user_longitude"), place, strict=True):
            previous = np.roll(values.astype(np.float64), 1)
            previous[first] = np.nan
            given = columns.get(name)
            standing.append(previous if given is None else np.where(np.isfinite(given), given, previous))
        return standing[0], standing[1]

    def blind(self, tokens: Arrays, mask: NDArray[np.bool_]) -> None:
        """Hide the time of some actions from their own prediction (the blind setting), in place.

        The u token loses its hour, the gap and the clock; the block token, from which the inner id is predicted, loses
        the clock too. Later actions still see when this one happened.

        Args:
            tokens: output of `encode_actions`.
            mask: actions to hide, shape (num_actions,).
        """
        context = tokens["input_ids"][mask, 0] - self.vocabulary.context_start
        tokens["input_ids"][mask, 0] = self.vocabulary.context_start + context // HOURS * HOURS + HOURS_PER_WEEK
        tokens["gap"][mask, 0] = 0
        tokens["local_time"][mask, :2] = 0

    # ---------------------------------------------------------------- histories to batches

    def __call__(
        self, histories: History | Sequence[History], return_tensors: str | None = None, max_actions: int | None = None
    ) -> BatchEncoding:
        """Encode one history or a batch of them.

        Args:
            histories: dicts of columns: `poi_id` (or `poi_row`) and `timestamp` (unix seconds, ISO strings or
                datetimes, UTC) required; optional `action` (names; default the first), `tz_offset_minutes`,
                `user_latitude`, `user_longitude`, `mode` (names or ids), and the scalar `user_hash`. Scalars are
                repeated.
            return_tensors: `pt`, `np` or None (lists).
            max_actions: keep only the last so many actions of each history.

        Returns:
            `input_ids`, `attention_mask`, `position_ids`, `labels` and the side inputs, shape (batch, longest).
        """
        batch = [histories] if isinstance(histories, Mapping) else list(histories)
        columns, offsets = self.columns(batch)
        tokens = self.encode_actions(columns, offsets)
        flat = {name: values.reshape(-1) for name, values in tokens.items()}
        return self._pad(flat, offsets * TOKENS_PER_ACTION, return_tensors, max_actions, extra=0)

    def columns(self, histories: Sequence[History]) -> tuple[Arrays, NDArray[np.int64]]:
        """Flat columns and offsets, as `encode_actions` takes them, of a list of histories.

        Raises:
            ValueError: a column is missing, has another length than the rest, or holds an unknown action or mode.
        """
        lengths = np.array([_length(history, number) for number, history in enumerate(histories)], np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

        def gather(name: str, default: Any, dtype: Any) -> NDArray[Any]:
            parts = [
                np.broadcast_to(np.asarray(history.get(name, default), dtype=dtype), (length,))
                for history, length in zip(histories, lengths, strict=True)
            ]
            return np.concatenate(parts) if parts else np.empty(0, dtype)

        columns: Arrays = {
            "poi_row": np.concatenate([self._rows(history) for history in histories] or [np.empty(0, np.int64)]),
            "timestamp": np.concatenate(
                [unix_seconds(history["timestamp"]) for history in histories] or [np.empty(0, np.int64)]
            ),
            "tz_offset_minutes": gather("tz_offset_minutes", 0, np.int64),
            "action": self._ids(gather("action", 0, object), self.actions, "action"),
            "user_hash": np.array([history.get("user_hash", 0) for history in histories], np.int64),
        }
        if any("user_latitude" in history for history in histories):
            columns["user_latitude"] = gather("user_latitude", np.nan, np.float64)
            columns["user_longitude"] = gather("user_longitude", np.nan, np.float64)
        if any("mode" in history for history in histories):
            columns["mode"] = self._ids(gather("mode", None, object), MODES, "mode", optional=True)
        return columns, offsets

    def encode_requests(
        self,
        columns: Mapping[str, NDArray[Any]],
        offsets: NDArray[np.int64],
        when: ArrayLike,
        tz_offset_minutes: ArrayLike = 0,
        where: ArrayLike | None = None,
        mode: ArrayLike | None = None,
        blind: bool = False,
        max_actions: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchEncoding:
        """Histories followed by the u token of a request, left-padded: what `recommend` and the evaluation feed.

        Args:
            columns, offsets: histories, as for `encode_actions`.
            when: time of each request, unix seconds UTC, shape (num_sequences,).
            tz_offset_minutes: local time zone at each request.
            where: latitude and longitude of the person at the request, shape (num_sequences, 2); NaN or None: the place
                of the last action.
            mode: mode id at each request; default inferred.
            blind: hide the time of the request.
            max_actions: keep only the last so many actions of the history.
        """
        num_sequences = len(offsets) - 1
        ends = offsets[1:]
        new_offsets = offsets + np.arange(num_sequences + 1)

        def append(name: str, values: ArrayLike) -> NDArray[Any]:
            return np.insert(np.asarray(columns[name]), ends, values)

        when = np.broadcast_to(np.asarray(when, np.int64), (num_sequences,))
        extended: Arrays = {
            "poi_row": append("poi_row", -1),
            "action": append("action", 0),
            "timestamp": append("timestamp", when),
            "tz_offset_minutes": append("tz_offset_minutes", tz_offset_minutes),
        }
        if "user_hash" in columns:
            extended["user_hash"] = np.asarray(columns["user_hash"])
        if where is not None or "user_latitude" in columns:
            point = np.full((num_sequences, 2), np.nan) if where is None else np.asarray(where, np.float64)
            for axis, name in enumerate(("user_latitude", "user_longitude")):
                past = columns.get(name, np.full(int(offsets[-1]), np.nan))
                extended[name] = np.insert(np.asarray(past, np.float64), ends, point[:, axis])
        requests = new_offsets[1:] - 1
        if "mode" in columns or mode is not None:
            # A mode given for one side only is inferred for the other: -1 asks for that.
            extended["mode"] = (
                np.insert(np.asarray(columns["mode"], np.int64), ends, -1)
                if "mode" in columns
                else -np.ones(len(extended["poi_row"]), np.int64)
            )
            if mode is not None:
                extended["mode"][requests] = np.asarray(mode)
        tokens = self.encode_actions(extended, new_offsets)
        if blind:
            mask = np.zeros(len(extended["poi_row"]), bool)
            mask[requests] = True
            self.blind(tokens, mask)
        keep = np.ones((len(extended["poi_row"]), TOKENS_PER_ACTION), bool)
        keep[requests, 1:] = False
        flat = {name: values[keep] for name, values in tokens.items()}
        token_offsets = offsets * TOKENS_PER_ACTION + np.arange(num_sequences + 1)
        return self._pad(flat, token_offsets, return_tensors, max_actions, extra=1, side="left")

    def _pad(
        self,
        flat: Arrays,
        offsets: NDArray[np.int64],
        return_tensors: str | None,
        max_actions: int | None,
        extra: int,
        side: str | None = None,
    ) -> BatchEncoding:
        """Sequences of tokens, cut to their last `max_actions` actions (and `extra` tokens), as one padded batch."""
        starts, ends = offsets[:-1], offsets[1:]
        if max_actions is not None:
            starts = np.maximum(starts, ends - max_actions * TOKENS_PER_ACTION - extra)
        lengths = ends - starts
        longest = int(lengths.max(initial=0))
        column = np.arange(longest)
        position = column - (longest - lengths[:, None]) if (side or self.padding_side) == "left" else column[None, :]
        position = np.broadcast_to(position, (len(lengths), longest))
        real = (position >= 0) & (position < lengths[:, None])
        source = np.where(real, starts[:, None] + position, 0)
        batch = {
            name: np.where(real, values[source] if len(values) else 0, self.pad_values[name])
            for name, values in flat.items()
        }
        batch["attention_mask"] = real.astype(np.int64)
        batch["position_ids"] = np.where(real, position, 0)
        if return_tensors is None:
            return BatchEncoding({name: values.tolist() for name, values in batch.items()})
        return BatchEncoding(batch, tensor_type=return_tensors)

    def _rows(self, history: History) -> NDArray[np.int64]:
        if "poi_row" in history:
            return np.asarray(history["poi_row"], np.int64)
        return (
            self.index.rows(np.asarray(history["poi_id"], dtype=object))
            if len(history["poi_id"])
            else np.empty(0, np.int64)
        )

    @staticmethod
    def _ids(values: NDArray[Any], names: Sequence[str], what: str, optional: bool = False) -> NDArray[np.int64]:
        """Ids of a column of names (or of ids already); where `optional`, -1 for None or -1."""
        ids = pd.Index(list(names)).get_indexer(pd.Index(values))
        numbers = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(np.float64)
        ids = np.where((ids < 0) & (numbers >= 0) & (numbers < len(names)), np.nan_to_num(numbers), ids).astype(
            np.int64
        )
        unknown = ids < 0
        if optional:
            unknown &= ~pd.isna(values) & (numbers != -1)
        if unknown.any():
            raise ValueError(
                f"unknown {what} {values[int(np.argmax(unknown))]!r}; this tokenizer knows {', '.join(names)}"
            )
        return ids

    # ---------------------------------------------------------------- tokens to actions

    def decode(self, token_ids: ArrayLike) -> list[dict[str, Any]]:
        """Readable actions of one row of token ids (whole actions u, block, inner, a; padding is skipped).

        Returns:
            One dict per action: `poi_id` (None if unknown), `action`, `mode`, `hour_of_week` (None if blind).
        """
        ids = np.asarray(token_ids, np.int64)
        ids = ids[ids != PAD]
        if len(ids) % TOKENS_PER_ACTION:
            raise ValueError(f"{len(ids)} tokens are not whole actions of {TOKENS_PER_ACTION}")
        vocabulary = self.vocabulary
        context, block, inner, action = ids.reshape(-1, TOKENS_PER_ACTION).T
        poi_ids = self.index.decode(block - vocabulary.block_start, inner - vocabulary.inner_start)
        hour = (context - vocabulary.context_start) % HOURS
        mode = (context - vocabulary.context_start) // HOURS
        return [
            {
                "poi_id": poi_ids[i],
                "action": self.actions[action[i] - vocabulary.action_start],
                "mode": MODES[mode[i]],
                "hour_of_week": int(hour[i]) if hour[i] < HOURS_PER_WEEK else None,
            }
            for i in range(len(context))
        ]

    # ---------------------------------------------------------------- storage

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `tokenizer_config.json` and `poi_index/`; with `push_to_hub` also upload them."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.index.save(folder / INDEX_FOLDER)
        description = {
            "tokenizer_class": type(self).__name__,
            "format_version": FORMAT_VERSION,
            "actions": self.actions,
            "padding_side": self.padding_side,
            "special_tokens": list(SPECIAL_TOKENS),
        }
        (folder / CONFIG_FILE).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n")
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> "SpacetimeGRTokenizer":
        """Open a saved tokenizer from a folder or a hub repository; its index is memory-mapped.

        Raises:
            ValueError: the folder holds no tokenizer of this kind, or one of a later format.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            patterns = [CONFIG_FILE, f"{INDEX_FOLDER}/*"]
            folder = Path(snapshot_download(str(pretrained_model_name_or_path), allow_patterns=patterns, **kwargs))
        if not (folder / CONFIG_FILE).is_file():
            raise ValueError(f"{folder}: {CONFIG_FILE} is missing; expected a folder written by save_pretrained")
        description = json.loads((folder / CONFIG_FILE).read_text())
        if description.get("tokenizer_class") != cls.__name__:
            raise ValueError(f"{folder}: holds a {description.get('tokenizer_class')}, expected {cls.__name__}")
        if description["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{folder}: tokenizer format {description['format_version']}, this release reads up to "
                f"{FORMAT_VERSION}; upgrade spacetime-gr"
            )
        index = POIIndex.load(folder / INDEX_FOLDER)
        return cls(index, description["actions"], description["padding_side"])


def unix_seconds(values: Any) -> NDArray[np.int64]:
    """Times as unix seconds UTC: numbers are seconds, or milliseconds from 1e11 on; else parsed (no zone means UTC)."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind in "iuf":
        return np.where(np.abs(array) >= 1e11, array // 1000, array).astype(np.int64)
    times = pd.to_datetime(pd.Series(array), utc=True, format="ISO8601").dt.as_unit("s")
    return np.asarray(times.astype("int64"), np.int64)


def _length(history: History, number: int) -> int:
    """Number of actions of a history; every column must agree."""
    place = "poi_row" if "poi_row" in history else "poi_id"
    for name in (place, "timestamp"):
        if name not in history:
            raise ValueError(f"history {number} has no column {name!r}; it has {', '.join(history)}")
    length = len(history[place])
    for name, values in history.items():
        if not np.isscalar(values) and values is not None and len(values) != length:
            raise ValueError(f"history {number}: column {name!r} has {len(values)} values, {place!r} has {length}")
    return length


def _mean_before(values: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the finite values of a sequence before each element, NaN where there is none.

    Args:
        values: flat values, shape (n,).
        starts: for each element the position of its sequence's first, shape (n,).
    """
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    here = np.arange(len(values))
    seen = count[here] - count[starts]
    with np.errstate(invalid="ignore"):
        return np.where(seen > 0, (total[here] - total[starts]) / np.maximum(seen, 1), np.nan)
