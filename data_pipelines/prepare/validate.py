"""Row by row: raw text and numbers to typed columns, and the reason why a row cannot be used.

A row has at most one reason, the first that applies in the order of `REASONS`. Coordinates that are only missing are no
reason yet: the POI may be placed by its other rows. That is decided in `catalogue.py`.
"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from data_pipelines.prepare.times import unix_seconds
from data_pipelines.prepare.users import hash_expression
from data_pipelines.sources.base import DEFAULT_ACTION

MODES = ("local", "pre_trip", "in_trip")
UNKNOWN_MODE = -1
_MIN_OFFSET, _MAX_OFFSET = -12 * 60, 14 * 60

REASONS = {
    "malformed row": "the line has another number of columns than the file",
    "undecodable text": "the row is not valid text in the file's encoding",
    "missing user": "no user id",
    "missing POI": "no POI id",
    "missing time": "no time",
    "unparsable time": "the time has no known format, or names an instant that does not exist",
    "time before 1970": "the time is negative as unix time",
    "future time": "the time lies after the time of the run (or --latest-time)",
    "unparsable coordinates": "a coordinate is text that is no number",
    "coordinates out of range": "latitude beyond 90 or longitude beyond 180 degrees, or infinite",
    "unknown mode": "the mode is none of local, pre_trip, in_trip (or 0, 1, 2)",
    "duplicate": "a row with the same user, POI, action and time exists",
    "missing coordinates": "no coordinates, and no other row or table places the POI",
    "coordinates not a number": "a coordinate is NaN, and no other row or table places the POI",
    "coordinates 0,0": "both coordinates are 0, which stands for unknown, and no other row or table places the POI",
    "duplicate POI": "the POI table lists the POI again",
}


def identifier(column: ir.Column) -> ir.StringValue:
    """An id of any type as trimmed text; null if empty. Whole floats lose their `.0`, so 7 and 7.0 are one id."""
    if isinstance(column, ir.FloatingValue):
        whole = column.isnan().negate() & (column == column.floor()) & (column.abs() < 2**53)
        text = ibis.ifelse(whole, column.try_cast("int64").cast("string"), column.cast("string"))
        return ibis.ifelse(column.isnan(), ibis.null("string"), text)
    return column.cast("string").strip().nullif("")


def number(column: ir.Column) -> ir.FloatingValue:
    """A number of any type as float64; null if it is empty or no number."""
    if isinstance(column, ir.StringValue):
        return column.strip().nullif("").try_cast("float64")
    return column.cast("float64")


def _given(column: ir.Column) -> ir.BooleanValue:
    if isinstance(column, ir.StringValue):
        return column.strip().nullif("").notnull()
    return column.notnull()


def coordinate_columns(latitude: ir.Column, longitude: ir.Column) -> dict[str, ir.Value]:
    """Columns latitude, longitude (degrees, both null unless both usable), bad_place and no_place (reasons or null)."""
    degrees = (number(latitude), number(longitude))
    unparsable = (_given(latitude) & degrees[0].isnull()) | (_given(longitude) & degrees[1].isnull())
    nan = ibis.coalesce(degrees[0].isnan(), False) | ibis.coalesce(degrees[1].isnan(), False)
    # NaN compares as the greatest number on some engines and as unequal to all on others: it is told apart first.
    beyond = (degrees[0].abs() > 90) | (degrees[1].abs() > 180)
    bad = ibis.cases(
        (unparsable, "unparsable coordinates"),
        (ibis.coalesce(~nan & beyond, False), "coordinates out of range"),
        else_=ibis.null("string"),
    )
    none = ibis.cases(
        (bad.notnull(), bad),
        (degrees[0].isnull() | degrees[1].isnull(), "missing coordinates"),
        (nan, "coordinates not a number"),
        ((degrees[0] == 0) & (degrees[1] == 0), "coordinates 0,0"),
        else_=ibis.null("string"),
    )
    missing = ibis.null("float64")
    return {
        "latitude": ibis.ifelse(none.isnull(), degrees[0], missing),
        "longitude": ibis.ifelse(none.isnull(), degrees[1], missing),
        "bad_place": bad,
        "no_place": none,
    }


def checked_events(raw: ir.Table, key: str, latest: int, keep_duplicates: bool) -> ir.Table:
    """Typed events with the reason of every row that cannot be used.

    Args:
        raw: events with canonical names, see `sources.base`.
        key: key of the user hash.
        latest: unix seconds after which an event lies in the future.
        keep_duplicates: whether exact repetitions are kept.

    Returns:
        source_file, source_row, user_hash int64, poi_id, action text, timestamp int64, tz_offset_minutes int16,
        bad_offset bool, latitude, longitude float64, no_place, category, name, reason text, and if the source has them
        user_latitude, user_longitude float32, mode int8, trajectory, part text.
    """
    user = identifier(raw.user_id)
    offset = number(raw.tz_offset_minutes) if "tz_offset_minutes" in raw.columns else ibis.null("float64")
    usable_offset = ibis.coalesce(offset.between(_MIN_OFFSET, _MAX_OFFSET) & (offset == offset.floor()), False)
    columns: dict[str, ir.Value] = {
        "source_file": raw.source_file,
        "source_row": raw.source_row,
        "user_hash": hash_expression(user, key),
        "poi_id": identifier(raw.poi_id),
        "action": ibis.coalesce(_text(raw, "action"), ibis.literal(DEFAULT_ACTION)),
        "timestamp": unix_seconds(raw.timestamp),
        "has_time": _given(raw.timestamp),
        "tz_offset_minutes": ibis.ifelse(usable_offset, offset, 0.0).cast("int16"),
        "bad_offset": offset.notnull() & ~usable_offset,
        "category": _text(raw, "category"),
        "name": _text(raw, "name"),
    }
    if "latitude" in raw.columns and "longitude" in raw.columns:
        columns |= coordinate_columns(raw.latitude, raw.longitude)
    else:
        nothing = {"bad_place": ibis.null("string"), "no_place": ibis.literal("missing coordinates")}
        columns |= {"latitude": ibis.null("float64"), "longitude": ibis.null("float64"), **nothing}
    if "user_latitude" in raw.columns and "user_longitude" in raw.columns:
        place = coordinate_columns(raw.user_latitude, raw.user_longitude)
        for name in ("latitude", "longitude"):
            columns[f"user_{name}"] = ibis.coalesce(place[name], float("nan")).cast("float32")
    if "mode" in raw.columns:
        columns["mode"] = _mode(identifier(raw.mode))
    columns |= {name: _text(raw, name) for name in ("trajectory", "part") if name in raw.columns}
    typed = raw.select(**columns)

    conditions: list[tuple[ir.BooleanValue, str | ir.StringValue]] = [
        (typed.user_hash.isnull(), "missing user"),
        (typed.poi_id.isnull(), "missing POI"),
        (~typed.has_time, "missing time"),
        (typed.timestamp.isnull(), "unparsable time"),
        (typed.timestamp < 0, "time before 1970"),
        (typed.timestamp > latest, "future time"),
        (typed.bad_place.notnull(), typed.bad_place),
    ]
    if "mode" in typed.columns:
        conditions.append((typed["mode"].isnull(), "unknown mode"))
    checked = typed.mutate(reason=ibis.cases(*conditions, else_=ibis.null("string"))).drop("has_time", "bad_place")
    return checked if keep_duplicates else _mark_duplicates(checked)


def _mark_duplicates(checked: ir.Table) -> ir.Table:
    """Give all but one of the good rows that say the same the reason 'duplicate'; one with coordinates is kept first."""
    same = ["reason", "user_hash", "poi_id", "action", "timestamp"]
    order: Sequence[ir.Value] = [checked.no_place.notnull(), checked.source_file, checked.source_row]
    numbered = checked.mutate(copy=ibis.row_number().over(group_by=same, order_by=order))
    repeated = numbered.reason.isnull() & (numbered["copy"] > 0)
    return numbered.mutate(reason=ibis.ifelse(repeated, "duplicate", numbered.reason)).drop("copy")


def _text(raw: ir.Table, name: str) -> ir.StringValue:
    return identifier(raw[name]) if name in raw.columns else ibis.null("string")


def _mode(text: ir.StringValue) -> ir.IntegerValue:
    """Index into MODES; UNKNOWN_MODE where the row says nothing, null where it says something unknown."""
    plain = text.lower().replace("-", "_")
    branches = [((plain == name) | (plain == str(index)), index) for index, name in enumerate(MODES)]
    return ibis.cases((plain.isnull(), UNKNOWN_MODE), *branches, else_=ibis.null("int8")).cast("int8")


def checked_pois(raw: ir.Table) -> ir.Table:
    """Typed rows of a POI table: source_file, source_row, poi_id, latitude, longitude, category, name, reason."""
    typed = raw.select(
        "source_file",
        "source_row",
        poi_id=identifier(raw.poi_id),
        category=_text(raw, "category"),
        name=_text(raw, "name"),
        **coordinate_columns(raw.latitude, raw.longitude),
    )
    reason = ibis.cases((typed.poi_id.isnull(), "missing POI"), else_=typed.no_place)
    typed = typed.mutate(reason=reason).drop("bad_place", "no_place")
    copy = ibis.row_number().over(group_by=["reason", "poi_id"], order_by=[typed.source_file, typed.source_row])
    numbered = typed.mutate(copy=copy)
    repeated = numbered.reason.isnull() & (numbered["copy"] > 0)
    return numbered.mutate(reason=ibis.ifelse(repeated, "duplicate POI", numbered.reason)).drop("copy")
