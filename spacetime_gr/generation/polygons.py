"""Polygons that fence places in: read from GeoJSON or from rings of points, and asked about many points at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 22  # pairs of a point and an edge that are compared at a time; bounds the memory
_TURNS = (-360.0, 0.0, 360.0)  # a ring may go on beyond 180 degrees east or west, where points are named anew


@dataclass(frozen=True)
class Polygon:
    """Rings as edges; a point is inside where a ray from it crosses an odd number of them (so holes are outside).

    Edges are straight in latitude and longitude, as in GeoJSON. Of points on the very outline, those on its southern
    and western sides count as inside.
    """

    edges: NDArray[np.float64]  # (num_edges, 4): latitude, longitude of the start, then of the end

    @property
    def bounds(self) -> NDArray[np.float64]:
        """South, west, north, east in degrees."""
        latitude, longitude = self.edges[:, 0], self.edges[:, 1]
        return np.array([latitude.min(), longitude.min(), latitude.max(), longitude.max()])

    def overlaps(self, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which boxes (south, west, north, east, shape (n, 4)) the polygon's own box touches, shape (n,)."""
        south, west, north, east = self.bounds
        souths, wests, norths, easts = boxes.T
        level = (souths <= north) & (norths >= south)
        return level & np.any([(wests + turn <= east) & (easts + turn >= west) for turn in _TURNS], axis=0)

    def contains(self, latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points (degrees, shape (n,); NaN is nowhere) lie inside, shape (n,)."""
        inside = np.zeros(latitude.shape, bool)
        south, west, north, east = self.bounds
        for turn in _TURNS:
            x = longitude + turn
            near = np.flatnonzero((latitude >= south) & (latitude <= north) & (x >= west) & (x <= east))
            step = max(1, CHUNK // len(self.edges))
            for start in range(0, len(near), step):
                part = near[start : start + step]
                inside[part] |= self._odd(latitude[part], x[part])
        return inside

    def _odd(self, latitude: NDArray[np.float64], longitude: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether the ray eastwards from each point crosses an odd number of edges."""
        lat_a, lon_a, lat_b, lon_b = self.edges.T
        spans = (lat_a <= latitude[:, None]) != (lat_b <= latitude[:, None])
        slope = (lon_b - lon_a) / np.where(lat_b == lat_a, 1.0, lat_b - lat_a)
        crossing = lon_a + (latitude[:, None] - lat_a) * slope
        return np.count_nonzero(spans & (crossing > longitude[:, None]), axis=1) % 2 == 1


Fence = tuple[Polygon, ...]  # inside is what lies in any of them


def fences(within: Any, size: int) -> list[Fence]:
    """One fence for each of `size` histories (the same object for all where one is given).

    Args:
        within: a fence or a sequence of `size` fences. A fence is a GeoJSON Polygon, MultiPolygon, Feature or
            FeatureCollection of these (a dict; longitude first, as GeoJSON has it), or a list of rings of
            (latitude, longitude) points in degrees, the first the outline, the others holes.

    Raises:
        ValueError: it is none of these, a ring has fewer than three corners or coordinates out of range, an edge spans
            more than 180 degrees of longitude, or the number of fences is not that of the histories.
    """
    if isinstance(within, Mapping) or _depth(within) == 3:
        return [_fence(within, "within")] * size
    if not isinstance(within, Sequence) or not all(isinstance(one, Mapping) or _depth(one) == 3 for one in within):
        raise ValueError(
            f"within is {str(within)[:80]!r}; expected a GeoJSON dict, a list of rings of (latitude, longitude), or a "
            "list with one of these per history"
        )
    if len(within) != size:
        raise ValueError(f"within has {len(within)} polygons for {size} histories; give one, or one per history")
    return [_fence(one, f"within[{number}]") for number, one in enumerate(within)]


def _depth(value: Any) -> int:
    """How deep lists are nested, read off the first members: 1 a point, 2 a ring, 3 rings."""
    depth = 0
    while isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and len(value):
        value, depth = value[0], depth + 1
    return depth


def _fence(value: Any, name: str) -> Fence:
    """A fence of any form; `name` says where it stands."""
    if not isinstance(value, Mapping):
        return (_polygon(value, name),)
    kind = value.get("type")
    if kind == "Feature":
        return _fence(value.get("geometry") or {}, f"{name}, its geometry")
    if kind == "FeatureCollection" and value.get("features"):
        parts = [_fence(one, f"{name}, feature {number}") for number, one in enumerate(value["features"])]
        return tuple(polygon for part in parts for polygon in part)
    coordinates: Any = value.get("coordinates")
    if kind == "Polygon" and _depth(coordinates) == 3:
        return (_polygon(coordinates, name, longitude_first=True),)
    if kind == "MultiPolygon" and _depth(coordinates) == 4:
        return tuple(_polygon(rings, name, longitude_first=True) for rings in coordinates)
    raise ValueError(
        f"{name} is GeoJSON of type {kind!r}; expected a Polygon or MultiPolygon with coordinates, or a Feature or "
        "FeatureCollection of these"
    )


def _polygon(rings: Any, name: str, longitude_first: bool = False) -> Polygon:
    return Polygon(np.concatenate([_edges(ring, f"{name}, ring {i}", longitude_first) for i, ring in enumerate(rings)]))


def _edges(ring: Any, name: str, longitude_first: bool) -> NDArray[np.float64]:
    """Edges of one ring, shape (num_edges, 4), closed if it was not."""
    try:
        points = np.array([point[:2] for point in ring], np.float64).reshape(-1, 2)  # GeoJSON may add an altitude
    except (TypeError, ValueError, IndexError):
        raise ValueError(f"{name} is {str(ring)[:80]!r}; expected a list of points of two numbers") from None
    if longitude_first:
        points = points[:, ::-1]
    wrong = ~(np.abs(points) <= (90.0, 360.0)).all(axis=1)
    if wrong.any():
        order = "longitude, latitude" if longitude_first else "latitude, longitude"
        raise ValueError(
            f"{name} has the point {ring[int(wrong.argmax())]}; expected ({order}) in degrees, latitude within -90..90 "
            "and longitude within -360..360"
        )
    if len(points) and (points[0] != points[-1]).any():
        points = np.concatenate([points, points[:1]])
    if len(points) < 4:
        raise ValueError(f"{name} has {max(0, len(points) - 1)} corners; expected at least 3")
    edges = np.concatenate([points[:-1], points[1:]], axis=1)
    if (np.abs(edges[:, 3] - edges[:, 1]) > 180.0).any():
        # 179 to -179 would be the long way round the world: most likely not what was meant.
        raise ValueError(
            f"{name} has an edge over more than 180 degrees of longitude; to cross the antimeridian go on counting "
            "(179 to 181) or cut the polygon there into a MultiPolygon, and give wide edges a point in between"
        )
    return edges
