"""Reads a table of places batch by batch, checks every row, and keeps what the index needs of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from spacetime_gr.index.geometry import FIXED_POINT, Floats, to_fixed
from spacetime_gr.index.ids import as_ids
from spacetime_gr.index.schemes import Scheme
from spacetime_gr.index.sorting import chunks

REQUIRED = ("poi_id", "latitude", "longitude")
OPTIONAL = ("category", "train_visits", "train_visitors")
BATCH_ROWS = 1 << 20
MAX_VISITS = np.iinfo(np.uint32).max
_REASONS = (
    "poi_id is null",
    "latitude or longitude is missing or not finite",
    "latitude or longitude is out of range; swapped they would fit",
    "latitude or longitude is out of range",
    "train_visits or train_visitors is negative or above 4294967295, or there are more visitors than visits",
    "latitude and longitude seem swapped: few places near, many where they would lie",
)
_SWAPPED = len(_REASONS)

Source: TypeAlias = pa.Table | str | Path


@dataclass
class Intake:
    """Good rows of a table of places, in its order.

    `keys` uint64 (of the scheme), `latitude`, `longitude` int32 (1e-7 degrees), `visits`, `visitors` uint32, `category`
    int32 (into `category_names`, -1 none). `rejected`: row, poi_id and reason of the rows that were left out.
    """

    ids: pa.Array
    keys: NDArray[np.uint64]
    latitude: NDArray[np.int32]
    longitude: NDArray[np.int32]
    visits: NDArray[np.uint32]
    visitors: NDArray[np.uint32]
    category: NDArray[np.int32]
    category_names: list[str]
    rejected: pa.Table

    def table_rows(self) -> NDArray[np.int64]:
        """Row in the table of each place."""
        rows = np.arange(len(self.ids) + self.rejected.num_rows)
        return np.delete(rows, self.rejected["row"].to_numpy())


def is_quarantine(bad_rows: str) -> bool:
    """Whether the setting `bad_rows` leaves bad rows out; ValueError for an unknown one."""
    if bad_rows not in ("error", "quarantine"):
        raise ValueError(f"bad_rows is {bad_rows!r}; expected 'error' or 'quarantine'")
    return bad_rows == "quarantine"


def read_places(
    source: Source,
    scheme: Scheme,
    quarantine: bool,
    known_categories: list[str] | None = None,
    check_swapped: bool = True,
) -> Intake:
    """Read and check a table of places.

    Args:
        source: a table, or the path of a Parquet file or folder, with `poi_id`, `latitude`, `longitude`, optional
            `category`, `train_visits`, `train_visitors` (where absent: as many as visits).
        scheme: makes the keys.
        quarantine: leave bad rows out and list them, in place of refusing the table.
        known_categories: names that keep their numbers; new ones come after them.
        check_swapped: also reject rows whose latitude and longitude seem swapped.

    Raises:
        ValueError: a column is missing or of the wrong type, no good row is left, or (unless `quarantine`) rows are
            bad; names their number by reason and the first of them.
    """
    batches, size = _batches(source)
    reason = np.zeros(size, np.uint8)
    taken = Intake(
        ids=pa.array([], pa.string()),
        keys=np.empty(size, np.uint64),
        latitude=np.empty(size, np.int32),
        longitude=np.empty(size, np.int32),
        visits=np.zeros(size, np.uint32),
        visitors=np.zeros(size, np.uint32),
        category=np.full(size, -1, np.int32),
        category_names=list(known_categories or []),
        rejected=pa.table({}),
    )
    ids: list[pa.Array] = []
    categories = _Categories(taken.category_names)
    start = 0
    for batch in batches:
        rows = slice(start, start + batch.num_rows)
        ids.append(as_ids(batch["poi_id"]))
        latitude, longitude = _numbers(batch, "latitude"), _numbers(batch, "longitude")
        visits, visitors = _counts(batch)
        reason[rows] = _check(ids[-1], latitude, longitude, visits, visitors)
        if (reason[rows] > 0).any():
            fine = reason[rows] == 0
            latitude, longitude, visits, visitors = (
                np.where(fine, values, 0) for values in (latitude, longitude, visits, visitors)
            )
        for part in chunks(batch.num_rows):
            there = slice(start + part.start, start + part.stop)
            taken.keys[there] = scheme.keys(latitude[part], longitude[part])
            taken.latitude[there] = to_fixed(latitude[part])
            taken.longitude[there] = to_fixed(longitude[part])
        taken.visits[rows], taken.visitors[rows] = visits, visitors
        if "category" in batch.column_names:
            taken.category[rows] = categories.numbers(batch["category"])
        start += batch.num_rows
    good = reason == 0
    column = pa.chunked_array(ids) if ids else pa.chunked_array([pa.array([], pa.string())])
    if check_swapped:
        suspects = _swapped(taken.latitude, taken.longitude, good)
        reason[suspects] = _SWAPPED
        good[suspects] = False
    taken.rejected = _rejected(column, reason)
    if taken.rejected.num_rows and not quarantine:
        raise ValueError(_complaint(source, taken.rejected))
    if not good.any():
        raise ValueError(f"{_name(source)} holds no usable place ({size} rows); expected at least one")
    taken.ids = as_ids(column if good.all() else column.filter(pa.array(good)))
    if not good.all():
        for name in ("keys", "latitude", "longitude", "visits", "visitors", "category"):
            setattr(taken, name, getattr(taken, name)[good])
    categories.sort_new(taken)
    # What the batches took would else be kept by Arrow's allocator: more than a gigabyte at 100 M places.
    pa.default_memory_pool().release_unused()
    return taken


def read_keys(
    source: Source, scheme: Scheme, quarantine: bool, progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[NDArray[np.uint64], int]:
    """The keys of a table's good rows and nothing else, for plans: 8 bytes per place.

    Each row is checked as `read_places` does; swapped coordinates in range and ids that stand twice are not looked for.

    Args:
        source, scheme, quarantine: as for `read_places`.
        progress: told rows read and rows in all.

    Returns:
        Keys in the order of the rows, shape (n,), and the number of bad rows left out.

    Raises:
        ValueError: as for `read_places`.
    """
    batches, size = _batches(source)
    keys, num_good, start = np.empty(size, np.uint64), 0, 0
    rejected = []
    for batch in batches:
        ids = as_ids(batch["poi_id"])
        latitude, longitude = _numbers(batch, "latitude"), _numbers(batch, "longitude")
        reason = _check(ids, latitude, longitude, *_counts(batch))
        fine = reason == 0
        if not fine.all():
            rejected.append(_rejected(ids, reason, start))
            latitude, longitude = latitude[fine], longitude[fine]
        for part in chunks(len(latitude)):
            keys[num_good + part.start : num_good + part.stop] = scheme.keys(latitude[part], longitude[part])
        num_good += len(latitude)
        start += batch.num_rows
        progress(start, size)
    if rejected and not quarantine:
        raise ValueError(_complaint(source, pa.concat_tables(rejected)))
    if not num_good:
        raise ValueError(f"{_name(source)} holds no usable place ({size} rows); expected at least one")
    pa.default_memory_pool().release_unused()
    return keys[:num_good], size - num_good


def _name(source: Source) -> str:
    return "the POI table" if isinstance(source, pa.Table) else str(source)


def _batches(source: Source) -> tuple[Iterator[pa.Table], int]:
    """The wanted columns of a source in batches, and the number of rows."""
    if isinstance(source, pa.Table):
        names = source.column_names
    else:
        if not Path(source).exists():
            raise ValueError(f"{source} does not exist; expected a Parquet file or a folder of them")
        try:
            data = ds.dataset(str(source), format="parquet")
            size = data.count_rows()
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{source} is not readable as Parquet ({error}); write the file anew") from error
        names = data.schema.names
    for name in REQUIRED:
        if name not in names:
            raise ValueError(f"{_name(source)} has no column {name!r}; it has {', '.join(names)}")
    wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in names]
    if isinstance(source, pa.Table):
        table = source.select(wanted)
        return (table.slice(start, BATCH_ROWS) for start in range(0, table.num_rows, BATCH_ROWS)), table.num_rows

    def read() -> Iterator[pa.Table]:
        try:
            # Few batches read ahead: what waits in the queue counts as memory.
            settings = {"batch_size": BATCH_ROWS, "batch_readahead": 2, "fragment_readahead": 1}
            for batch in data.to_batches(columns=wanted, **settings):
                if batch.num_rows:  # a job often leaves a file without rows among its parts
                    yield pa.Table.from_batches([batch])
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{source} is damaged ({error}); write the file anew") from error

    return read(), size


def _numbers(batch: pa.Table, name: str, default: float = np.nan) -> NDArray[np.float64]:
    if name not in batch.column_names:
        return np.full(batch.num_rows, default)
    column = batch[name]
    try:
        if not pa.types.is_integer(column.type):
            column = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"column {name!r} is of type {column.type}; expected numbers ({error})") from error
    if column.null_count:
        column = column.cast(pa.float64(), safe=False).fill_null(default)
    return column.to_numpy()


def _counts(batch: pa.Table) -> tuple[Floats, Floats]:
    """Training visits and visitors; where the people are not counted, every visit counts as one of another person."""
    visits = _numbers(batch, "train_visits", default=0.0)
    visitors = _numbers(batch, "train_visitors")
    return visits, np.where(np.isnan(visitors), visits, visitors)


def _check(ids: pa.Array, latitude: Floats, longitude: Floats, visits: Floats, visitors: Floats) -> NDArray[np.uint8]:
    """Number of the reason against each row, 0 for none."""
    # Nearly every batch is good, which the extremes tell at once (NaN fails every comparison).
    size = len(ids)
    within = ((latitude, -90, 90), (longitude, -180, 180), (visits, 0, MAX_VISITS), (visitors, 0, MAX_VISITS))
    if not size:
        return np.zeros(0, np.uint8)
    possible = all(least <= min(v.min(), v.max()) and v.max() <= most for v, least, most in within)
    if possible and not ids.null_count and (visitors <= visits).all():
        return np.zeros(size, np.uint8)
    no_id = ids.is_null().to_numpy(zero_copy_only=False) if ids.null_count else np.zeros(size, bool)
    north, east = (np.abs(axis.astype(np.float64)) for axis in (latitude, longitude))  # |-128| does not fit int8
    checks = (
        no_id,
        ~(np.isfinite(latitude) & np.isfinite(longitude)),
        (north > 90.0) & (north <= 180.0) & (east <= 90.0),
        (north > 90.0) | (east > 180.0),
        ~((visits >= 0) & (visits <= MAX_VISITS) & (visitors >= 0) & (visitors <= visits)),
    )
    return np.select(checks, np.arange(1, len(checks) + 1), 0).astype(np.uint8)


def _swapped(latitude: NDArray[np.int32], longitude: NDArray[np.int32], good: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows that seem to have latitude and longitude swapped although both are in range.

    A row is suspected where the 3 x 3 degrees around it hold less than a hundredth of the places that lie around its
    mirror image, and these are at least 100 and 1 % of all. So a city's or a country's swapped rows are found, while a
    lonely place of a world map is not suspected.
    """

    def cells(part: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        south = np.clip(latitude[part].astype(np.int64) // int(FIXED_POINT) + 90, 0, 179)
        west = (longitude[part].astype(np.int64) // int(FIXED_POINT) + 180) % 360
        return south, west

    counts = np.zeros(180 * 360, np.int64)
    for part in chunks(len(latitude)):
        south, west = cells(part)
        counts += np.bincount((south * 360 + west)[good[part]], minlength=len(counts))
    grid = counts.reshape(180, 360)
    around = np.zeros_like(grid)
    padded = np.pad(grid, ((1, 1), (0, 0)))
    for down in range(3):
        for right in (-1, 0, 1):
            around += np.roll(padded[down : down + 180], right, axis=1)
    # The mirror image of cell (south, west) is (west, south); it exists where the longitude can be a latitude.
    mirrored = np.zeros_like(grid)
    mirrored[:, 90:270] = around[:, 90:270].T
    enough = max(100, 0.01 * counts.sum())
    suspected = (grid > 0) & (mirrored >= enough) & (mirrored > 100 * around)
    if not suspected.any():
        return np.empty(0, np.int64)
    rows = [np.empty(0, np.int64)]
    for part in chunks(len(latitude)):
        south, west = cells(part)
        rows.append(part.start + np.flatnonzero(suspected[south, west] & good[part]))
    return np.concatenate(rows)


def _rejected(ids: pa.Array | pa.ChunkedArray, reason: NDArray[np.uint8], first_row: int = 0) -> pa.Table:
    rows = np.flatnonzero(reason)
    return pa.table(
        {
            "row": first_row + rows,
            "poi_id": ids.take(pa.array(rows)),
            "reason": pa.array([_REASONS[number - 1] for number in reason[rows]], pa.string()),
        }
    )


def _complaint(source: Source, rejected: pa.Table) -> str:
    counts = ", ".join(
        f"{entry['counts'].as_py():,} x {entry['values'].as_py()}" for entry in pc.value_counts(rejected["reason"])
    )
    first: list[Any] = [(entry["row"], entry["poi_id"]) for entry in rejected.slice(0, 5).to_pylist()]
    suspects = _REASONS[_SWAPPED - 1] in rejected["reason"].to_pylist()
    return (
        f"{_name(source)}: {rejected.num_rows:,} rows are bad ({counts}); first (row, poi_id): {first}. Correct or "
        "remove them, or build with bad_rows='quarantine' to leave them out and list them in index.rejected"
        + (" (check_swapped=False keeps suspected rows)" if suspects else "")
    )


class _Categories:
    """Numbers category names batch by batch; at the end new names are put in their order."""

    def __init__(self, known: list[str]) -> None:
        self.names, self.num_known = known, len(known)
        self.number = {name: number for number, name in enumerate(known)}

    def numbers(self, column: pa.ChunkedArray) -> NDArray[np.int32]:
        """Numbers of a column of names, -1 for null."""
        try:
            if not pa.types.is_dictionary(column.type) or any(part.dictionary.null_count for part in column.chunks):
                column = column.cast(pa.string()).dictionary_encode()
            encoded = column.unify_dictionaries().combine_chunks() if column.num_chunks != 1 else column.chunk(0)
            names = encoded.dictionary.cast(pa.string()).to_pylist()
        except pa.ArrowException as error:
            raise ValueError(f"column 'category' is of type {column.type}; expected text ({error})") from error
        own = np.empty(len(encoded.dictionary) + 1, np.int32)
        own[-1] = -1
        for position, name in enumerate(names):
            if name not in self.number:
                self.number[name] = len(self.names)
                self.names.append(name)
            own[position] = self.number[name]
        indices = encoded.indices.cast(pa.int32()).fill_null(-1) if encoded.null_count else encoded.indices
        return own[indices.to_numpy()]

    def sort_new(self, taken: Intake) -> None:
        """Give the new names numbers in alphabetical order, so that the order of the rows does not matter.

        Names that stood only in rows that were left out are dropped.
        """
        used = np.zeros(len(self.names) + 1, bool)
        used[taken.category] = True
        new = [number for number in range(self.num_known, len(self.names)) if used[number]]
        new.sort(key=self.names.__getitem__)
        number = np.arange(len(self.names) + 1, dtype=np.int32)
        number[-1] = -1
        number[new] = self.num_known + np.arange(len(new), dtype=np.int32)
        taken.category_names = self.names[: self.num_known] + [self.names[position] for position in new]
        taken.category = number[taken.category]
