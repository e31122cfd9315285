"""ActionEncoder: flat columns of actions to their tokens and side inputs, the one place where tokens are made."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index import POIIndex
from spacetime_gr.index.ancestors import ancestor_tiles
from spacetime_gr.tokens.histories import Arrays
from spacetime_gr.tokens.standing import distances_km, first_actions, infer_modes, user_blocks
from spacetime_gr.vocabulary import FINE_CELL_BITS, HOURS, HOURS_PER_WEEK, TOKENS_PER_ACTION, UNK, Vocabulary

IGNORE = -100

# Time since the last action: 24 log-spaced buckets from one minute to about 90 days; bucket 0 means unknown or none.
NUM_GAP_BUCKETS = 25
_GAP_EDGES = 60.0 * np.geomspace(1.0, 90.0 * 1440.0, NUM_GAP_BUCKETS - 2)
# Distance from the last place: 20 log-spaced buckets from 50 m to 20,000 km; bucket 0 means unknown or none.
NUM_DISTANCE_BUCKETS = 21
_DISTANCE_EDGES_KM = np.geomspace(0.05, 20_000.0, NUM_DISTANCE_BUCKETS - 2)
USER_HASH_BITS = 31


class ActionEncoder:
    """Tokens of actions on the places of one index.

    Args:
        index: the POI index.
        actions: names of the action types; their order gives the ids.
    """

    token_fields = (
        *("input_ids", "labels", "user_hash", "user_block", "gap", "distance", "category", "cell", "local_time"),
    )
    model_input_names = ("input_ids", "attention_mask", "position_ids", *token_fields[2:])
    pad_values: dict[str, int] = {name: IGNORE if name == "labels" else 0 for name in token_fields} | {
        "position_ids": 0,
        "attention_mask": 0,
    }
    tokens_per_action = TOKENS_PER_ACTION

    def __init__(self, index: POIIndex, actions: Sequence[str]) -> None:
        if isinstance(actions, str) or not actions or len(set(actions)) != len(actions):
            raise ValueError(f"actions must be a list of at least one name, all distinct, got {actions!r}")
        self.index = index
        self.actions = list(actions)
        self.vocabulary = Vocabulary(index.block_capacity, index.num_inner, len(self.actions))

    def config_kwargs(self) -> dict[str, int]:
        """The sizes that a `SpacetimeGRConfig` needs to fit this tokenizer."""
        return {
            "num_blocks": self.index.block_capacity,
            "num_inner": self.index.num_inner,
            "num_actions": len(self.actions),
            "num_pois": self.index.num_pois,
            "num_ancestors": len(ancestor_tiles(self.index)[0]) - 1,
            "num_categories": len(self.index.category_names),
            "num_gap_buckets": NUM_GAP_BUCKETS,
            "num_distance_buckets": NUM_DISTANCE_BUCKETS,
        }

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

        Raises:
            ValueError: a row is none of the index.
        """
        rows = np.asarray(columns["poi_row"], dtype=np.int64)
        num_actions, vocabulary, index = len(rows), self.vocabulary, self.index
        if rows.max(initial=-1) >= index.num_pois:
            raise ValueError(
                f"poi_row {rows.max()} is out of range: the tokenizer's index has rows 0 to {index.num_pois - 1}; "
                "encode data with the tokenizer that was prepared with it"
            )
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
        gap = 1 + np.searchsorted(_GAP_EDGES, elapsed, side="right")
        gap[first_actions(offsets)] = 0

        tokens = {name: np.zeros((num_actions, TOKENS_PER_ACTION), np.int64) for name in self.token_fields}
        ids = tokens["input_ids"]
        ids[:, 0] = vocabulary.context_start + mode * HOURS + hour
        ids[:, 1], ids[:, 2] = block, inner
        ids[:, 3] = vocabulary.action_start + np.asarray(columns["action"], dtype=np.int64)
        supervised = known if interest is None else known & interest
        np.copyto(tokens["labels"], ids)
        np.copyto(tokens["labels"], IGNORE, where=~supervised[:, None])
        tokens["labels"][:, 0] = IGNORE
        if "user_hash" in columns:
            given = np.asarray(columns["user_hash"]).astype(np.uint64)
            folded = (given % np.uint64((1 << USER_HASH_BITS) - 1)).astype(np.int64) + 1
            tokens["user_hash"][:, 0] = np.repeat(np.where(given == 0, 0, folded), np.diff(offsets))
        standing = user_blocks(index, pairs[0], columns, offsets)
        tokens["user_block"][:, 0] = np.where(standing >= 0, standing + vocabulary.block_start, 0)
        tokens["gap"][:, 0] = gap
        moved = distances_km(index, columns, offsets)
        if moved is not None:
            buckets = 1 + np.searchsorted(_DISTANCE_EDGES_KM, moved, side="right")
            tokens["distance"][:, 0] = np.where(np.isnan(moved), 0, buckets)
        tokens["category"][:, 2] = index.categories(rows) + 1
        tokens["cell"][:, 2] = index.positions(rows, FINE_CELL_BITS) + 1
        tokens["local_time"][:] = local_time[:, None]
        return tokens

    def modes(self, columns: Mapping[str, NDArray[Any]], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Mode ids, shape (num_actions,): those of the `mode` column, inferred where there is none or it holds -1.

        Inferred is `in_trip` where the person stands further than 50 km from the middle of the places seen before in
        the sequence, else `local`.
        """
        given = columns.get("mode")
        if given is None:
            return infer_modes(self.index, columns, offsets)
        given = np.asarray(given, np.int64)
        missing = given < 0
        return np.where(missing, infer_modes(self.index, columns, offsets), given) if missing.any() else given

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
