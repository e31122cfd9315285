"""Times of events as unix seconds, the format decided row by row inside the engine.

Known formats: ISO 8601 with a time of day (`2012-04-03T18:00:09Z`, `2012-04-03 18:00`, fractions, any offset; without
an offset it is UTC), `Tue Apr 03 18:00:09 +0000 2012`, and unix time as a number in seconds, milliseconds, microseconds
or nanoseconds. The unit of a number follows from its size: below 1e11 it is seconds (until the year 5138), below 1e14
milliseconds (from March 1973 on), and so forth.
"""

import ibis
import ibis.expr.types as ir

_NUMBER = r"^[+-]?\d+(\.\d*)?$"
_ISO = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?\s*([Zz]|UTC|[+-]\d{2}(:?\d{2})?)?$"
_ISO_WITH_SECONDS = r"^.{16}:\d{2}"
_ISO_OFFSET = r"[+-]\d{2}(:?\d{2})?$"
_FOURSQUARE = r"^[A-Z][a-z]{2} [A-Z][a-z]{2} \d{2} \d{2}:\d{2}:\d{2} [+-]\d{4} \d{4}$"
_MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"
_UNIT_LIMITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))


def unix_seconds(column: ir.Column) -> ir.IntegerValue:
    """Unix seconds (int64) of a column of times; null where the value is missing or no known format.

    Args:
        column: text, numbers or timestamps (a timestamp without a zone is UTC).

    Raises:
        ValueError: if the column has another type.
    """
    if isinstance(column, ir.TimestampValue):
        return column.epoch_seconds().cast("int64")
    if isinstance(column, ir.NumericValue) and not isinstance(column, ir.BooleanValue):
        return _from_number(column.cast("float64"))
    if not isinstance(column, ir.StringValue):
        raise ValueError(
            f"the column timestamp has type {column.type()}: expected text, numbers or timestamps; write it as one"
        )
    text = column.strip()
    number = ibis.ifelse(text.re_search(_NUMBER), text.try_cast("float64"), ibis.null("float64"))
    return ibis.coalesce(_from_iso(text), _from_number(number), _from_foursquare(text))


def _from_number(number: ir.NumericValue) -> ir.IntegerValue:
    size = number.abs()
    # The unit is chosen before anything is cast: an engine may evaluate a cast that no branch asks for.
    unit = ibis.cases(
        (number.isnan(), ibis.null("float64")),
        *((size < limit, float(unit)) for limit, unit in _UNIT_LIMITS),
        else_=ibis.null("float64"),
    )
    return (number.nullif(float("nan")) / unit).floor().cast("int64")


def _from_iso(text: ir.StringValue) -> ir.IntegerValue:
    seconds = ibis.ifelse(text.re_search(_ISO_WITH_SECONDS), text.substr(16, 3), ":00")
    clock = text.substr(0, 10) + " " + text.substr(11, 5) + seconds
    offset = text.substr(16).re_extract(_ISO_OFFSET, 0).replace(":", "")
    return ibis.ifelse(text.re_search(_ISO), _seconds(clock, offset), ibis.null("int64"))


def _from_foursquare(text: ir.StringValue) -> ir.IntegerValue:
    month = (ibis.literal(_MONTHS).find(text.substr(4, 3)) // 3 + 1).cast("string").lpad(2, "0")
    clock = text.substr(26, 4) + "-" + month + "-" + text.substr(8, 2) + " " + text.substr(11, 8)
    return ibis.ifelse(text.re_search(_FOURSQUARE), _seconds(clock, text.substr(20, 5)), ibis.null("int64"))


def _seconds(clock: ir.StringValue, offset: ir.StringValue) -> ir.IntegerValue:
    """Unix seconds of `YYYY-MM-DD hh:mm:ss` at an offset `+hhmm`, `+hh` or nothing (UTC)."""
    hours = ibis.coalesce(offset.substr(1, 2).try_cast("int64"), 0)
    minutes = ibis.coalesce(offset.substr(3, 2).try_cast("int64"), 0)
    ahead = (hours * 60 + minutes) * 60
    return clock.try_cast("timestamp").epoch_seconds().cast("int64") - ibis.ifelse(
        offset.startswith("-"), -ahead, ahead
    )
