"""POIIndex: place ids to (block, inner) pairs and back, with the geometry and side information of both."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from spacetime_gr.index import growth, search, storage
from spacetime_gr.index.build import capacity_of, centers_of, order_inside, sort_by_key, split, whole_map
from spacetime_gr.index.columns import Blocks, Places
from spacetime_gr.index.geometry import to_degrees
from spacetime_gr.index.ids import IdTable, as_ids, id_order
from spacetime_gr.index.intake import Intake, Source, is_quarantine, read_places
from spacetime_gr.index.schemes import POSITION_BITS, Scheme, make_scheme, positions
from spacetime_gr.index.sorting import chunks, number_bits, ones

DEFAULT_MAX_POIS = 512
DEFAULT_SPARE_BLOCKS = 0.1
GATHER_CHUNK = 1 << 16  # actions encoded at a time: enough look-ups in flight, few temporaries


def _integers(values: ArrayLike) -> NDArray[Any]:
    """Row or block numbers as an array; NumPy takes an empty list for floats."""
    numbers = np.asarray(values)
    return numbers if numbers.size else numbers.astype(np.int64)


@dataclass(frozen=True, eq=False)
class POIIndex:
    """Two-level index of places. Make one with `build` or `load`; it is never changed in place.

    Rows count places as they stood in the table (`poi_row`); places added later follow. Block ids run from 0 to
    `num_blocks`, with room up to `block_capacity`; inner ids from 0 to `num_inner`.
    """

    scheme: Scheme
    max_pois_per_block: int | None
    num_inner: int
    block_capacity: int
    category_names: list[str]
    base: Places
    rows_by_block: NDArray[np.int32]
    block_starts: NDArray[np.int64]
    blocks: Blocks
    added: Places | None = None
    retired: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    rejected: pa.Table | None = None
    folder: Path | None = None
    base_sums: dict[str, str] = field(default_factory=dict)  # checksums of the files that the base was loaded from

    # ---------------------------------------------------------------- building

    @classmethod
    def build(
        cls,
        pois: Source,
        scheme: str = "quadtree",
        max_pois_per_block: int | None = None,
        cell_km: float = 5.0,
        spare_blocks: float = DEFAULT_SPARE_BLOCKS,
        bad_rows: str = "error",
        check_swapped: bool = True,
    ) -> "POIIndex":
        """Build an index over a table of places. The order of its rows does not change any place's pair.

        Args:
            pois: a table, or the path of a Parquet file or folder: columns `poi_id` (text or integers), `latitude`,
                `longitude` (degrees); optional `category` (text), `train_visits` (in the training part; order of the
                inner ids, 0 where absent) and `train_visitors` (people who made them; as many where absent).
            scheme: `quadtree` (adaptive map tiles) or `grid` (squares of `cell_km`).
            max_pois_per_block: bound on a block's POIs; default 512 for the quadtree, none for the grid. A bound is
                also the size of the inner vocabulary: blocks that are not full have spare inner ids.
            cell_km: side of a grid square.
            spare_blocks: block ids kept free for places that are added later, as a share of the blocks.
            bad_rows: `error`, or `quarantine` to leave bad rows out and list them in `rejected` (row, poi_id, reason).
            check_swapped: also reject rows whose latitude and longitude seem swapped though both are in range.

        Inner ids run from 0 in each block by falling `train_visits`, ties by `poi_id`.

        Raises:
            ValueError: a column is missing, rows are bad (null id, coordinates not finite, out of range or swapped), a
                POI id stands twice, or a setting is out of range; the message names the first offending rows.
        """
        cutting = make_scheme(scheme, cell_km)
        if scheme == "quadtree" and max_pois_per_block is None:
            max_pois_per_block = DEFAULT_MAX_POIS
        if max_pois_per_block is not None and max_pois_per_block < 1:
            raise ValueError(f"max_pois_per_block is {max_pois_per_block}; expected at least 1")
        if not 0 <= spare_blocks < np.inf:
            raise ValueError(f"spare_blocks is {spare_blocks}; expected a share of 0 or more")
        places = read_places(pois, cutting, is_quarantine(bad_rows), check_swapped=check_swapped)
        return cls._from_places(cutting, places, max_pois_per_block, spare_blocks)

    @classmethod
    def _from_places(
        cls, scheme: Scheme, places: Intake, max_pois_per_block: int | None, spare_blocks: float
    ) -> "POIIndex":
        size = len(places.ids)
        # Places are numbered by their ids while they are sorted: ties fall by id whatever the order of the rows.
        row_of = id_order(places.ids)
        order, sorted_keys = sort_by_key(scheme, places.keys[row_of], max_pois_per_block)
        cells = split(scheme, sorted_keys, whole_map(scheme, sorted_keys), max_pois_per_block)
        del sorted_keys
        sizes = np.diff(cells.starts)
        block_by_id = np.empty(size, np.int32)
        block_by_id[order] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        del order
        rows_by_block = row_of[order_inside(block_by_id, len(sizes), places.visits[row_of])].astype(np.int32)
        del block_by_id, row_of
        num_inner = max_pois_per_block or int(sizes.max())
        capacity = capacity_of(len(sizes), spare_blocks)
        inner_bits = number_bits(num_inner)
        kind = np.uint32 if number_bits(capacity) + inner_bits <= 32 else np.uint64
        codes: NDArray[np.unsignedinteger] = np.empty(size, kind)
        code: NDArray[np.unsignedinteger] = np.repeat(np.arange(len(sizes), dtype=kind), sizes)
        code <<= kind(inner_bits)
        code |= (np.arange(size) - np.repeat(cells.starts[:-1], sizes)).astype(kind)
        codes[rows_by_block] = code
        del code
        block = (codes >> kind(inner_bits)).astype(np.int32)
        spans = scheme.span_bits(cells.levels)
        position = np.empty(size, np.uint16)
        for part in chunks(size):
            position[part] = positions(places.keys[part], spans[block[part]])
        places.keys = places.keys[:0]  # at 100 M places every column counts
        category = places.category.astype(np.min_scalar_type(-max(1, len(places.category_names))))
        centers = centers_of(block, len(sizes), places.latitude, places.longitude)
        ids = IdTable.build(places.ids, places.table_rows)
        return cls(
            scheme=scheme,
            max_pois_per_block=max_pois_per_block,
            num_inner=num_inner,
            block_capacity=capacity,
            category_names=places.category_names,
            base=Places(
                ids, codes, places.latitude, places.longitude, category, position, places.visits, places.visitors
            ),
            rows_by_block=rows_by_block,
            block_starts=cells.starts,
            blocks=Blocks(cells.keys, cells.levels, centers, np.full(len(sizes), -1, np.int32)),
            rejected=places.rejected,
        )

    def __repr__(self) -> str:
        return (
            f"POIIndex({self.num_pois} places, {self.num_blocks} {self.scheme.name} blocks of at most "
            f"{self.num_inner}, folder={None if self.folder is None else str(self.folder)!r})"
        )

    # ---------------------------------------------------------------- sizes

    @property
    def num_pois(self) -> int:
        """Number of places, retired ones too."""
        return len(self.base) + (0 if self.added is None else len(self.added))

    @property
    def num_blocks(self) -> int:
        """Number of blocks in use; block ids run from 0."""
        return len(self.blocks)

    @property
    def inner_bits(self) -> int:
        """Low bits of a code that hold the inner id."""
        return number_bits(self.num_inner)

    @cached_property
    def block_sizes(self) -> NDArray[np.int64]:
        """Number of places of each block, retired ones too, shape (num_blocks,)."""
        sizes = np.zeros(self.num_blocks, np.int64)
        sizes[: len(self.block_starts) - 1] = np.diff(self.block_starts)
        if self.added is not None:
            sizes += np.bincount((self.added.codes >> self.inner_bits).astype(np.int64), minlength=self.num_blocks)
        return sizes

    @property
    def block_centers(self) -> NDArray[np.float32]:
        """Mean latitude and longitude of the places that made each block, degrees, shape (num_blocks, 2)."""
        return self.blocks.centers

    # ---------------------------------------------------------------- ids

    @property
    def poi_ids(self) -> pa.Array:
        """Ids of all places in row order."""
        if self.added is None:
            return self.base.ids.ids
        return as_ids(pa.chunked_array([self.base.ids.ids, self.added.ids.ids]))

    def rows(self, poi_ids: ArrayLike | pa.Array) -> NDArray[np.int64]:
        """Dense rows of POI ids, -1 for ids the index does not know, shape (n,)."""
        wanted = as_ids(poi_ids)
        rows = self.base.ids.find(wanted)
        if self.added is not None:
            missing = np.flatnonzero(rows < 0)
            later = self.added.ids.find(wanted.take(pa.array(missing)))
            rows[missing] = np.where(later >= 0, later + len(self.base), -1)
        return rows

    def ids(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """POI ids of rows as an object array of the same shape, None for row -1."""
        rows = np.asarray(rows, np.int64)
        if self.added is None:
            return self.base.ids.take(rows)
        later = rows >= len(self.base)
        return np.where(
            later,
            self.added.ids.take(np.where(later, rows - len(self.base), -1)),
            self.base.ids.take(np.where(later, -1, rows)),
        )

    def encode(
        self, poi_ids: ArrayLike | pa.Array, rows: bool = False, unknown: str = "error"
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Blocks and inner ids of places.

        Args:
            poi_ids: ids, shape (n,); or dense `poi_row` numbers when `rows` is true (-1 = unknown).
            rows: whether the first argument holds dense rows.
            unknown: `error`, or `mark` to get -1 in both arrays for unknown places.

        Raises:
            ValueError: an id is unknown (or a row out of range) and `unknown` is `error`.
        """
        if unknown not in ("error", "mark"):
            raise ValueError(f"unknown is {unknown!r}; expected 'error' or 'mark'")
        dense = _integers(poi_ids) if rows else self.rows(poi_ids)
        if dense.dtype.kind not in "iu":
            raise ValueError(f"rows are of type {dense.dtype}; expected integers")
        block, inner = np.empty(len(dense), np.int32), np.empty(len(dense), np.int32)
        kind = self.base.codes.dtype.type
        bits, mask = kind(self.inner_bits), kind(ones(self.inner_bits))
        num_missing = 0
        for part in chunks(len(dense), GATHER_CHUNK):
            row = dense[part]
            missing = None
            if len(row) and (row.min() < 0 or row.max() >= self.num_pois):
                missing = (row < 0) | (row >= self.num_pois)
                num_missing += int(missing.sum())
                row = np.where(missing, 0, row)
            code = self._facts("codes", row)
            block[part], inner[part] = code >> bits, code & mask
            if missing is not None:
                block[part][missing] = inner[part][missing] = -1
        if num_missing and unknown == "error":
            first = np.flatnonzero(block < 0)[:5]
            shown = [str(poi_ids[int(i)]) for i in first]  # type: ignore[index]
            raise ValueError(
                f"{num_missing} of {len(dense)} places are not in the index, first {shown}; "
                "pass unknown='mark' to get -1 for them, or add them with index.add"
            )
        return block, inner

    def decode_rows(self, blocks: ArrayLike, inners: ArrayLike) -> NDArray[np.int64]:
        """Dense rows of (block, inner) pairs, -1 where the pair names no place. Arrays broadcast."""
        blocks, inners = np.broadcast_arrays(np.asarray(blocks, np.int64), np.asarray(inners, np.int64))
        valid = (blocks >= 0) & (blocks < self.num_blocks) & (inners >= 0)
        base = valid & (blocks < len(self.block_starts) - 1)
        start = self.block_starts[np.where(base, blocks, 0)]
        base &= inners < self.block_starts[np.where(base, blocks, 0) + 1] - start
        rows = np.where(base, self.rows_by_block[np.where(base, start + inners, 0)].astype(np.int64), -1)
        if self.added is not None:
            later = valid & ~base & (inners < self.num_inner)
            codes, order = self._added_order
            wanted = ((blocks << self.inner_bits) | inners)[later].astype(codes.dtype)
            slot = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
            rows[later] = np.where(codes[slot] == wanted, len(self.base) + order[slot], -1)
        return rows

    @cached_property
    def _added_order(self) -> tuple[NDArray[np.unsignedinteger], NDArray[np.int64]]:
        """Sorted codes of the added places, and their numbers among these."""
        assert self.added is not None
        order = np.argsort(self.added.codes, kind="stable")
        return self.added.codes[order], order

    def decode(self, blocks: ArrayLike, inners: ArrayLike) -> NDArray[Any]:
        """POI ids of (block, inner) pairs, None where the pair names no place."""
        return self.ids(self.decode_rows(blocks, inners))

    def rows_in_order(self) -> NDArray[np.int64]:
        """Rows of all places block by block, in each by inner id, shape (num_pois,)."""
        if self.added is None:
            return self.rows_by_block.astype(np.int64)
        codes, order = self._added_order
        inner = np.arange(len(self.base)) - np.repeat(self.block_starts[:-1], np.diff(self.block_starts))
        block = np.repeat(np.arange(len(self.block_starts) - 1), np.diff(self.block_starts))
        place = np.searchsorted((block << self.inner_bits) | inner, codes.astype(np.int64))
        return np.insert(self.rows_by_block.astype(np.int64), place, len(self.base) + order)

    # ---------------------------------------------------------------- facts of places

    def _facts(self, name: str, rows: NDArray[np.integer]) -> NDArray[Any]:
        """One column at known rows."""
        values = getattr(self.base, name)
        if self.added is None:
            return values[rows]
        rows = rows.astype(np.int64, copy=False)  # in a narrow type the subtraction below may overflow
        later = rows >= len(self.base)
        return np.where(
            later,
            getattr(self.added, name)[np.where(later, rows - len(self.base), 0)],
            values[np.where(later, 0, rows)],
        )

    def _known(self, name: str, rows: ArrayLike, missing: Any) -> NDArray[Any]:
        """One column at rows, `missing` for row -1."""
        rows = _integers(rows)
        return np.where(rows < 0, missing, self._facts(name, np.maximum(rows, 0)))

    def coordinates(self, rows: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Latitude and longitude in degrees of POI rows; NaN for row -1."""
        rows = _integers(rows)
        latitude, longitude = (
            np.where(rows < 0, np.nan, to_degrees(self._facts(name, np.maximum(rows, 0))))
            for name in ("latitude", "longitude")
        )
        return latitude, longitude

    def categories(self, rows: ArrayLike) -> NDArray[np.int32]:
        """Category ids of POI rows, -1 where there is none (or for row -1)."""
        return self._known("category", rows, -1).astype(np.int32)

    def positions(self, rows: ArrayLike, bits: int = 6) -> NDArray[np.int32]:
        """Position of POI rows in their blocks, -1 for row -1: Morton code of a grid of 2^(bits / 2) cells a side.

        Codes run from the north-west; the cell of a coarser grid is a prefix of the finer one's code.
        """
        if not 0 <= bits <= POSITION_BITS or bits % 2:
            raise ValueError(f"bits is {bits}; expected an even number up to {POSITION_BITS}")
        fine = self._known("position", rows, 0).astype(np.int32) >> (POSITION_BITS - bits)
        return np.where(np.asarray(rows) < 0, -1, fine)

    def visits(self, rows: ArrayLike) -> NDArray[np.int64]:
        """Training visits of POI rows, 0 for row -1."""
        return self._known("visits", rows, 0).astype(np.int64)

    def visitors(self, rows: ArrayLike) -> NDArray[np.int64]:
        """How many people visited POI rows in training, 0 for row -1."""
        return self._known("visitors", rows, 0).astype(np.int64)

    def is_retired(self, rows: ArrayLike) -> NDArray[np.bool_]:
        """Whether places are retired: known, but no longer to be recommended."""
        rows = np.asarray(rows, np.int64)
        if not len(self.retired):
            return np.zeros(rows.shape, bool)
        slot = np.minimum(np.searchsorted(self.retired, rows), len(self.retired) - 1)
        return self.retired[slot] == rows

    # ---------------------------------------------------------------- geography

    def block_bounds(self, blocks: ArrayLike | None = None) -> NDArray[np.float64]:
        """South, west, north, east in degrees of blocks (default: all), shape (n, 4)."""
        chosen: Any = slice(None) if blocks is None else _integers(blocks)
        return self.scheme.bounds(self.blocks.keys[chosen], self.blocks.levels[chosen])

    def block_addresses(self, blocks: ArrayLike | None = None) -> list[str]:
        """Human addresses of blocks (default: all): map tile `z/x/y` (quadtree) or `row/column` (grid)."""
        chosen: Any = slice(None) if blocks is None else _integers(blocks)
        return self.scheme.addresses(self.blocks.keys[chosen], self.blocks.levels[chosen])

    @cached_property
    def _search(self) -> search.BlockSearch:
        return search.BlockSearch(self)

    def block_of_point(self, latitude: ArrayLike, longitude: ArrayLike, max_km: float = 100.0) -> NDArray[np.int32]:
        """The smallest block that holds each point, else the one with the nearest centre within `max_km`; shape (n,).

        -1 where the coordinates are NaN or no block is near.
        """
        return self._search.of_points(np.asarray(latitude, np.float64), np.asarray(longitude, np.float64), max_km)

    def neighbours(self, block: int) -> NDArray[np.int64]:
        """Blocks whose cells touch a block's cell (side or corner, also across the antimeridian) or overlap it."""
        return self._search.neighbours(block)

    def blocks_within(self, latitude: float, longitude: float, radius_km: float) -> NDArray[np.int64]:
        """Blocks of which some part lies within `radius_km` of a point, nearest first."""
        return self._search.within(latitude, longitude, radius_km)

    def geojson(self, blocks: ArrayLike | None = None) -> dict[str, Any]:
        """Blocks (default: all) as a GeoJSON FeatureCollection of polygons with `block`, `address`, `num_pois`."""
        return search.geojson(self, np.arange(self.num_blocks) if blocks is None else np.asarray(blocks, np.int64))

    # ---------------------------------------------------------------- growth

    def add(self, pois: Source, bad_rows: str = "error") -> "POIIndex":
        """The index with new places, rows after the present ones; no old id moves.

        Each takes a spare inner id of its block; where the block is full, or the map empty, new blocks are taken from
        the spare ones.

        Args:
            pois, bad_rows: as for `build`.

        Raises:
            ValueError: a place is in the index already, rows are bad, or the spare blocks do not suffice.
        """
        return growth.add(self, pois, is_quarantine(bad_rows))

    def retire(self, poi_ids: ArrayLike | pa.Array) -> "POIIndex":
        """The index with places marked as closed: they keep their ids and are never recommended.

        Raises:
            ValueError: a place is not in the index.
        """
        rows = self.rows(poi_ids)
        if (rows < 0).any():
            raise ValueError(
                f"{int((rows < 0).sum())} places to retire are not in the index, first "
                f"{np.asarray(poi_ids, dtype=object)[rows < 0][:5].tolist()}"
            )
        return replace(self, retired=np.union1d(self.retired, rows))

    def rebuild_advice(self) -> growth.Advice:
        """How far the index has drifted from what `build` would make of its places now, and whether to rebuild."""
        return growth.advice(self)

    # ---------------------------------------------------------------- storage

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder: `index.json`, one `.npy` per array, ids as Arrow files. No pickle.

        Into the folder that it was loaded from only what was added is written. The old state stays readable until the
        new one is complete.
        """
        storage.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, verify: bool = False) -> "POIIndex":
        """Open a saved index memory-mapped; with `verify` every file's checksum is compared first.

        Raises:
            ValueError: the folder is no index, was written by another version, or is damaged.
        """
        return storage.load(cls, Path(folder), verify)
