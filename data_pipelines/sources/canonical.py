"""Values as text, the same whatever type a file gives them: so files of several types make one column."""

import ibis
import ibis.expr.types as ir

# float64 holds every whole number below this bound exactly.
_EXACT_FLOAT = 2.0**53
_NUMBERS = ("tz_offset_minutes", "latitude", "longitude", "user_latitude", "user_longitude")


def identifier(column: ir.Column) -> ir.StringValue:
    """An id of any type as trimmed text; null if empty. Whole floats lose their `.0`, so 7 and 7.0 are one id.

    Raises:
        ValueError: if the column has a type that is none of ids.
    """
    if isinstance(column, ir.FloatingValue):
        whole = column.try_cast("int64")
        exact = ibis.coalesce((whole.cast("float64") == column) & (column.abs() < _EXACT_FLOAT), False)
        text = ibis.ifelse(exact, whole.cast("string"), column.cast("string"))
        return ibis.ifelse(column.isnan(), ibis.null("string"), text)
    require_type(column, "text or numbers", ir.StringValue, ir.NumericValue, ir.UUIDValue)
    return column.cast("string").strip().nullif("")


def as_text(name: str, column: ir.Column) -> ir.StringValue:
    """A column of any type as text that means the same to the rules of `prepare`, by its canonical name.

    Numbers stay what they say, NaN included; times of numbers lose fractions of their unit, as no rule reads them, and
    stand without an exponent, which no rule for times reads either; all else is an `identifier`.
    """
    if name == "timestamp" and isinstance(column, ir.FloatingValue):
        # Engines round or cut, and Ibis's own floor ends the query at a value beyond 64 bits.
        near = column.try_cast("int64")
        below = ibis.ifelse(near.cast("float64") > column, near - 1, near)
        return ibis.ifelse(
            column.isnan(), ibis.null("string"), ibis.coalesce(below.cast("string"), column.cast("string"))
        )
    return column.cast("string") if name in (*_NUMBERS, "timestamp") else identifier(column)


def require_type(column: ir.Column, expected: str, *kinds: type[ir.Column]) -> None:
    """Raises ValueError if a column is of none of these kinds."""
    if not isinstance(column, kinds) and not column.type().is_null():
        raise ValueError(
            f"the column {column.get_name()} has type {column.type()}: expected {expected}; write it as one of them"
        )
