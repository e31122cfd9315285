"""What prepare needs of an engine that runs Ibis expressions."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.sql import SQLBackend


class Engine(ABC):
    """A connection, and the few operations that prepare needs of it.

    Intermediate tables are Parquet in `work`, whatever the engine: they cost disk in place of memory.

    Attributes:
        connection: where expressions run.
        work: folder for intermediate tables; removed by the caller. On a cluster all executors must see it.
    """

    connection: SQLBackend
    work: Path

    def materialise(self, expression: ir.Table, name: str) -> ir.Table:
        """Compute a table once for all later uses.

        Raises:
            ValueError: if a source cannot be read.
        """
        folder = self.work / "tables" / name
        self.write_parquet(expression, folder)
        return self.open_folder(folder)

    def drop(self, name: str) -> None:
        """Free a materialised table that no later step uses."""
        shutil.rmtree(self.work / "tables" / name)

    def row(self, expression: ir.Table) -> dict[str, int | None]:
        """The only row of an expression."""
        (row,) = self.table(expression).to_pylist()
        return row

    def small_table(self, table: pa.Table, name: str) -> ir.Table:
        """Bring an Arrow table in."""
        folder = self.work / "tables" / name
        folder.mkdir(parents=True)
        pq.write_table(table, folder / "part-0.parquet")
        return self.open_folder(folder)

    @abstractmethod
    def secret(self, value: str) -> ir.Table:
        """A table of one row whose only column `secret` holds a text that is on no disk, and in no query or plan."""

    @abstractmethod
    def table(self, expression: ir.Table) -> pa.Table:
        """The rows of an expression. Raises ValueError if a source cannot be read."""

    @abstractmethod
    def read_parquet(self, files: Sequence[Path]) -> ir.Table:
        """Parquet files of one schema; beside their columns, `source_path` (text) and `source_row` (int64, from 1)."""

    @abstractmethod
    def open_folder(self, folder: Path) -> ir.Table:
        """A table that `write_parquet` wrote."""

    @abstractmethod
    def write_parquet(self, expression: ir.Table, folder: Path, partition_by: str | None = None) -> None:
        """Write the rows of an expression as Parquet files in a folder, in any order, without holding them in memory.

        Args:
            expression: the table.
            folder: is replaced.
            partition_by: an integer column; its value v goes to the sub-folder `<column>=v` and not into the files.

        Raises:
            ValueError: if a source cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""
