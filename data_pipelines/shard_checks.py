"""What every reader of shards holds them against: types of the columns, ranges of the values, the order of times.

A shard that fails was changed after `prepare`, or written by something else.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

INTEGER_COLUMNS = ("poi_row", "action", "timestamp", "tz_offset_minutes")
POINT_COLUMNS = ("user_latitude", "user_longitude")
OPTIONAL_COLUMNS = (*POINT_COLUMNS, "mode")
AGAIN = "run prepare --overwrite"


def check_schema(schema: pa.Schema, columns: Sequence[str], path: Path) -> None:
    """Raises ValueError naming the file if it lacks `user_hash` or one of the list columns, or holds another type."""
    for name in ("user_hash", *columns):
        if name not in schema.names:
            raise ValueError(f"{path} lacks the column {name!r} (it has {', '.join(schema.names)}); {AGAIN}")
        kind = schema.field(name).type
        if name != "user_hash":
            kind = kind.value_type if pa.types.is_list(kind) else None
        wanted = pa.types.is_floating if name in POINT_COLUMNS else pa.types.is_integer
        if kind is None or not wanted(kind):
            expected = "floats" if name in POINT_COLUMNS else "integers"
            raise ValueError(
                f"{path}: column {name!r} has type {schema.field(name).type}, expected "
                f"{expected if name == 'user_hash' else f'lists of {expected}'}; {AGAIN}"
            )


def check_values(
    columns: Mapping[str, np.ndarray], offsets: np.ndarray, num_actions: int, num_modes: int, where: str
) -> None:
    """Raises ValueError for values that cannot be, and for times that fall within a sequence.

    Args:
        columns: name -> (num_actions_read,), with `timestamp`; others that are absent are not checked. Whether a POI
            row is listed is for the index to say.
        offsets: int64 (num_sequences + 1,), the first action of each sequence.
        num_actions, num_modes: how many action types and modes the manifest names.
        where: of the sequences, for messages.
    """
    ranges: dict[str, tuple[float, float]] = {
        "poi_row": (-1, np.iinfo(np.int32).max),
        "action": (0, num_actions - 1),
        "mode": (-1, num_modes - 1),
        "user_latitude": (-90, 90),
        "user_longitude": (-180, 180),
    }
    for name, (low, high) in ranges.items():
        values = columns.get(name)
        if values is None or not len(values):
            continue
        # fmin and fmax pass over NaN, which says that a place is not known.
        extremes = np.fmin.reduce(values), np.fmax.reduce(values)
        if extremes[0] < low or extremes[1] > high:
            wrong = extremes[0] if extremes[0] < low else extremes[1]
            raise ValueError(f"{where}: column {name!r} holds {wrong}, expected {low} to {high}; {AGAIN}")
    back = np.diff(columns["timestamp"], prepend=columns["timestamp"][:1]) < 0
    back[offsets[:-1][np.diff(offsets) > 0]] = False
    if back.any():
        row = int(np.searchsorted(offsets, np.flatnonzero(back)[0], side="right")) - 1
        raise ValueError(f"{where}, row {row}: timestamps fall; they must be in time order: {AGAIN}")
