"""Where the engines differ in a function: expressions that mean the same on DuckDB and on Spark."""

import ibis
import ibis.expr.types as ir


def wide_integer(value: ir.IntegerValue) -> ir.IntegerValue:
    """A small integer in 64 bits.

    Spark's `find` and `length` give 32 bits, and their products overflow silently; Ibis takes them for 64 bits and
    drops a cast to what it believes they are. The way over float64 is exact for small integers and cannot be dropped.
    """
    return value.cast("float64").cast("int64")


def given(column: ir.Column) -> ir.BooleanValue:
    """Whether a value is there, NaN included. On Spark, Ibis's own `notnull` is false for NaN; on DuckDB it is true."""
    if isinstance(column, ir.FloatingValue):
        return ibis.coalesce(column == column, False)  # NaN equals itself on both
    return column.notnull()
