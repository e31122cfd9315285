"""DuckDB inside this process, spilling to disk: the default engine."""

import glob
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa

from data_pipelines.prepare.engine import Engine

# Rows that DuckDB holds for each partition and thread before it writes them.
_PARTITION_BUFFER_ROWS = 65_536


class DuckDBEngine(Engine):
    """See `Engine`.

    Args:
        work: folder for intermediate tables.
        memory_limit: such as "8GB"; None is DuckDB's default, 80 % of the machine.
    """

    def __init__(self, work: Path, memory_limit: str | None = None) -> None:
        self.work = work
        settings = {
            "temp_directory": str(work / "spill"),
            # Statistics of a Parquet column ignore NaN, and DuckDB 2.0 derives from them that `isnan` is false.
            "disabled_optimizers": "statistics_propagation",
            # Every order that matters is asked for; keeping the others would cost memory.
            "preserve_insertion_order": False,
            "partitioned_write_flush_threshold": _PARTITION_BUFFER_ROWS,
        }
        if memory_limit is not None:
            settings["memory_limit"] = memory_limit
        try:
            self.connection = ibis.duckdb.connect(**settings)
        except duckdb.Error as error:
            raise ValueError(f"memory_limit is {memory_limit!r}: expected a size such as '8GB' ({error})") from error

    def close(self) -> None:
        """Close the connection."""
        self.connection.disconnect()

    def secret(self, value: str) -> ir.Table:
        """A table of one row with the column `secret`, see `Engine`."""
        self.connection.con.register("secrets", pa.table({"secret": [value]}))
        return self.connection.table("secrets")

    def table(self, expression: ir.Table) -> pa.Table:
        """The rows of an expression. Raises ValueError if a source cannot be read."""
        with _user_errors():
            return self.connection.to_pyarrow(expression)

    def read_parquet(self, files: Sequence[Path]) -> ir.Table:
        """Parquet files of one schema, see `Engine`."""
        with _user_errors():
            table = self.connection.read_parquet(
                [glob.escape(str(file)) for file in files],
                filename="source_path",
                file_row_number=True,
                hive_partitioning=False,
            )
        return table.mutate(source_row=table.file_row_number + 1).drop("file_row_number")

    def open_folder(self, folder: Path) -> ir.Table:
        """A table that `write_parquet` wrote."""
        return self.connection.read_parquet(f"{glob.escape(str(folder))}/*.parquet")

    def write_parquet(self, expression: ir.Table, folder: Path, partition_by: str | None = None) -> None:
        """Write the rows of an expression, see `Engine`."""
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        target, layout = folder, f", PARTITION_BY ({partition_by})"
        if partition_by is None:
            target, layout = folder / "part-0.parquet", ""
        path = str(target).replace("'", "''")
        query = self.connection.compile(expression)
        with _user_errors():
            self.connection.con.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd{layout})")


@contextmanager
def _user_errors() -> Iterator[None]:
    """Turn what DuckDB says of unreadable input and scarce resources into ValueError; let Ctrl-C be Ctrl-C."""
    try:
        yield
    except RuntimeError as error:
        # So DuckDB reports Ctrl-C during a query.
        if "interrupted" in str(error).lower():
            raise KeyboardInterrupt from error
        raise
    except duckdb.OutOfMemoryException as error:
        raise ValueError(f"the engine ran out of memory: {error}; raise --memory-limit or free memory") from error
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OperationalError) as error:
        raise _unreadable(error) from error
    except duckdb.Error as error:
        # A damaged page of a Parquet file has no class of its own; those that have are faults of ours.
        if type(error) is not duckdb.Error:
            raise
        raise _unreadable(error) from error


def _unreadable(error: duckdb.Error) -> ValueError:
    said = " ".join(str(error).split())
    return ValueError(
        f"the engine could not read the source or its settings: {said}; write or copy damaged files again"
    )
