"""The engine that runs the Ibis expressions: DuckDB inside this process, spilling to disk."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.sql import SQLBackend


class Engine:
    """A connection, and the few operations that prepare needs of it.

    Args:
        work: folder for temporary tables; removed by the caller.
        memory_limit: such as "8GB"; None is the engine's default.
    """

    def __init__(self, work: Path, memory_limit: str | None = None) -> None:
        self.work = work
        # Statistics of a Parquet column ignore NaN, and DuckDB 2.0 derives from them that `isnan` is false everywhere.
        settings = {"temp_directory": str(work / "spill"), "disabled_optimizers": "statistics_propagation"}
        if memory_limit is not None:
            settings["memory_limit"] = memory_limit
        try:
            self.connection: SQLBackend = ibis.duckdb.connect(**settings)
        except duckdb.Error as error:
            raise ValueError(f"memory_limit is {memory_limit!r}: expected a size such as '8GB' ({error})") from error

    def close(self) -> None:
        """Close the connection and drop its temporary tables."""
        self.connection.disconnect()

    def materialise(self, expression: ir.Table, name: str) -> ir.Table:
        """Compute a table once for all later uses.

        Raises:
            ValueError: if a source cannot be read.
        """
        with user_errors():
            return self.connection.create_table(name, expression, temp=True)

    def drop(self, name: str) -> None:
        """Free a materialised table that no later step uses."""
        self.connection.raw_sql(f'DROP TABLE "{name}"')

    def table(self, expression: ir.Table) -> pa.Table:
        """The rows of an expression.

        Raises:
            ValueError: if a source cannot be read.
        """
        with user_errors():
            return self.connection.to_pyarrow(expression)

    def row(self, expression: ir.Table) -> dict[str, int | None]:
        """The only row of an expression."""
        (row,) = self.table(expression).to_pylist()
        return row

    def write_parquet(self, expression: ir.Table, file: Path) -> None:
        """Write the rows of an expression, in their order, without holding them in memory."""
        with user_errors():
            self.connection.to_parquet(expression, file)

    def small_table(self, table: pa.Table, name: str) -> ir.Table:
        """Bring an Arrow table in."""
        file = self.work / f"{name}.parquet"
        pq.write_table(table, file)
        return self.connection.read_parquet(file)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what the engine says of unreadable input and scarce resources into ValueError; let Ctrl-C be Ctrl-C."""
    try:
        yield
    except RuntimeError as error:
        # So DuckDB reports Ctrl-C during a query.
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise
    except duckdb.OutOfMemoryException as error:
        raise ValueError(f"the engine ran out of memory: {error}; raise --memory-limit or free memory") from error
    except (duckdb.IOException, duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise ValueError(f"the engine could not read the source or its settings: {error}") from error
