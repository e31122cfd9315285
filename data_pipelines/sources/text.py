"""Text files (CSV, TSV, JSON lines; plain or gzip) into Parquet, row numbers and undecodable rows included.

Every column is taken as text: what a value means is decided later, row by row, so one bad value never decides the type
of a column. Files are streamed in blocks, so memory does not grow with the file.
"""

import codecs
import csv
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from data_pipelines.sources.base import Progress

_BLOCK_BYTES = 8 << 20
_LONGEST_ROW_BYTES = 64 << 20
# What reading a damaged file or archive raises.
_UNREADABLE = (OSError, EOFError, zlib.error)
# What stands for undecodable bytes; a row that holds it in a damaged block is set aside.
_REPLACEMENT = "\ufffd"
_LINE_COLUMN = "line"
# Cannot stand unescaped inside JSON, so a JSON line is always one column.
_UNIT_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class TextLayout:
    """How a text file is laid out.

    Attributes:
        delimiter: one character between columns.
        quoted: whether a value may stand in double quotes.
        encoding: "utf-8" or "latin-1".
        names: column names of a file without a header line; None if the first line is the header.
    """

    delimiter: str = ","
    quoted: bool = True
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    names: tuple[str, ...] | None = None


JSON_LINES = TextLayout(delimiter=_UNIT_SEPARATOR, quoted=False, names=(_LINE_COLUMN,))


def header(file: Path, layout: TextLayout) -> list[str]:
    """Column names of a text file.

    Raises:
        ValueError: if the file is empty, cannot be read or names a column twice.
    """
    if layout.names is not None:
        return list(layout.names)
    try:
        with _open(file) as content:
            line = content.readline(_BLOCK_BYTES).decode(layout.encoding, errors="replace")
    except _UNREADABLE as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    names = next(csv.reader([line.removeprefix("\ufeff")], delimiter=layout.delimiter), [])
    names = [name.strip() for name in names]
    if not any(names):
        raise ValueError(f"{file} is empty: expected a header line with column names")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{file} names the column {twice[0]!r} twice; rename one of the two")
    return names


def stage_text(
    file: Path,
    name: str,
    layout: TextLayout,
    columns: Mapping[str, str],
    target: Path,
    progress: Progress,
) -> list[tuple[str, int, str]]:
    """Write the wanted columns of a text file to a Parquet file, all as text.

    Args:
        file: the text file, plain or .gz.
        name: name of the file in the column `source_file`.
        layout: how the file is laid out.
        columns: name in the Parquet file -> name in the text file.
        target: Parquet file to write; also gets `source_file` and `source_row` (line number, the first line is 1).
        progress: told how many rows were read.

    Returns:
        The rows left out, as (file name, row, reason): the number of columns is wrong, or the text is undecodable.

    Raises:
        ValueError: if the file is empty or cannot be read to its end.
    """
    names = header(file, layout)
    schema = pa.schema(
        [("source_file", pa.string()), ("source_row", pa.int64()), *((column, pa.string()) for column in columns)]
    )
    rejected: list[tuple[str, int, str]] = []
    num_rows = 0 if layout.names is not None else 1
    empty = True
    try:
        with pq.ParquetWriter(target, schema, compression="lz4") as writer:
            for block, damaged in _blocks(file, layout):
                table, lines, malformed = _parse(block, layout, names, list(columns.values()))
                rejected += [(name, num_rows + row, "malformed row") for row, size in malformed for _ in range(size)]
                rows = lines + num_rows
                num_rows += len(lines) + len(malformed)
                filled = _any(table, lambda column: pc.greater(pc.binary_length(column), 0))
                bad = _any(table, lambda column: pc.match_substring(column, _REPLACEMENT)) if damaged else ~filled
                rejected += [(name, int(row), "undecodable text") for row in rows[filled & bad]]
                good = filled & ~bad
                origin = [pa.repeat(pa.scalar(name), int(good.sum())), pa.array(rows[good])]
                kept = table.filter(pa.array(good)).combine_chunks()
                writer.write_table(pa.table([*origin, *kept.columns], schema=schema))
                empty = empty and not filled.any() and not malformed
                progress(f"reading {name}: {num_rows:,} rows")
    except (pa.ArrowInvalid, *_UNREADABLE) as error:
        raise ValueError(f"{file} cannot be read after row {num_rows:,}: {error}") from error
    if empty and layout.names is not None:
        raise ValueError(f"{file} is empty: expected one event a line")
    return rejected


def _blocks(file: Path, layout: TextLayout) -> Iterator[tuple[bytes, bool]]:
    """Blocks of whole rows in UTF-8, without the header; whether undecodable bytes were replaced in it."""
    with _open(file) as content:
        rest = content.read(_BLOCK_BYTES)
        rest = rest.removeprefix(codecs.BOM_UTF8)
        if layout.names is None:
            rest = rest.partition(b"\n")[2]
        while True:
            more = content.read(_BLOCK_BYTES)
            end = _last_row_end(rest, layout) if more else len(rest)
            if end > 0:
                yield _as_utf8(rest[:end], layout)
            if not more:
                return
            rest = rest[end:] + more
            if len(rest) > _LONGEST_ROW_BYTES:
                raise ValueError(
                    f"{file} holds a row of more than {_LONGEST_ROW_BYTES >> 20} MiB: is a quote not closed?"
                )


def _last_row_end(block: bytes, layout: TextLayout) -> int:
    """Position behind the last line break that is not inside quotes; 0 if there is none."""
    end = block.rfind(b"\n") + 1
    while layout.quoted and block.count(b'"', 0, end) % 2 == 1:
        end = block.rfind(b"\n", 0, block.rfind(b'"', 0, end)) + 1
    return end


def _as_utf8(block: bytes, layout: TextLayout) -> tuple[bytes, bool]:
    if layout.encoding == "latin-1":
        return block.decode("latin-1").encode(), False
    try:
        block.decode()
    except UnicodeDecodeError:
        return block.decode(errors="replace").encode(), True
    return block, False


def _parse(
    block: bytes, layout: TextLayout, names: list[str], wanted: list[str]
) -> tuple[pa.Table, np.ndarray, list[tuple[int, int]]]:
    """The wanted columns of the well-formed rows, their numbers (the first is 1), and the malformed rows.

    A malformed row is its number and how many lines it holds: a quote that is never closed swallows all that follow,
    and each of those is a row lost.
    """
    malformed: list[tuple[int, int]] = []

    def skip(row: pacsv.InvalidRow) -> str:
        malformed.append((row.number, len(row.text.splitlines())))
        return "skip"

    table = pacsv.read_csv(
        pa.BufferReader(block),
        # Without threads, or pyarrow does not know the number of a malformed row.
        read_options=pacsv.ReadOptions(use_threads=False, block_size=len(block) + 1, column_names=names),
        parse_options=pacsv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quoted else False,
            newlines_in_values=layout.quoted,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=wanted, strings_can_be_null=False
        ),
    )
    numbers = np.arange(1, table.num_rows + len(malformed) + 1)
    lines = np.setdiff1d(numbers, [number for number, _ in malformed], assume_unique=True)
    return table, lines, malformed


def _any(table: pa.Table, test: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> np.ndarray:
    """Rows in which any column passes a test: bool of shape (rows,)."""
    return np.any([test(column).to_numpy() for column in table.columns], axis=0)


def _open(file: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(file) if file.suffix == ".gz" else file.open("rb"))
