"""One person's history and the time of a request, read by the rules that prepare reads a corpus with."""

import tempfile
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow.compute as pc

from data_pipelines.prepare.duckdb_engine import DuckDBEngine
from data_pipelines.prepare.times import unix_seconds
from data_pipelines.prepare.validate import REASONS, checked_events, typed_events
from data_pipelines.sources import tables
from data_pipelines.sources.base import Origin
from data_pipelines.sources.reading import Reader

_REQUIRED = ("poi_id", "timestamp")
_OPTIONAL = ("action", "tz_offset_minutes", "user_latitude", "user_longitude", "mode")
_NEVER = 2**62  # no time is in the future here: whether a row lies after the request is for the caller to say


def read_history(file: Path) -> dict[str, np.ndarray]:
    """The actions of one person in time order; rows of one second keep the order of the file.

    Args:
        file: CSV, TSV, JSON lines or Parquet, text also as .gz, with the columns `poi_id` and `timestamp`; optional
            `action`, `tz_offset_minutes`, `user_latitude`, `user_longitude` and `mode`.

    Returns:
        The columns of the file among these, arrays of shape (num_actions,): `poi_id` and `action` as text, `timestamp`
        in unix seconds UTC, degrees (NaN unknown), `mode` as an index into `validate.MODES` (-1 unknown).

    Raises:
        ValueError: the file is missing or cannot be read, lacks a column, or holds a row that prepare would reject.
    """
    if not file.is_file():
        raise ValueError(f"{file} does not exist: expected a file of one person's actions")
    names = {name: (name,) for name in (*_REQUIRED, *_OPTIONAL)}
    columns = tables.columns_of(file, names, _REQUIRED)
    with tempfile.TemporaryDirectory(prefix="spacetime-gr-") as work:
        engine = DuckDBEngine(Path(work))
        try:
            staging = Path(work) / "text"
            staging.mkdir()
            reader = Reader(engine, staging, progress=lambda step: None)
            origin = Origin(root=file.parent, events=(file,))
            raw = reader.table([file], origin, lambda _: columns).mutate(user_id=ibis.literal("one"))
            typed = engine.materialise(typed_events(raw, engine.secret("")), "typed_events")
            events = checked_events(typed, _NEVER, keep_duplicates=True).order_by("timestamp", "source_row")
            checked = engine.table(events)
            rejected = checked.filter(pc.is_valid(checked["reason"])).select(["source_row", "reason"]).to_pylist()
            bad = [(row, reason) for _, row, reason in reader.malformed]
            bad += [(row["source_row"], row["reason"]) for row in rejected]
            if bad:
                row, reason = min(bad)
                given = engine.table(raw.filter(raw.source_row == row).select(list(columns))).to_pylist()
                shown = ", ".join(f"{name}={value!r}" for entry in given for name, value in entry.items())
                place = f"{file}, row {row} ({shown})" if shown else f"{file}, row {row}"
                raise ValueError(f"{place}: {reason}: {REASONS[reason]}; correct or remove the row")
            stated = engine.row(raw.aggregate(**{name: raw[name].count() for name in columns}))
        finally:
            engine.close()
    # JSON lines have every field, and where no row states an action there is none to choose from.
    found = [name for name in columns if name in _REQUIRED or stated[name]]
    return {name: checked[name].to_numpy() for name in found if name in checked.column_names}


def parse_time(text: str) -> int:
    """Unix seconds UTC of one time.

    Raises:
        ValueError: the text has no known form.
    """
    seconds: Any = ibis.duckdb.connect().execute(unix_seconds(ibis.literal(text)))
    if seconds is None:
        raise ValueError(f"{text!r} is no time; expected one such as 2012-12-21T17:30:00Z, or unix seconds")
    return int(seconds)
