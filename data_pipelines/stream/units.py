"""Units: one Parquet row group each, read without touching any other.

Files are opened on first use, as a corpus has many; the newest footers are kept, and of every file that was opened how
to know it again. A file that is replaced while a run reads it would change rows that were promised, so it is an error.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.prepared import PreparedFolder
from data_pipelines.shard_checks import AGAIN, INTEGER_COLUMNS, OPTIONAL_COLUMNS, check_schema, check_values
from data_pipelines.stream.sequences import Sequences

_MAX_FOOTERS = 256


@dataclass(frozen=True)
class _Seen:
    """How a file is known again: its size and time of change, and where these differ (a copy), its footer."""

    stamp: tuple[int, int]
    footer_digest: bytes


class Units:
    """The units of one split, in the order of `PreparedFolder.row_groups`; empty row groups are left out."""

    def __init__(self, folder: PreparedFolder, split: str) -> None:
        """Raises ValueError if the split holds no sequences or its files lack a column."""
        self.folder = folder
        self._rows_of_groups: dict[Path, list[int]] = {}  # in file order
        files, groups = [], []
        for path, group, num_rows in folder.row_groups(split):
            self._rows_of_groups.setdefault(path, []).append(num_rows)
            if num_rows > 0:
                files.append(len(self._rows_of_groups) - 1)
                groups.append(group)
        if not files:
            raise ValueError(
                f"split {split!r} of {folder.path} holds no user sequences; prepare more data or another split"
            )
        self._paths = list(self._rows_of_groups)
        self._file_of_unit = np.array(files, dtype=np.int32)
        self._group_of_unit = np.array(groups, dtype=np.int32)
        self._bytes = {folder.path / entry["path"]: entry.get("bytes") for entry in folder.manifest["files"]}
        self._open = lru_cache(maxsize=_MAX_FOOTERS)(self._open_file)
        self._seen: dict[Path, _Seen] = {}  # never dropped: a file may come back after its footer was
        self.columns = [*INTEGER_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in folder.schema.names)]
        check_schema(folder.schema, self.columns, self._paths[files[0]])

    def __len__(self) -> int:
        return len(self._file_of_unit)

    def where(self, unit: int) -> str:
        """The unit's row group and file, for messages."""
        return f"row group {self._group_of_unit[unit]} of {self._paths[self._file_of_unit[unit]]}"

    def read(self, unit: int) -> Sequences:
        """Reads one unit.

        Raises:
            ValueError: naming the file, if it is damaged, does not fit its manifest, was replaced since it was first
                opened, or holds values that cannot be.
        """
        path = self._paths[self._file_of_unit[unit]]
        group = int(self._group_of_unit[unit])
        footer = self._open(path)
        try:
            # A reader of its own: readers are not made for several threads.
            with pq.ParquetFile(path, metadata=footer) as reader:
                table = reader.read_row_group(group, columns=["user_hash", *self.columns], use_threads=False)
        except (OSError, pa.ArrowException) as error:
            self._check_not_replaced(path)
            reason = " ".join(str(error).split())
            raise ValueError(f"cannot read {self.where(unit)}: {reason}; {AGAIN}") from error
        self._check_not_replaced(path)
        sequences = to_sequences(table, self.columns, self.where(unit))
        num_actions, num_modes = len(self.folder.actions), len(self.folder.modes)
        check_values(sequences.columns, sequences.offsets, num_actions, num_modes, self.where(unit))
        return sequences

    def _open_file(self, path: Path) -> pq.FileMetaData:
        try:
            stamp = _stamp(path)
            stated = self._bytes[path]
            if path not in self._seen and stated is not None and stamp[0] != stated:
                raise ValueError(
                    f"{path} has {stamp[0]:,} bytes, its manifest says {stated:,}; the file was cut short or changed "
                    f"after prepare: copy it again or {AGAIN}"
                )
            footer = pq.read_metadata(path)
            self._seen.setdefault(path, _Seen(stamp, _footer_digest(path, footer)))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"cannot open {path}: {' '.join(str(error).split())}; {AGAIN}") from error
        self._check_not_replaced(path)
        found = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
        expected = self._rows_of_groups[path]
        if found != expected:
            raise ValueError(
                f"{path} has {len(found)} row groups of {sum(found)} users, its manifest says {len(expected)} of "
                f"{sum(expected)}; the file was changed after prepare: {AGAIN}"
            )
        check_schema(footer.schema.to_arrow_schema(), self.columns, path)
        return footer

    def _check_not_replaced(self, path: Path) -> None:
        seen = self._seen[path]
        try:
            stamp = _stamp(path)
            if stamp == seen.stamp:
                return
            same = _footer_digest(path, pq.read_metadata(path)) == seen.footer_digest
        except (OSError, pa.ArrowException):
            same = False
        if not same:
            raise ValueError(
                f"{path} was replaced or removed while the stream was reading it; put the old file back and resume, or "
                "start a new run"
            )
        self._seen[path] = _Seen(stamp, seen.footer_digest)  # copied anew, or touched


def _stamp(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _footer_digest(path: Path, footer: pq.FileMetaData) -> bytes:
    """Hash of the footer as it stands in the file: positions, sizes and statistics of every column chunk."""
    with path.open("rb") as file:
        file.seek(-(footer.serialized_size + 8), os.SEEK_END)  # its length and PAR1 follow it
        return hashlib.sha256(file.read()).digest()


def to_sequences(table: pa.Table, columns: list[str], where: str) -> Sequences:
    """Flattens list columns. Raises ValueError if they differ in length or the integers hold nulls."""
    lengths: np.ndarray | None = None
    flat: dict[str, np.ndarray] = {}
    for name in columns:
        lists = table.column(name).combine_chunks()
        counts = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        if lengths is None:
            lengths = counts
        elif not np.array_equal(lengths, counts):
            row = int(np.flatnonzero(lengths != counts)[0])
            raise ValueError(
                f"{where}, row {row}: column {name!r} has {counts[row]} values, {columns[0]!r} has {lengths[row]}; "
                f"all columns of a user must have one value per action: {AGAIN}"
            )
        values = lists.flatten()
        if values.null_count and not pa.types.is_floating(values.type):
            raise ValueError(f"{where}: column {name!r} holds {values.null_count} nulls; {AGAIN}")
        flat[name] = values.to_numpy(zero_copy_only=False)
    assert lengths is not None
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(flat, offsets, table.column("user_hash").to_numpy())
