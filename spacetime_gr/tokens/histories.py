"""Histories as people hand them over, to the flat columns that become tokens."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from spacetime_gr.index import POIIndex
from spacetime_gr.vocabulary import MODES

Arrays = dict[str, NDArray[Any]]
Columns = Mapping[str, Any]
History = Columns | Sequence[Mapping[str, Any]]

PLACE = ("poi_row", "poi_id")
# What an optional column holds where an action does not state it.
_ABSENT: dict[str, Any] = {
    "action": 0,
    "tz_offset_minutes": 0,
    "user_latitude": np.nan,
    "user_longitude": np.nan,
    "mode": None,
    "user_hash": 0,
}


def as_batch(histories: History | Sequence[History]) -> tuple[list[Columns], bool]:
    """Histories as a list of dicts of columns, and whether it was one history that stood for itself.

    A history is a dict of columns or a list of actions (dicts); a list whose members are all actions is one history.

    Raises:
        ValueError: a history is neither, or an action lacks its place or time.
    """
    if isinstance(histories, Mapping):
        return [histories], True
    if isinstance(histories, str) or not isinstance(histories, Sequence | np.ndarray):
        raise ValueError(
            f"histories are a {type(histories).__name__}; expected a dict of columns, a list of actions (dicts), or a "
            "list of such histories (of a DataFrame: frame.to_dict('list'))"
        )
    if len(histories) and all(_is_action(one) for one in histories):
        return [_to_columns(histories, 0)], True
    return [one if isinstance(one, Mapping) else _to_columns(one, i) for i, one in enumerate(histories)], False


def _is_action(value: Any) -> bool:
    """Whether a dict is one action: its place (or else its time) is a scalar, where columns hold a list."""
    name = next((name for name in (*PLACE, "timestamp") if isinstance(value, Mapping) and name in value), None)
    return name is not None and np.ndim(value[name]) == 0


def _to_columns(actions: Any, number: int) -> Columns:
    """One history, given as a list of actions, as columns."""
    if (
        isinstance(actions, str)
        or not isinstance(actions, Sequence)
        or not all(isinstance(a, Mapping) for a in actions)
    ):
        raise ValueError(
            f"history {number} is a {type(actions).__name__}; expected a dict of columns or a list of actions (dicts)"
        )
    names = dict.fromkeys(chain.from_iterable(actions))
    place = "poi_row" if "poi_row" in names else "poi_id"
    for name in (place, "timestamp"):
        for i, action in enumerate(actions):
            if name not in action:
                raise ValueError(f"history {number}, action {i} has no {name!r}; it has {', '.join(map(str, action))}")
    columns: dict[str, Any] = {name: [action[name] for action in actions] for name in (place, "timestamp")}
    for name, absent in _ABSENT.items():
        if name in names:
            columns[name] = [action.get(name, absent) for action in actions]
    if "user_hash" in columns:
        persons = set(columns["user_hash"])
        if len(persons) > 1:
            raise ValueError(f"history {number}: its actions have {len(persons)} user_hash values; expected one person")
        columns["user_hash"] = persons.pop()
    return columns


def flat_columns(
    histories: Sequence[Columns], index: POIIndex, actions: Sequence[str], unknown: str
) -> tuple[Arrays, NDArray[np.int64]]:
    """Flat columns of many histories laid end to end, and the offsets of each, shape (num_histories + 1,).

    Args:
        histories: dicts of columns, see `SpacetimeGRTokenizer.__call__`.
        index: finds the places.
        actions: names of the action types, by id.
        unknown: `mark` gives places that the index does not know the row -1, `error` refuses them.

    Raises:
        ValueError: a column is missing, has another length than the rest, or holds what cannot be read; times of a
            history fall; with `unknown="error"` a place is not known.
    """
    if unknown not in ("mark", "error"):
        raise ValueError(f"unknown is {unknown!r}; expected 'mark' or 'error'")
    lengths = np.array([_length(history, number) for number, history in enumerate(histories)], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def gather(name: str, dtype: Any) -> NDArray[Any]:
        parts = [np.empty(0, dtype)]
        for number, (history, length) in enumerate(zip(histories, lengths, strict=True)):
            try:
                values = np.asarray(history.get(name, _ABSENT[name]), dtype)
            except (TypeError, ValueError) as error:
                raise ValueError(f"history {number}: column {name!r} cannot be read as numbers ({error})") from error
            parts.append(np.broadcast_to(values, (length,)))
        return np.concatenate(parts)

    columns: Arrays = {
        "poi_row": _rows(histories, offsets, index, unknown),
        "timestamp": _times(histories, offsets),
        # Half hours count, fractions of minutes do not exist; an offset that is not stated is 0.
        "tz_offset_minutes": np.nan_to_num(gather("tz_offset_minutes", np.float64)).astype(np.int64),
        "action": _ids(gather("action", object), actions, "action"),
        "user_hash": np.array([_person(history, number) for number, history in enumerate(histories)], np.int64),
    }
    if any("user_latitude" in history for history in histories):
        columns["user_latitude"] = gather("user_latitude", np.float64)
        columns["user_longitude"] = gather("user_longitude", np.float64)
    if any("mode" in history for history in histories):
        columns["mode"] = _ids(gather("mode", object), MODES, "mode", optional=True)
    return columns, offsets


def _length(history: Columns, number: int) -> int:
    """Number of actions of a history; every column must agree."""
    place = "poi_row" if "poi_row" in history else "poi_id"
    for name in (place, "timestamp"):
        if name not in history:
            raise ValueError(f"history {number} has no column {name!r}; it has {', '.join(map(str, history))}")
        if np.ndim(history[name]) != 1:
            raise ValueError(f"history {number}: column {name!r} is no list; expected one value per action")
    if ("user_latitude" in history) != ("user_longitude" in history):
        raise ValueError(f"history {number}: user_latitude and user_longitude go together; give both or neither")
    length = len(history[place])
    for name in ("timestamp", *_ABSENT):
        values = history.get(name)
        if np.ndim(values) and len(values) != length:  # type: ignore[arg-type]
            raise ValueError(f"history {number}: column {name!r} has {len(values)} values, {place!r} has {length}")  # type: ignore[arg-type]
    return length


def _person(history: Columns, number: int) -> int:
    value = history.get("user_hash", 0)
    if not isinstance(value, int | np.integer) or not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"history {number}: user_hash is {value!r}; expected one 64-bit integer, 0 for a stranger")
    return int(value)


def _rows(histories: Sequence[Columns], offsets: NDArray[np.int64], index: POIIndex, unknown: str) -> NDArray[np.int64]:
    """Rows of the places in the index, -1 unknown; one look-up for all histories."""
    rows = np.empty(int(offsets[-1]), np.int64)
    parts, targets = [], []
    for number, history in enumerate(histories):
        target = slice(offsets[number], offsets[number + 1])
        if "poi_row" in history:
            given = np.asarray(history["poi_row"])
            if len(given) and given.dtype.kind not in "iu":
                raise ValueError(f"history {number}: poi_row is of type {given.dtype}; expected integers")
            if len(given) and int(given.max()) >= index.num_pois:
                raise ValueError(
                    f"history {number}: poi_row {given.max()}; the index has rows 0 to {index.num_pois - 1}"
                )
            rows[target] = given
        elif target.start < target.stop:
            parts.append(_place_ids(history["poi_id"], number))
            targets.append(np.arange(target.start, target.stop))
    if parts:
        if len({part.type for part in parts}) > 1:
            parts = [part.cast(pa.large_string()) for part in parts]
        rows[np.concatenate(targets)] = index.rows(pa.concat_arrays(parts))
    rows = np.maximum(rows, -1)
    if unknown == "error" and (rows < 0).any():
        missing = np.flatnonzero(rows < 0)
        owners = np.searchsorted(offsets, missing, side="right") - 1
        shown = [
            (int(i), histories[i].get("poi_id", histories[i].get("poi_row"))[int(at)])
            for i, at in zip(owners[:5], (missing - offsets[owners])[:5], strict=True)
        ]
        raise ValueError(
            f"{len(missing)} places are not in the index, first (history, place) {shown}; add them with index.add, "
            "or pass unknown='mark' to read them as unknown places"
        )
    return rows


def _place_ids(values: Any, number: int) -> pa.Array:
    """POI ids of one history as an Arrow array; None and NaN are nulls."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    try:
        return values if isinstance(values, pa.Array) else pa.array(np.asarray(values), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"history {number}: poi_id holds neither text nor integers throughout ({error})") from error


