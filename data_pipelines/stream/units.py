"""Units: one Parquet row group each, read through `datasets` streaming.

`IterableDataset.reshard()` turns every row group of a Parquet file into a shard and `.shard()` picks one, so a unit is
read without touching the others. Files are opened one by one on first use (a corpus has many), and
`IterableDataset.from_parquet` is used because `load_dataset("parquet")` asks the network to count a download.
"""

import glob
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import IterableDataset

from data_pipelines.prepared import PreparedFolder
from data_pipelines.stream.sequences import Sequences

REQUIRED_COLUMNS = ("poi_row", "action", "timestamp", "tz_offset_minutes")
OPTIONAL_COLUMNS = ("user_latitude", "user_longitude", "mode")
_MAX_OPEN_FILES = 256


class Units:
    """The units of one split, in the order of `PreparedFolder.row_groups`; empty row groups are left out."""

    def __init__(self, folder: PreparedFolder, split: str) -> None:
        """Raises ValueError if the split holds no sequences or its files lack a column."""
        self.folder = folder
        self._num_groups: dict[Path, int] = {}  # in file order
        files, groups = [], []
        for path, group, num_rows in folder.row_groups(split):
            self._num_groups[path] = group + 1
            if num_rows > 0:
                files.append(len(self._num_groups) - 1)
                groups.append(group)
        if not files:
            raise ValueError(
                f"split {split!r} of {folder.path} holds no user sequences; prepare more data or another split"
            )
        self._paths = list(self._num_groups)
        self._file_of_unit = np.array(files, dtype=np.int32)
        self._group_of_unit = np.array(groups, dtype=np.int32)
        self.columns = self._find_columns(self._paths[files[0]], folder.schema.names)
        self._open = lru_cache(maxsize=_MAX_OPEN_FILES)(self._open_file)

    def __len__(self) -> int:
        return len(self._file_of_unit)

    def read(self, unit: int) -> Sequences:
        """Reads one unit. Raises ValueError naming the file if it is damaged or does not fit its manifest."""
        path = self._paths[self._file_of_unit[unit]]
        group = int(self._group_of_unit[unit])
        try:
            shard = self._open(path).shard(num_shards=self._num_groups[path], index=group)
            table = pa.concat_tables(shard.iter(batch_size=2**31 - 1))
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"cannot read row group {group} of {path}: {error}; run prepare --overwrite") from error
        return to_sequences(table, self.columns, f"row group {group} of {path}")

    def _open_file(self, path: Path) -> IterableDataset:
        # The builder takes a lock in its cache folder; streaming never uses that folder again.
        with tempfile.TemporaryDirectory(prefix="spacetime-gr-") as cache:
            dataset = IterableDataset.from_parquet(
                glob.escape(str(path)), columns=["user_hash", *self.columns], cache_dir=cache
            )
        dataset = dataset.reshard().with_format("arrow")
        if dataset.num_shards != self._num_groups[path]:
            raise ValueError(
                f"{path} has {dataset.num_shards} row groups, its manifest says {self._num_groups[path]}; "
                "the file was changed after prepare: run prepare --overwrite"
            )
        return dataset

    def _find_columns(self, path: Path, names: list[str]) -> list[str]:
        for name in ("user_hash", *REQUIRED_COLUMNS):
            if name not in names:
                raise ValueError(
                    f"{path} lacks the column {name!r} (it has {', '.join(names)}); run prepare --overwrite"
                )
        return [*REQUIRED_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in names)]


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
                "all columns of a user must have one value per action: run prepare --overwrite"
            )
        values = lists.flatten()
        if values.null_count and not pa.types.is_floating(values.type):
            raise ValueError(f"{where}: column {name!r} holds {values.null_count} nulls; run prepare --overwrite")
        flat[name] = values.to_numpy(zero_copy_only=False)
    assert lengths is not None
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(flat, offsets, table.column("user_hash").to_numpy())
