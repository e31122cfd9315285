"""Carries the embeddings of POIs from the source to the prepared folder, row by row of the POI list."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.sources.base import PoiEmbeddings

FILE_NAME = "poi_embeddings.npy"
_COLUMN = "embedding"
_BATCH_ROWS = 65_536


def carry(source: PoiEmbeddings, rows: pa.Table, num_pois: int, target: Path) -> int:
    """Write an array of shape (num_pois, size); NaN where a POI has no embedding.

    float16 stays float16, everything else becomes float32.

    Args:
        source: where the embeddings are.
        rows: poi_row, source_file, source_row (from 1) of the POIs that the POI table lists.
        num_pois: length of the POI list.
        target: the `.npy` file.

    Returns:
        The size of an embedding.

    Raises:
        ValueError: if embeddings differ in length, or an array has not one row per row of the POI table.
    """
    out: np.memmap | None = None
    for name, file in source.files.items():
        of_file = rows.filter(pc.equal(rows["source_file"], name)).sort_by("source_row")
        source_rows = of_file["source_row"].to_numpy() - 1
        poi_rows = of_file["poi_row"].to_numpy()
        for start, values, known in _array(source.array, file) if source.array else _column(file):
            if out is None:
                kind = np.float16 if values.dtype == np.float16 else np.float32
                out = np.lib.format.open_memmap(target, mode="w+", dtype=kind, shape=(num_pois, values.shape[1]))
                out[:] = np.nan
            if values.shape[1] != out.shape[1]:
                raise ValueError(
                    f"{file} holds embeddings of {values.shape[1]} values, others {out.shape[1]}; make all one length"
                )
            first, last = np.searchsorted(source_rows, [start, start + len(known)])
            wanted = source_rows[first:last] - start
            present = known[wanted]
            positions = np.cumsum(known) - 1
            out[poi_rows[first:last][present]] = values[positions[wanted[present]]]
    if out is None:
        names = ", ".join(source.files)
        raise ValueError(f"the column {_COLUMN} of {names} holds no embedding; fill it, or leave it out")
    out.flush()
    return int(out.shape[1])


def _array(file: Path, pois: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, values of shape (rows, size), all true)."""
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is not a readable .npy file of numbers: {error}") from error
    num_rows = pq.read_metadata(pois).num_rows
    if values.ndim != 2 or values.shape[1] == 0 or len(values) != num_rows or values.dtype.kind != "f":
        raise ValueError(
            f"{file} has shape {values.shape} and type {values.dtype}: expected floats of shape ({num_rows}, size), "
            f"a row per row of {pois.name}"
        )
    for start in range(0, num_rows, _BATCH_ROWS):
        block = values[start : start + _BATCH_ROWS]
        yield start, block, np.ones(len(block), dtype=bool)


def _column(file: Path) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, values of shape (rows that have one, size), which rows have one)."""
    content = pq.ParquetFile(file)
    kind = content.schema_arrow.field(_COLUMN).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)) or not (
        pa.types.is_floating(kind.value_type)
    ):
        raise ValueError(f"{file}: the column {_COLUMN} has type {kind}; expected a list of floats")
    start = 0
    for batch in content.iter_batches(_BATCH_ROWS, columns=[_COLUMN]):
        column = batch.column(0)
        known = column.is_valid().to_numpy(zero_copy_only=False)
        lengths = pc.list_value_length(column.filter(pa.array(known))).to_numpy(zero_copy_only=False)
        if len(lengths):
            bad = np.flatnonzero((lengths != lengths[0]) | (lengths == 0))
            if len(bad):
                row = start + int(np.flatnonzero(known)[bad[0]]) + 1
                raise ValueError(
                    f"{file}, row {row}: an embedding of {lengths[bad[0]]} values, the first has {lengths[0]}; "
                    "make all one length, null where there is none"
                )
            values = pc.list_flatten(column.filter(pa.array(known))).to_numpy(zero_copy_only=False)
            yield start, values.reshape(len(lengths), -1), known
        start += len(known)
