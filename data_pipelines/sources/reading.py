"""Opens CSV, TSV, JSON lines and Parquet files as one Ibis table with canonical column names."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.sql import SQLBackend

from data_pipelines.sources.base import Progress
from data_pipelines.sources.text import JSON_LINES, TextLayout, header, stage_text

COMMA = TextLayout()
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")


@dataclass
class Reader:
    """Reads files into Ibis tables of one connection; text passes through Parquet files in `staging`."""

    connection: SQLBackend
    staging: Path
    progress: Progress
    malformed: list[tuple[str, int, str]] = field(default_factory=list)

    def text(self, file: Path, name: str, columns: Mapping[str, str], layout: TextLayout = COMMA) -> ir.Table:
        """Columns of a text file under new names (new name -> name in the file)."""
        target = self.staging / f"{len(list(self.staging.iterdir())):05d}.parquet"
        self.malformed += stage_text(file, name, layout, columns, target, self.progress)
        return self.connection.read_parquet(target)

    def json_lines(self, file: Path, name: str, columns: Mapping[str, str]) -> ir.Table:
        """Fields of a file of JSON objects, one a line, as text; a line that is no object has nulls only."""
        lines = self.text(file, name, {"line": "line"}, JSON_LINES)
        value = lines.line.try_cast("json")
        fields = {new: _json_text(value[old]) for new, old in columns.items()}
        return lines.select("source_file", "source_row", **fields)

    def parquet(self, file: Path, name: str, columns: Mapping[str, str]) -> ir.Table:
        """Columns of a Parquet file under new names, with their own types."""
        table = self.connection.read_parquet(file, file_row_number=True)
        return table.select(
            source_file=ibis.literal(name),
            source_row=table.file_row_number + 1,
            **{new: table[old] for new, old in columns.items()},
        )

    def table(self, file: Path, name: str, columns: Mapping[str, str], layout: TextLayout = COMMA) -> ir.Table:
        """Columns of a file of any of the kinds that `kind` knows."""
        match kind(file):
            case "parquet":
                return self.parquet(file, name, columns)
            case "jsonl":
                return self.json_lines(file, name, columns)
            case "tsv":
                return self.text(file, name, columns, TextLayout(delimiter="\t"))
            case _:
                return self.text(file, name, columns, layout)


def kind(file: Path) -> str:
    """csv, tsv, jsonl or parquet, from the file's name.

    Raises:
        ValueError: if the name ends otherwise.
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    if last not in TABLE_SUFFIXES:
        raise ValueError(
            f"{file} is of unknown kind: expected a name that ends in {', '.join(TABLE_SUFFIXES)} (or + .gz)"
        )
    return {".ndjson": "jsonl", ".txt": "csv"}.get(last, last.removeprefix("."))


def column_names(file: Path, layout: TextLayout = COMMA) -> list[str] | None:
    """Column names of a file; None for JSON lines, where each line may have its own.

    Raises:
        ValueError: if the file is empty, truncated or unreadable.
    """
    match kind(file):
        case "jsonl":
            return None
        case "parquet":
            try:
                return list(pq.read_schema(file).names)
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{file} is not a complete Parquet file: {error}; write or copy it again") from error
        case "tsv":
            return header(file, TextLayout(delimiter="\t"))
        case _:
            return header(file, layout)


def union(tables: Sequence[ir.Table]) -> ir.Table:
    """Rows of all tables; a column that some lack is null there, and text wherever the types differ."""
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    types = {name: {table[name].type() for table in tables if name in table.columns} for name in names}
    shared = {name: next(iter(kinds)) if len(kinds) == 1 else "string" for name, kinds in types.items()}
    aligned = [
        table.select(
            **{
                name: table[name].cast(shared[name]) if name in table.columns else ibis.null(shared[name])
                for name in names
            }
        )
        for table in tables
    ]
    return functools.reduce(lambda left, right: left.union(right), aligned)


def _json_text(value: ir.JSONValue) -> ir.StringValue:
    return ibis.coalesce(value.str, value.int.cast("string"), value.float.cast("string"))