def _times(histories: Sequence[Columns], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times in unix seconds; they must not fall inside a history."""
    parts = [np.empty(0, np.int64)]
    for number, history in enumerate(histories):
        try:
            parts.append(unix_seconds(history["timestamp"]))
        except ValueError as error:
            raise ValueError(f"history {number}: {error}") from error
    times = np.concatenate(parts)
    falls = np.append(False, np.diff(times) < 0)[: len(times)]
    falls[offsets[:-1][np.diff(offsets) > 0]] = False
    if falls.any():
        at = int(np.argmax(falls))
        number = int(np.searchsorted(offsets, at, side="right")) - 1
        raise ValueError(
            f"history {number}: action {at - offsets[number]} is earlier than the one before it; sort actions by time"
        )
    return times


def unix_seconds(values: Any) -> NDArray[np.int64]:
    """Times as unix seconds UTC: numbers are seconds, or milliseconds from 1e11 on; else parsed (no zone means UTC).

    Raises:
        ValueError: a time is missing or cannot be read; the message shows it.
    """
    array = np.atleast_1d(np.asarray(values))
    missing = pd.isna(array)
    if missing.any():
        raise ValueError(f"time number {int(np.argmax(missing))} is missing; every action needs one")
    if array.dtype.kind == "O":
        array = np.asarray(pd.Series(array).infer_objects())
    if array.dtype.kind in "iuf":
        return np.where(np.abs(array) >= 1e11, array // 1000, array).astype(np.int64)
    try:
        times = pd.to_datetime(pd.Series(array), utc=True, format="ISO8601").dt.as_unit("s")
    except (ValueError, TypeError) as error:
        raise ValueError(f"times are unix seconds, ISO text or datetimes (UTC), which this is not: {error}") from error
    return np.asarray(times.astype("int64"), np.int64)


def _ids(values: NDArray[Any], names: Sequence[str], what: str, optional: bool = False) -> NDArray[np.int64]:
    """Ids of a column of names (or of ids already); where `optional`, -1 for None or -1."""
    ids = pd.Index(list(names)).get_indexer(pd.Index(values))
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(np.float64)
    ids = np.where((ids < 0) & (numbers >= 0) & (numbers < len(names)), np.nan_to_num(numbers), ids).astype(np.int64)
    unknown = ids < 0
    if optional:
        unknown &= ~pd.isna(values) & (numbers != -1)
    if unknown.any():
        raise ValueError(f"unknown {what} {values[int(np.argmax(unknown))]!r}; this tokenizer knows {', '.join(names)}")
    return ids
