"""Blocks by place: which block holds a point, which lie near, and their outlines."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spacetime_gr.index.geometry import EARTH_RADIUS_KM, distance_to_boxes_km, unit_vectors

if TYPE_CHECKING:
    from spacetime_gr.index.poi_index import POIIndex

_TOUCHING_DEGREES = 1e-9  # rounding of bounds that should be equal


class BlockSearch:
    """Answers about the blocks of one index; its tables are made on first use."""

    def __init__(self, index: "POIIndex") -> None:
        self.scheme, self.blocks = index.scheme, index.blocks
        self.num_base = len(index.block_starts) - 1

    def of_keys(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The smallest block whose cell holds each key, -1 where none does; of blocks with one cell, the last."""
        spans = self.scheme.span_bits(self.blocks.levels)
        base = self.blocks.keys[: self.num_base]
        found = np.searchsorted(base, keys, side="right").astype(np.int64) - 1
        near = np.maximum(found, 0)
        outside = (found < 0) | ((keys ^ base[near]) >> spans[near]).astype(bool)
        found[outside] = -1
        # Added blocks may lie inside others: the deepest level is asked last, so that it has the last word.
        added = np.arange(self.num_base, len(self.blocks))
        for span in np.unique(spans[added])[::-1]:
            members = added[spans[added] == span]
            cells = self.blocks.keys[members] >> span
            order = np.argsort(cells, kind="stable")
            slot = np.searchsorted(cells[order], keys >> span, side="right") - 1
            inside = (slot >= 0) & (cells[order][np.maximum(slot, 0)] == keys >> span)
            found[inside] = members[order][slot[inside]]
        return found

    def of_points(
        self, latitude: NDArray[np.float64], longitude: NDArray[np.float64], max_km: float
    ) -> NDArray[np.int32]:
        """See `POIIndex.block_of_point`."""
        usable = (np.abs(latitude) <= 90.0) & (np.abs(longitude) <= 180.0)
        found = np.full(len(latitude), -1, np.int64)
        found[usable] = self.of_keys(self.scheme.keys(latitude[usable], longitude[usable]))
        lost = np.flatnonzero(usable & (found < 0))
        if len(lost):
            found[lost] = self.nearest(latitude[lost], longitude[lost], max_km)
        return found.astype(np.int32)

    def nearest(
        self, latitude: NDArray[np.floating], longitude: NDArray[np.floating], max_km: float = np.inf
    ) -> NDArray[np.int64]:
        """The block with the nearest centre, -1 where none lies within `max_km`."""
        # Distances of the tree are chords of the unit sphere; by rounding those of antipodes may exceed 2.
        angle = max_km / EARTH_RADIUS_KM
        chord = 2.0 * np.sin(angle / 2.0) if angle < np.pi else np.inf
        distance, block = self._tree.query(unit_vectors(latitude, longitude))
        return np.where(distance <= chord, block, -1).astype(np.int64)

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(unit_vectors(*self.blocks.centers.T))

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        return self.scheme.bounds(self.blocks.keys, self.blocks.levels)

    def neighbours(self, block: int) -> NDArray[np.int64]:
        """See `POIIndex.neighbours`."""
        if not 0 <= block < len(self.blocks):
            raise ValueError(f"block {block} does not exist; expected 0 to {len(self.blocks) - 1}")
        south, west, north, east = self._bounds[block]
        souths, wests, norths, easts = self._bounds.T
        touching = np.zeros(len(self.blocks), bool)
        for turn in (-360.0, 0.0, 360.0):
            touching |= (
                (souths <= north + _TOUCHING_DEGREES)
                & (norths >= south - _TOUCHING_DEGREES)
                & (wests + turn <= east + _TOUCHING_DEGREES)
                & (easts + turn >= west - _TOUCHING_DEGREES)
            )
        touching[block] = False
        return np.flatnonzero(touching)

    def within(self, latitude: float, longitude: float, radius_km: float) -> NDArray[np.int64]:
        """See `POIIndex.blocks_within`."""
        if not (abs(latitude) <= 90.0 and abs(longitude) <= 180.0 and radius_km >= 0.0):
            raise ValueError(
                f"({latitude}, {longitude}), {radius_km} km: expected a point in degrees and a radius of 0 or more"
            )
        distance = distance_to_boxes_km(latitude, longitude, self._bounds)
        near = np.flatnonzero(distance <= radius_km)
        return near[np.argsort(distance[near], kind="stable")]


def geojson(index: "POIIndex", blocks: NDArray[np.int64]) -> dict[str, Any]:
    """See `POIIndex.geojson`."""
    south, west, north, east = np.round(index.block_bounds(blocks), 7).T
    around = ((west, south), (east, south), (east, north), (west, north), (west, south))
    rings = np.stack([np.stack(corner, axis=1) for corner in around], axis=1).tolist()
    addresses, sizes = index.block_addresses(blocks), index.block_sizes[blocks].tolist()
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"block": block, "address": address, "num_pois": size},
            }
            for ring, block, address, size in zip(rings, blocks.tolist(), addresses, sizes, strict=True)
        ],
    }
