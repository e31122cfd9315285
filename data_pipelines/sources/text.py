"""Text files (CSV, TSV, JSON lines; plain or gzip) into Parquet, row numbers and undecodable rows included.

Every column is taken as text: what a value means is decided later, row by row, so one bad value never decides the type
of a column. Files are streamed in blocks, so memory does not grow with the file.
"""

import csv
import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from data_pipelines.sources.base import Progress

_BLOCK_BYTES = 8 << 20
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
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding=layout.encoding, errors="replace", newline="") as lines:
            names = next(csv.reader(lines, delimiter=layout.delimiter), [])
    except (OSError, EOFError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if names:
        names[0] = names[0].removeprefix("\ufeff")
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
    num_rows = 0
    try:
        with pq.ParquetWriter(target, schema, compression="lz4") as writer:
            for rows, batch in _numbered_batches(file, layout, names, list(columns.values()), name, rejected):
                if layout.encoding == "latin-1":
                    batch = pa.record_batch([_latin1_as_text(column) for column in batch.columns], batch.schema.names)
                for part_rows, part in _decodable(rows, batch, name, rejected):
                    origin = [pa.repeat(pa.scalar(name), part.num_rows), pa.array(part_rows)]
                    writer.write_batch(pa.record_batch([*origin, *part.columns], schema=schema))
                num_rows += len(rows)
                progress(f"reading {name}: {num_rows:,} rows")
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise ValueError(f"{file} cannot be read after row {num_rows:,}: {error}") from error
    if num_rows == 0 and not rejected and layout.names is not None:
        raise ValueError(f"{file} is empty: expected one event a line")
    return rejected


def _numbered_batches(
    file: Path,
    layout: TextLayout,
    names: list[str],
    wanted: list[str],
    file_name: str,
    rejected: list[tuple[str, int, str]],
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """Batches of raw bytes with the line number of every row; blank lines are left out."""
    skipped: list[int] = []
    header_lines = 0 if layout.names is not None else 1

    def skip(row: pacsv.InvalidRow) -> str:
        skipped.append(row.number)
        rejected.append((file_name, row.number, "malformed row"))
        return "skip"

    reader = pacsv.open_csv(
        file,
        # Without threads, or pyarrow does not know the number of an invalid row.
        read_options=pacsv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=names,
            skip_rows=header_lines,
        ),
        parse_options=pacsv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quoted else False,
            newlines_in_values=layout.quoted,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            include_columns=wanted,
            strings_can_be_null=False,
            check_utf8=False,
        ),
    )
    first = 0
    with reader:
        for batch in reader:
            # The k-th good row stands after all skipped rows whose count of good rows before them is at most k.
            good_before = np.asarray(skipped, dtype=np.int64) - header_lines - 1 - np.arange(len(skipped))
            good = np.arange(first, first + batch.num_rows)
            rows = good + np.searchsorted(good_before, good, side="right") + header_lines + 1
            first += batch.num_rows
            lengths = sum(pc.binary_length(column).to_numpy() for column in batch.columns)
            filled = np.asarray(lengths) > 0
            yield rows[filled], batch if filled.all() else batch.filter(pa.array(filled))


def _latin1_as_text(column: pa.BinaryArray) -> pa.StringArray:
    """Latin-1 bytes as text. (Not pyarrow's own transcoding: it hangs when reading stops before the end.)"""
    _, offset_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offset_buffer, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    # A byte from 0x80 on takes two bytes in UTF-8.
    longer = np.concatenate([[0], np.cumsum(data >= 0x80)])
    starts = offsets - offsets[0]
    moved = (starts + longer[starts]).astype(np.int32)
    text = data.tobytes().decode("latin-1").encode()
    return pa.StringArray.from_buffers(len(column), pa.py_buffer(moved), pa.py_buffer(text))


def _decodable(
    rows: np.ndarray, batch: pa.RecordBatch, file_name: str, rejected: list[tuple[str, int, str]]
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """The rows of a batch that are UTF-8, as text; halves a batch until the bad rows stand alone."""
    if batch.num_rows == 0:
        return
    try:
        columns = [column.cast(pa.string()) for column in batch.columns]
    except pa.ArrowInvalid:
        if batch.num_rows == 1:
            rejected.append((file_name, int(rows[0]), "undecodable text"))
            return
        middle = batch.num_rows // 2
        yield from _decodable(rows[:middle], batch.slice(0, middle), file_name, rejected)
        yield from _decodable(rows[middle:], batch.slice(middle), file_name, rejected)
        return
    yield rows, pa.record_batch(columns, names=batch.schema.names)
