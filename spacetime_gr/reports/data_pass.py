"""One pass over the events of a prepared folder, every person whole: the parts of all splits joined in time order."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.prepared import SPLITS, PreparedFolder
from data_pipelines.shard_checks import INTEGER_COLUMNS, check_schema, check_values
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.units import to_sequences

_END_OF_TIME = 253_402_300_800  # the year 10000


def whole_people(folder: PreparedFolder, progress: Callable[[int, int], None]) -> Iterator[Sequences]:
    """Sequences of a few hundred people at a time, each person once, with an int8 column `part` (index into SPLITS).

    The shards of every split lie in the order of `user_hash`, so the splits are merged as they are read, holding
    about one row group of each.

    Args:
        folder: the prepared folder.
        progress: told how many of how many row groups are read.

    Raises:
        ValueError: a shard is damaged or does not fit the manifest.
    """
    readers = [_Reader(folder, part) for part, split in enumerate(SPLITS) if folder.row_groups(split)]
    total, done = sum(reader.num_units for reader in readers), 0
    while True:
        for reader in readers:
            done += reader.fill()
        progress(done, total)
        waiting = [reader for reader in readers if len(reader.waiting)]
        if not waiting:
            return
        # Up to here no split has more to come.
        open_ends = [int(reader.waiting.user_hash[-1]) for reader in waiting if not reader.finished]
        last = min(open_ends, default=2**63 - 1)
        yield _joined([taken for reader in waiting if len(taken := reader.take(last))])


class _Reader:
    """The people of one split in the order of their hashes."""

    def __init__(self, folder: PreparedFolder, part: int) -> None:
        self.part = part
        self.split = SPLITS[part]
        # Read straight through: the random access of the stream's units costs much more per row group.
        self._row_groups = folder.row_groups(self.split)
        self.num_units = len(self._row_groups)
        self._columns = [*INTEGER_COLUMNS, *(["mode"] if "mode" in folder.schema.names else [])]
        self._open: tuple[Path, pq.ParquetFile] | None = None
        self._next = 0
        self._num_actions = 0
        self._stated = sum(
            int(entry.get("actions", -1)) for entry in folder.manifest["files"] if entry["split"] == self.split
        )
        self._path = folder.path
        self._num_names = len(folder.actions), len(folder.modes)
        self._last_hash = -1
        self.waiting = Sequences({}, np.zeros(1, np.int64), np.empty(0, np.int64))

    @property
    def finished(self) -> bool:
        """No row group is left to read."""
        return self._next == self.num_units

    def fill(self) -> int:
        """Read on if nobody is waiting; returns the row groups read."""
        before = self._next
        while not len(self.waiting) and not self.finished:
            self.waiting = self._read()
        return self._next - before

    def take(self, last: int) -> Sequences:
        """Those with hashes up to `last`."""
        up_to = self.waiting.user_hash <= last
        taken, self.waiting = self.waiting.keep(up_to), self.waiting.keep(~up_to)
        return taken

    def _read(self) -> Sequences:
        path, group, _ = self._row_groups[self._next]
        where = f"row group {group} of {path}"
        try:
            if self._open is None or self._open[0] != path:
                self._open = path, pq.ParquetFile(path)
                check_schema(self._open[1].schema_arrow, self._columns, path)
            table = self._open[1].read_row_group(group, columns=["user_hash", *self._columns])
            read = to_sequences(table, self._columns, where)
        except (pa.ArrowException, OSError, IndexError, KeyError) as error:
            raise ValueError(f"cannot read {where}: {error}; copy it again or run prepare --overwrite") from error
        check_values(read.columns, read.offsets, *self._num_names, where)
        self._next += 1
        hashes = read.user_hash
        if len(read) and (int(hashes[0]) <= self._last_hash or (np.diff(hashes) <= 0).any()):
            raise ValueError(f"{where} is not in the order of user_hash: shards were changed; run prepare --overwrite")
        self._last_hash = int(hashes[-1]) if len(read) else self._last_hash
        times = read.columns["timestamp"]
        if len(times) and not (times.min() >= 0 and times.max() < _END_OF_TIME):
            raise ValueError(
                f"{where} holds timestamps from {times.min()} to {times.max()}; expected unix seconds: "
                "run prepare --overwrite"
            )
        self._num_actions += read.num_actions
        if self.finished and self._num_actions != self._stated:
            raise ValueError(
                f"split {self.split} in {self._path} holds {self._num_actions:,} actions, its manifest says "
                f"{self._stated:,}: shards were changed; run prepare --overwrite"
            )
        part = np.full(read.num_actions, self.part, np.int8)
        return Sequences(read.columns | {"part": part}, read.offsets, hashes)


def _joined(parts: list[Sequences]) -> Sequences:
    """People of several splits, each once, in the order of hash; actions by time, ties in the order of the splits."""
    if len(parts) == 1:
        return parts[0]
    hashes, person = np.unique(np.concatenate([part.user_hash for part in parts]), return_inverse=True)
    owner = np.repeat(person, np.concatenate([part.lengths for part in parts]))
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    order = np.lexsort((columns["part"], columns["timestamp"], owner))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(hashes)))]).astype(np.int64)
    return Sequences({name: values[order] for name, values in columns.items()}, offsets, hashes)
