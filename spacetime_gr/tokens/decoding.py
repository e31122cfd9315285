"""Token ids back to readable actions."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import to_numpy

from spacetime_gr.index import POIIndex
from spacetime_gr.vocabulary import HOURS, HOURS_PER_WEEK, MODES, TOKENS_PER_ACTION, UNK, Vocabulary

_TYPES = ("u", "block", "inner", "action")
_NOTHING = -1  # where the last action of a row has no such token


def rows_of(token_ids: Any) -> tuple[list[NDArray[np.int64]], bool]:
    """Rows of token ids out of lists, arrays or tensors of any device, and whether it was one row.

    Raises:
        ValueError: these are no rows of integers.
    """
    if hasattr(token_ids, "shape"):
        array = np.asarray(to_numpy(token_ids))
        single, rows = array.ndim < 2, [array] if array.ndim < 2 else list(array)
    else:
        values = list(token_ids)
        single = not values or np.ndim(to_numpy(values[0])) == 0
        rows = [np.asarray(values)] if single else [np.asarray(to_numpy(row)) for row in values]
    if any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in rows):
        raise ValueError("token_ids are no rows of integers; expected shape (length,) or (batch, length)")
    return [row.astype(np.int64) for row in rows], single


def actions_of(
    rows: Sequence[NDArray[np.int64]], index: POIIndex, vocabulary: Vocabulary, actions: Sequence[str]
) -> list[list[dict[str, Any]]]:
    """Actions of rows of token ids without padding; see `SpacetimeGRTokenizer.decode`.

    Raises:
        ValueError: a token is not of the type that is due at its place; the message names row and position.
    """
    counts = [-(-len(row) // TOKENS_PER_ACTION) for row in rows]
    table = np.full((sum(counts), TOKENS_PER_ACTION), _NOTHING, np.int64)
    flat, begin = table.reshape(-1), 0
    for row, count in zip(rows, counts, strict=True):
        flat[begin : begin + len(row)] = row
        begin += count * TOKENS_PER_ACTION
    _check(table, rows, counts, vocabulary)
    context, block, inner, action = table.T
    # Unknown places, and what is cut off, lie outside the ranges: the index answers None.
    poi_ids = index.decode(block - vocabulary.block_start, inner - vocabulary.inner_start)
    mode, hour = np.divmod(context - vocabulary.context_start, HOURS)
    readable = [
        {
            "poi_id": poi_id,
            "action": None if number == _NOTHING else actions[number - vocabulary.action_start],
            "mode": MODES[one_mode],
            "hour_of_week": None if one_hour == HOURS_PER_WEEK else one_hour,
        }
        for poi_id, number, one_mode, one_hour in zip(
            poi_ids, action.tolist(), mode.tolist(), hour.tolist(), strict=True
        )
    ]
    ends = np.cumsum([0, *counts])
    return [readable[start:end] for start, end in pairwise(ends)]


def _check(
    table: NDArray[np.int64], rows: Sequence[NDArray[np.int64]], counts: Sequence[int], vocabulary: Vocabulary
) -> None:
    """Refuse tokens that stand where another type is due."""
    starts = np.array(
        [vocabulary.context_start, vocabulary.block_start, vocabulary.inner_start, vocabulary.action_start]
    )
    stops = np.append(starts[1:], vocabulary.size)
    fits = (table >= starts) & (table < stops)
    fits[:, 1:3] |= table[:, 1:3] == UNK
    # Only the padding of an incomplete last action may be missing; a given -1 is an id like any other.
    begin = 0
    for row, count in zip(rows, counts, strict=True):
        fits[begin : begin + count].reshape(-1)[len(row) :] = True
        begin += count
    wrong = np.flatnonzero(~fits)
    if len(wrong):
        at, place = divmod(int(wrong[0]), TOKENS_PER_ACTION)
        number = int(np.searchsorted(np.cumsum(counts), at, side="right"))
        position = TOKENS_PER_ACTION * (at - sum(counts[:number])) + place
        raise ValueError(
            f"row {number}, token {position} (padding aside) is {table[at, place]}; expected a token of type "
            f"{_TYPES[place]}, {starts[place]} to {stops[place] - 1}: rows are whole actions {', '.join(_TYPES)}, "
            "the last of which may be cut off"
        )
