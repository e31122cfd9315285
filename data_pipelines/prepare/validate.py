"""Row by row: raw text and numbers to typed columns, and the reason why a row cannot be used.

A row has at most one reason, the first that applies in the order of `REASONS`. Coordinates that are only missing are no
reason yet: the POI may be placed by its other rows. That is decided in `catalogue.py`.
"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from data_pipelines.prepare.engine_differences import given
from data_pipelines.prepare.times import unix_seconds
from data_pipelines.prepare.users import hash_expression
from data_pipelines.sources.base import DEFAULT_ACTION
from data_pipelines.sources.canonical import identifier, require_type

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


def number(column: ir.Column) -> ir.FloatingValue:
    """A number of any type as float64; null if it is empty or no number."""
    if isinstance(column, ir.StringValue):
        return column.strip().nullif("").try_cast("float64")
    require_type(column, "text or numbers", ir.NumericValue)
    return column.cast("float64")


def _given(column: ir.Column) -> ir.BooleanValue:
    if isinstance(column, ir.StringValue):
        return column.strip().nullif("").notnull()
    return given(column)


def _degrees(latitude: ir.Column, longitude: ir.Column) -> dict[str, ir.Value]:
    """Columns latitude, longitude (degrees as stated) and unparsable."""
    values = {"latitude": number(latitude), "longitude": number(longitude)}
    unparsable = (_given(latitude) & ~given(values["latitude"])) | (_given(longitude) & ~given(values["longitude"]))
    return {**values, "unparsable": unparsable}


def _with_places(typed: ir.Table) -> ir.Table:
    """Judge the coordinates: both null unless both are usable, and the reasons bad_place and no_place, or null.

    A row with a `bad_place` is wrong; one with only a `no_place` says nothing of where its POI is.
    """
    latitude, longitude = typed.latitude, typed.longitude
    # NaN compares as the greatest number on some engines and as unequal to all on others: it is told apart first.
    nan = ibis.coalesce(latitude.isnan(), False) | ibis.coalesce(longitude.isnan(), False)
    beyond = ibis.coalesce((latitude.abs() > 90) | (longitude.abs() > 180), False)
    bad = ibis.cases(
        (typed.unparsable, "unparsable coordinates"),
        (~nan & beyond, "coordinates out of range"),
        else_=ibis.null("string"),
    )
    none = ibis.cases(
        (bad.notnull(), bad),
        (~given(latitude) | ~given(longitude), "missing coordinates"),
        (nan, "coordinates not a number"),
        ((latitude == 0) & (longitude == 0), "coordinates 0,0"),
        else_=ibis.null("string"),
    )
    missing = ibis.null("float64")
    return typed.mutate(
        latitude=ibis.ifelse(none.isnull(), latitude, missing),
        longitude=ibis.ifelse(none.isnull(), longitude, missing),
        bad_place=bad,
        no_place=none,
    ).drop("unparsable")


def typed_events(raw: ir.Table, key: ir.Table) -> ir.Table:
    """Events with typed columns, nothing judged yet.

    Args:
        raw: events with canonical names, see `sources.base`.
        key: key of the user hash, as `Engine.secret` holds it.

    Returns:
        Table for `checked_events`. It is meant to be materialised in between: each column is used several times there.
    """
    nothing = ibis.null("float64")
    columns: dict[str, ir.Value] = {
        "source_file": raw.source_file,
        "source_row": raw.source_row,
        "user_id": identifier(raw.user_id),
        "poi_id": identifier(raw.poi_id),
        "action": ibis.coalesce(_text(raw, "action"), ibis.literal(DEFAULT_ACTION)),
        "timestamp": unix_seconds(raw.timestamp),
        "has_time": _given(raw.timestamp),
        "offset": number(raw.tz_offset_minutes) if "tz_offset_minutes" in raw.columns else nothing,
        "category": _text(raw, "category"),
        "name": _text(raw, "name"),
    }
    if "latitude" in raw.columns and "longitude" in raw.columns:
        columns |= _degrees(raw.latitude, raw.longitude)
    else:
        columns |= {"latitude": nothing, "longitude": nothing, "unparsable": ibis.literal(False)}
    if "user_latitude" in raw.columns and "user_longitude" in raw.columns:
        columns |= {name: number(raw[name]) for name in ("user_latitude", "user_longitude")}
    columns |= {name: _text(raw, name) for name in ("mode", "trajectory", "part") if name in raw.columns}
    typed = raw.select(**columns)
    users = typed.select("user_id").distinct().filter(lambda table: table.user_id.notnull())
    keyed = users.cross_join(key)
    hashed = keyed.select("user_id", user_hash=hash_expression(keyed.user_id, keyed.secret))
    return typed.left_join(hashed, "user_id").drop("user_id", "user_id_right")


def checked_events(typed: ir.Table, latest: int, keep_duplicates: bool) -> ir.Table:
    """Events with the reason of every row that cannot be used.

    Args:
        typed: result of `typed_events`.
        latest: unix seconds after which an event lies in the future.
        keep_duplicates: whether exact repetitions are kept.

    Returns:
        source_file, source_row, user_hash int64, poi_id, action text, timestamp int64, tz_offset_minutes int16,
        bad_offset bool, latitude, longitude float64, no_place, category, name, reason text, and if the source has them
        user_latitude, user_longitude float32 (NaN if unknown), mode int8, trajectory, part text.
    """
    offset = typed.offset
    usable = ibis.coalesce(offset.between(_MIN_OFFSET, _MAX_OFFSET) & (offset == offset.floor()), False)
    columns: dict[str, ir.Value] = {
        "tz_offset_minutes": ibis.ifelse(usable, offset, 0.0).cast("int16"),
        "bad_offset": given(offset) & ~usable,
    }
    if "user_latitude" in typed.columns:
        latitude, longitude = typed.user_latitude, typed.user_longitude
        known = ibis.coalesce(latitude.between(-90, 90) & longitude.between(-180, 180), False)
        for name, degrees in (("user_latitude", latitude), ("user_longitude", longitude)):
            columns[name] = ibis.ifelse(known, degrees, float("nan")).cast("float32")
    if "mode" in typed.columns:
        columns["mode"] = _mode(typed["mode"])
    placed = _with_places(typed.mutate(**columns).drop("offset"))
    conditions: list[tuple[ir.BooleanValue, str | ir.StringValue]] = [
        (placed.user_hash.isnull(), "missing user"),
        (placed.poi_id.isnull(), "missing POI"),
        (~placed.has_time, "missing time"),
        (placed.timestamp.isnull(), "unparsable time"),
        (placed.timestamp < 0, "time before 1970"),
        (placed.timestamp > latest, "future time"),
        (placed.bad_place.notnull(), placed.bad_place),
    ]
    if "mode" in placed.columns:
        conditions.append((placed["mode"].isnull(), "unknown mode"))
    checked = placed.mutate(reason=ibis.cases(*conditions, else_=ibis.null("string"))).drop("has_time", "bad_place")
    return checked if keep_duplicates else _mark_duplicates(checked)


def _mark_duplicates(checked: ir.Table) -> ir.Table:
    """Give all but one of the good rows that say the same the reason 'duplicate'; one with coordinates stays."""
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
        **_degrees(raw.latitude, raw.longitude),
    )
    placed = _with_places(typed)
    reason = ibis.cases((placed.poi_id.isnull(), "missing POI"), else_=placed.no_place)
    judged = placed.mutate(reason=reason).drop("bad_place", "no_place")
    copy = ibis.row_number().over(group_by=["reason", "poi_id"], order_by=[judged.source_file, judged.source_row])
    numbered = judged.mutate(copy=copy)
    repeated = numbered.reason.isnull() & (numbered["copy"] > 0)
    return numbered.mutate(reason=ibis.ifelse(repeated, "duplicate POI", numbered.reason)).drop("copy")
