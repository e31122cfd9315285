"""POIIndex: place ids to (block, inner) pairs and back, with the geometry and side information of both."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from spacetime_gr.index import geometry
from spacetime_gr.index.build import split_grid, split_quadtree

FORMAT_VERSION = 1
SCHEMES = ("quadtree", "grid")
CELLS_PER_SIDE = 8
_ARRAYS = (
    "block", "inner", "rows_by_block", "block_starts", "block_keys", "block_levels", "latitude", "longitude",
    "category", "cell", "visits", "id_hashes", "id_rows",
)  # fmt: skip


@dataclass(frozen=True)
class POIIndex:
    """Two-level index of places. Make one with `build` or `load`; arrays are never changed in place.

    Per POI, in the order of the table it was built from (`poi_row`): `block` int32, `inner` int32, `latitude`,
    `longitude` float32 degrees, `category` int32 (-1 none), `cell` uint8 (position in the block, 8 x 8 cells, row by
    row from the north-west), `visits` int64. Per block: `block_starts` int64 (num_blocks + 1) into `rows_by_block`
    (POI rows sorted by block and inner id), `block_keys`, `block_levels`.
    """

    scheme: str
    settings: dict[str, Any]
    category_names: list[str]
    poi_ids: pa.Array
    hash_key: str
    block: NDArray[np.int32]
    inner: NDArray[np.int32]
    rows_by_block: NDArray[np.int32]
    block_starts: NDArray[np.int64]
    block_keys: NDArray[np.uint64]
    block_levels: NDArray[np.int8]
    latitude: NDArray[np.float32]
    longitude: NDArray[np.float32]
    category: NDArray[np.int32]
    cell: NDArray[np.uint8]
    visits: NDArray[np.int64]
    id_hashes: NDArray[np.uint64]
    id_rows: NDArray[np.int32]

    # ---------------------------------------------------------------- building

    @classmethod
    def build(
        cls,
        pois: pa.Table,
        scheme: str = "quadtree",
        max_pois_per_block: int | None = None,
        cell_km: float = 5.0,
    ) -> "POIIndex":
        """Build an index over a table of places.

        Args:
            pois: columns `poi_id`, `latitude`, `longitude` (degrees); optional `category` (strings) and
                `train_visits` (popularity in the training part; order of the inner ids, 0 where absent).
            scheme: `quadtree` (adaptive map tiles) or `grid` (squares of `cell_km`).
            max_pois_per_block: bound on a block's POIs; default 512 for the quadtree, none for the grid.
            cell_km: side of a grid square.

        Inner ids run from 0 in each block by falling `train_visits`, ties by `poi_id`.

        Raises:
            ValueError: a column is missing, a coordinate is not finite or out of range, a POI id stands twice, or a
                setting is out of range; the message names the first offending rows.
        """
        if scheme not in SCHEMES:
            raise ValueError(f"scheme is {scheme!r}; expected one of {', '.join(SCHEMES)}")
        if scheme == "quadtree" and max_pois_per_block is None:
            max_pois_per_block = 512
        if max_pois_per_block is not None and max_pois_per_block < 1:
            raise ValueError(f"max_pois_per_block is {max_pois_per_block}; expected at least 1")
        poi_ids, latitude, longitude, visits = _checked_columns(pois)
        if scheme == "quadtree":
            keys = geometry.quadtree_keys(latitude, longitude)
        else:
            keys = geometry.grid_keys(latitude, longitude, cell_km)
        # One sort gives both the cells and, inside each, the order of popularity (ties by id).
        id_rank = np.empty(len(poi_ids), np.int64)
        id_rank[pc.sort_indices(poi_ids).to_numpy()] = np.arange(len(poi_ids))
        order = np.lexsort((id_rank, -visits, keys))
        sorted_keys = keys[order]
        blocks = (
            split_quadtree(sorted_keys, max_pois_per_block)
            if scheme == "quadtree" and max_pois_per_block is not None
            else split_grid(sorted_keys, max_pois_per_block)
        )
        sizes = np.diff(blocks.starts)
        block_of_sorted = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        # Blocks above the deepest level hold several cells, so popularity is ordered once more, block by block.
        by_block = np.lexsort((id_rank[order], -visits[order], block_of_sorted))
        rows_by_block = order[by_block].astype(np.int32)
        block = np.empty(len(poi_ids), np.int32)
        inner = np.empty(len(poi_ids), np.int32)
        block[rows_by_block] = block_of_sorted
        inner[rows_by_block] = np.arange(len(poi_ids)) - np.repeat(blocks.starts[:-1], sizes)
        category_names, category = _categories(pois)
        hash_key, id_hashes, id_rows = _hash_table(poi_ids)
        settings: dict[str, Any] = {"max_pois_per_block": max_pois_per_block}
        if scheme == "grid":
            settings["cell_km"] = cell_km
        bounds = _block_bounds(scheme, settings, blocks.keys, blocks.levels)
        return cls(
            scheme=scheme,
            settings=settings,
            category_names=category_names,
            poi_ids=poi_ids,
            hash_key=hash_key,
            block=block,
            inner=inner,
            rows_by_block=rows_by_block,
            block_starts=blocks.starts,
            block_keys=blocks.keys,
            block_levels=blocks.levels,
            latitude=latitude.astype(np.float32),
            longitude=longitude.astype(np.float32),
            category=category,
            cell=_cells(latitude, longitude, bounds[block]),
            visits=visits,
            id_hashes=id_hashes,
            id_rows=id_rows,
        )

    # ---------------------------------------------------------------- sizes

    @property
    def num_pois(self) -> int:
        """Number of places."""
        return len(self.block)

    @property
    def num_blocks(self) -> int:
        """Number of blocks; block ids run from 0."""
        return len(self.block_keys)

    @property
    def num_inner(self) -> int:
        """Size of the inner vocabulary: the most POIs that any block holds."""
        return int(self.block_sizes.max())

    @cached_property
    def block_sizes(self) -> NDArray[np.int64]:
        """Number of POIs of each block, shape (num_blocks,)."""
        return np.diff(self.block_starts)

    # ---------------------------------------------------------------- ids

    def rows(self, poi_ids: ArrayLike | pa.Array) -> NDArray[np.int64]:
        """Dense rows of POI ids, -1 for ids the index does not know. Ids are compared as strings."""
        wanted = _as_strings(poi_ids)
        hashes = _hash_strings(wanted, self.hash_key)
        position = np.minimum(np.searchsorted(self.id_hashes, hashes), self.num_pois - 1)
        rows = self.id_rows[position].astype(np.int64)
        known = self.id_hashes[position] == hashes
        same = pc.equal(self.poi_ids.take(pa.array(rows)), wanted).to_numpy(zero_copy_only=False)
        return np.where(known & same, rows, -1)

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
        dense = np.asarray(poi_ids, dtype=np.int64) if rows else self.rows(poi_ids)
        missing = (dense < 0) | (dense >= self.num_pois)
        if missing.any():
            if unknown != "mark":
                first = np.flatnonzero(missing)[:5]
                shown = [str(poi_ids[int(i)]) for i in first]  # type: ignore[index]
                raise ValueError(
                    f"{int(missing.sum())} of {len(dense)} places are not in the index, first {shown}; "
                    "pass unknown='mark' to get -1 for them, or rebuild the index with them"
                )
            dense = np.where(missing, 0, dense)
            absent = np.int32(-1)
            return np.where(missing, absent, self.block[dense]), np.where(missing, absent, self.inner[dense])
        return self.block[dense], self.inner[dense]

    def decode_rows(self, blocks: ArrayLike, inners: ArrayLike) -> NDArray[np.int64]:
        """Dense rows of (block, inner) pairs, -1 where the pair names no place. Arrays broadcast."""
        blocks, inners = np.broadcast_arrays(np.asarray(blocks, np.int64), np.asarray(inners, np.int64))
        valid = (blocks >= 0) & (blocks < self.num_blocks) & (inners >= 0)
        safe = np.where(valid, blocks, 0)
        valid &= inners < self.block_starts[safe + 1] - self.block_starts[safe]
        return np.where(valid, self.rows_by_block[np.where(valid, self.block_starts[safe] + inners, 0)], -1)

    def decode(self, blocks: ArrayLike, inners: ArrayLike) -> NDArray[Any]:
        """POI ids of (block, inner) pairs, None where the pair names no place."""
        rows = self.decode_rows(blocks, inners)
        ids: NDArray[Any] = self.poi_ids.take(pa.array(np.maximum(rows, 0).ravel())).to_numpy(zero_copy_only=False)
        ids = ids.reshape(rows.shape).copy()
        ids[rows < 0] = None
        return ids

    # ---------------------------------------------------------------- places

    def coordinates(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Latitude and longitude in degrees of POI rows; NaN for row -1."""
        safe = np.maximum(rows, 0)
        missing = np.asarray(rows) < 0
        return (
            np.where(missing, np.float32(np.nan), self.latitude[safe]),
            np.where(missing, np.float32(np.nan), self.longitude[safe]),
        )

    def categories(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Category ids of POI rows, -1 where there is none (or for row -1)."""
        return np.where(np.asarray(rows) < 0, np.int32(-1), self.category[np.maximum(rows, 0)])

    def block_bounds(self, blocks: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
        """South, west, north, east in degrees of blocks (default: all), shape (n, 4)."""
        chosen: Any = slice(None) if blocks is None else blocks
        return _block_bounds(self.scheme, self.settings, self.block_keys[chosen], self.block_levels[chosen])

    @cached_property
    def block_centers(self) -> NDArray[np.float32]:
        """Mean latitude and longitude of each block's POIs, shape (num_blocks, 2)."""
        sizes = self.block_sizes
        latitude = np.add.reduceat(self.latitude[self.rows_by_block].astype(np.float64), self.block_starts[:-1]) / sizes
        # Blocks never straddle the antimeridian (both schemes cut there), so a plain mean of longitudes is right.
        longitude = np.add.reduceat(self.longitude[self.rows_by_block].astype(np.float64), self.block_starts[:-1])
        return np.stack([latitude, longitude / sizes], axis=1).astype(np.float32)

    def block_addresses(self) -> list[str]:
        """Human addresses: map tile `z/x/y` (quadtree) or `row/column` (grid)."""
        if self.scheme == "grid":
            return [f"{int(key) >> 32}/{int(key) & 0xFFFFFFFF}" for key in self.block_keys]
        columns, rows = geometry.tile_of_key(self.block_keys, self.block_levels)
        return [f"{z}/{x}/{y}" for z, x, y in zip(self.block_levels, columns, rows, strict=True)]

    def block_of_point(self, latitude: ArrayLike, longitude: ArrayLike) -> NDArray[np.int32]:
        """Block that holds each point; where no block does, the nearer of the two neighbours in key order.

        NaN coordinates give -1. Shape (n,).
        """
        latitude, longitude = np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
        missing = ~(np.isfinite(latitude) & np.isfinite(longitude))
        safe_lat, safe_lon = np.where(missing, 0.0, latitude), np.where(missing, 0.0, longitude)
        if self.scheme == "quadtree":
            keys = geometry.quadtree_keys(safe_lat, safe_lon)
        else:
            keys = geometry.grid_keys(safe_lat, safe_lon, self.settings["cell_km"])
        following = np.searchsorted(self.block_keys, keys, side="right")
        before = np.maximum(following - 1, 0)
        # Blocks cut from one cell share a key: the search lands on the last of them, its first holds the most visited.
        before = np.searchsorted(self.block_keys, self.block_keys[before], side="left")
        after = np.minimum(following, self.num_blocks - 1)
        inside = (keys >= self.block_keys[before]) & (keys - self.block_keys[before] < self._key_spans[before])
        centers = self.block_centers.astype(np.float64)
        to_before = geometry.haversine_km(safe_lat, safe_lon, centers[before, 0], centers[before, 1])
        to_after = geometry.haversine_km(safe_lat, safe_lon, centers[after, 0], centers[after, 1])
        chosen = np.where(inside | (to_before <= to_after), before, after)
        return np.where(missing, -1, chosen).astype(np.int32)

    @cached_property
    def _key_spans(self) -> NDArray[np.uint64]:
        """How many cell keys each block's cell covers, shape (num_blocks,)."""
        if self.scheme == "grid":
            return np.ones(self.num_blocks, np.uint64)
        return np.uint64(1) << (2 * (geometry.MAX_LEVEL - self.block_levels.astype(np.int64))).astype(np.uint64)

    # ---------------------------------------------------------------- storage

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder: `index.json`, one `.npy` per array, `poi_ids.arrow`. No pickle."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", np.ascontiguousarray(getattr(self, name)), allow_pickle=False)
        table = pa.table({"poi_id": self.poi_ids})
        with pa.OSFile(str(folder / "poi_ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        files = [f"{name}.npy" for name in _ARRAYS] + ["poi_ids.arrow"]
        description = {
            "format_version": FORMAT_VERSION,
            "scheme": self.scheme,
            "settings": self.settings,
            "num_pois": self.num_pois,
            "num_blocks": self.num_blocks,
            "num_inner": self.num_inner,
            "hash_key": self.hash_key,
            "category_names": self.category_names,
            "sha256": {name: _sha256(folder / name) for name in files},
        }
        (folder / "index.json").write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: str | Path, verify: bool = False) -> "POIIndex":
        """Open a saved index memory-mapped; with `verify` every file's checksum is compared first.

        Raises:
            ValueError: the folder is no index, was written by a later version, or a checksum differs.
        """
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise ValueError(f"{folder}: no POI index here (index.json is missing); make one with POIIndex.save")
        description = json.loads((folder / "index.json").read_text())
        if description["format_version"] > FORMAT_VERSION:
            raise ValueError(
                f"{folder}/index.json: format version {description['format_version']}, this release reads up to "
                f"{FORMAT_VERSION}; upgrade spacetime-gr"
            )
        if verify:
            for name, expected in description["sha256"].items():
                if _sha256(folder / name) != expected:
                    raise ValueError(
                        f"{folder}/{name}: checksum differs from index.json; the file is damaged, copy it anew"
                    )
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
        with pa.memory_map(str(folder / "poi_ids.arrow")) as source:
            poi_ids = pa.ipc.open_file(source).read_all()["poi_id"].combine_chunks()
        return cls(
            scheme=description["scheme"],
            settings=description["settings"],
            category_names=description["category_names"],
            poi_ids=poi_ids,
            hash_key=description["hash_key"],
            **arrays,
        )


def _checked_columns(pois: pa.Table) -> tuple[pa.Array, NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Ids as strings, coordinates and visits of a POI table, checked row by row."""
    for name in ("poi_id", "latitude", "longitude"):
        if name not in pois.column_names:
            raise ValueError(f"the POI table has no column {name!r}; it has {', '.join(pois.column_names)}")
    if pois.num_rows == 0:
        raise ValueError("the POI table is empty; expected at least one place")
    poi_ids = _as_strings(pois["poi_id"])
    latitude = pois["latitude"].cast(pa.float64()).to_numpy()
    longitude = pois["longitude"].cast(pa.float64()).to_numpy()
    bad = ~((np.abs(latitude) <= 90.0) & (np.abs(longitude) <= 180.0))  # NaN compares false, so it is bad too
    if bad.any():
        rows = np.flatnonzero(bad)[:5]
        shown = [(int(row), float(latitude[row]), float(longitude[row])) for row in rows]
        raise ValueError(
            f"{int(bad.sum())} POIs have coordinates that are missing or outside [-90, 90] x [-180, 180]; first "
            f"(row, latitude, longitude): {shown}; remove or correct these rows"
        )
    distinct = pc.count_distinct(poi_ids).as_py()
    if distinct != len(poi_ids) or poi_ids.null_count:
        raise ValueError(
            f"poi_id must be unique and never null: {len(poi_ids)} rows, {distinct} distinct ids, "
            f"{poi_ids.null_count} nulls; merge the rows of a place into one"
        )
    if "train_visits" in pois.column_names:
        visits = pois["train_visits"].cast(pa.int64()).fill_null(0).to_numpy()
    else:
        visits = np.zeros(len(poi_ids), np.int64)
    return poi_ids, latitude, longitude, visits


def _categories(pois: pa.Table) -> tuple[list[str], NDArray[np.int32]]:
    """Sorted category names and each POI's position among them (-1 none)."""
    if "category" not in pois.column_names:
        return [], np.full(pois.num_rows, -1, np.int32)
    column = pois["category"].cast(pa.string()).combine_chunks()
    names = sorted(name for name in pc.unique(column).to_pylist() if name is not None)
    positions = pc.index_in(column, value_set=pa.array(names, pa.string())).fill_null(-1)
    return names, positions.to_numpy(zero_copy_only=False).astype(np.int32)


def _cells(
    latitude: NDArray[np.float64], longitude: NDArray[np.float64], bounds: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Position of each POI in its own block's bounds, as one of 8 x 8 cells counted row by row from the north-west."""
    south, west, north, east = bounds.T
    down = (north - latitude) / (north - south)
    right = (longitude - west) / (east - west)
    row = np.clip(np.floor(down * CELLS_PER_SIDE), 0, CELLS_PER_SIDE - 1)
    column = np.clip(np.floor(right * CELLS_PER_SIDE), 0, CELLS_PER_SIDE - 1)
    return (row * CELLS_PER_SIDE + column).astype(np.uint8)


def _block_bounds(
    scheme: str, settings: dict[str, Any], keys: NDArray[np.uint64], levels: NDArray[np.int8]
) -> NDArray[np.float64]:
    if scheme == "grid":
        return geometry.grid_bounds(keys, settings["cell_km"])
    columns, rows = geometry.tile_of_key(keys, levels)
    return geometry.tile_bounds(levels, columns, rows)


def _as_strings(values: ArrayLike | pa.Array) -> pa.Array:
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return array.cast(pa.string())


def _hash_strings(strings: pa.Array, hash_key: str) -> NDArray[np.uint64]:
    objects = strings.fill_null("").to_numpy(zero_copy_only=False)
    return pd.util.hash_array(objects, hash_key=hash_key, categorize=False)


def _hash_table(poi_ids: pa.Array) -> tuple[str, NDArray[np.uint64], NDArray[np.int32]]:
    """Sorted 64-bit hashes of the ids with their rows, under the first key that keeps all hashes apart."""
    for attempt in range(100):
        hash_key = f"spacetime-gr-{attempt:03d}"
        hashes = _hash_strings(poi_ids, hash_key)
        rows = np.argsort(hashes, kind="stable").astype(np.int32)
        hashes = hashes[rows]
        if not (hashes[1:] == hashes[:-1]).any():
            return hash_key, hashes, rows
    raise AssertionError("100 hash keys in a row gave colliding 64-bit hashes")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
