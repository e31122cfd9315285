"""Opens CSV, TSV, JSON lines and Parquet files as one Ibis table with canonical column names."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.sources.base import Origin, Progress
from data_pipelines.sources.canonical import as_text
from data_pipelines.sources.text import JSON_LINES, TextLayout, header, stage_text

COMMA = TextLayout()
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson", ".parquet")
# Columns that engines add to those of a Parquet file: where a row stands.
_OWN_NAMES = ("source_path", "source_row", "file_row_number")


class ParquetEngine(Protocol):
    """What a reader needs of the engine."""

    def read_parquet(self, files: Sequence[Path]) -> ir.Table:
        """Parquet files of one schema, with `source_path` and `source_row` beside their columns."""

    def open_folder(self, folder: Path) -> ir.Table:
        """The Parquet files of a folder."""


@dataclass
class Reader:
    """Reads files into Ibis tables of one engine; text passes through Parquet files in `staging`.

    Parquet is read by the engine itself. Text is parsed here, the same for every engine.
    """

    engine: ParquetEngine
    staging: Path
    progress: Progress
    malformed: list[tuple[str, int, str]] = field(default_factory=list)

    def text(self, file: Path, name: str, columns: Mapping[str, str], layout: TextLayout = COMMA) -> ir.Table:
        """Columns of a text file under new names (new name -> name in the file)."""
        folder = self._new_folder()
        self._stage(file, name, columns, layout, folder)
        return self.engine.open_folder(folder)

    def table(self, files: Sequence[Path], origin: Origin, columns: Callable[[Path], Mapping[str, str]]) -> ir.Table:
        """Columns of files of any of the kinds that `kind` knows, as one table; files of one schema are read at once.

        Args:
            files: the files.
            origin: names them.
            columns: of a file, new name -> name in the file.
        """
        signature: tuple[tuple[str, ...], ...]
        alike: dict[tuple[str, tuple[tuple[str, ...], ...]], list[Path]] = {}
        wanted: dict[Path, Mapping[str, str]] = {file: columns(file) for file in files}
        for file, names in wanted.items():
            if kind(file) == "parquet":
                schema = pq.read_schema(file)
                _refuse_own_names(file, schema.names)
                signature = tuple((new, old, str(schema.field(old).type)) for new, old in names.items())
            else:
                signature = tuple((name,) for name in sorted(names))
            alike.setdefault(("parquet" if kind(file) == "parquet" else "text", signature), []).append(file)
        tables = []
        for (stored, _), group in alike.items():
            if stored == "parquet":
                tables.append(self._parquet(group, origin, wanted[group[0]]))
                continue
            folder = self._new_folder()
            for file in group:
                layout = {"jsonl": JSON_LINES, "tsv": TextLayout(delimiter="\t")}.get(kind(file), COMMA)
                self._stage(file, origin.name(file), wanted[file], layout, folder)
            tables.append(self.engine.open_folder(folder))
        return union(tables)

    def _parquet(self, files: Sequence[Path], origin: Origin, columns: Mapping[str, str]) -> ir.Table:
        table = self.engine.read_parquet(files)
        return table.select(
            source_file=table.source_path.substr(len(f"{origin.root.absolute()}".rstrip("/")) + 1),
            source_row=table.source_row,
            **{new: table[old] for new, old in columns.items()},
        )

    def _new_folder(self) -> Path:
        folder = self.staging / f"{len(list(self.staging.iterdir())):05d}"
        folder.mkdir()
        return folder

    def _stage(self, file: Path, name: str, columns: Mapping[str, str], layout: TextLayout, folder: Path) -> None:
        target = folder / f"{len(list(folder.iterdir())):05d}.parquet"
        if layout is not JSON_LINES:
            self.malformed += stage_text(file, name, layout, columns, target, self.progress)
            return
        lines = self.staging / "lines.parquet"
        self.malformed += stage_text(file, name, layout, {"line": "line"}, lines, self.progress)
        _write_fields(lines, columns, target)
        lines.unlink()


def _write_fields(lines: Path, columns: Mapping[str, str], target: Path) -> None:
    """Fields of JSON objects, one a line, as text; a line that is no object has nulls only."""
    connection = ibis.duckdb.connect()
    try:
        table = connection.read_parquet(lines)
        value = table.line.try_cast("json")
        fields = {new: _json_text(value[old]) for new, old in columns.items()}
        connection.to_parquet(table.select("source_file", "source_row", **fields), target)
    finally:
        connection.disconnect()


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


def _refuse_own_names(file: Path, names: Sequence[str]) -> None:
    """Raises ValueError if a Parquet file has a column that the engines put beside its own, of upper or lower case."""
    for name in names:
        if name.lower() in _OWN_NAMES:
            raise ValueError(f"{file} has a column {name}, a name that prepare itself uses; rename or drop the column")


def union(tables: Sequence[ir.Table]) -> ir.Table:
    """Rows of all tables; a column that some lack is null there, and `as_text` wherever the types differ."""
    names = list(dict.fromkeys(name for table in tables for name in table.columns))
    types = {name: {table[name].type() for table in tables if name in table.columns} for name in names}

    def aligned(table: ir.Table, name: str) -> ir.Value:
        one_type = len(types[name]) == 1
        if name in table.columns:
            return table[name] if one_type else as_text(name, table[name])
        return ibis.null(next(iter(types[name])) if one_type else "string")

    rows = [table.select(**{name: aligned(table, name) for name in names}) for table in tables]
    return functools.reduce(lambda left, right: left.union(right), rows)


def _json_text(value: ir.JSONValue) -> ir.StringValue:
    return ibis.coalesce(value.str, value.int.cast("string"), value.float.cast("string"))
