"""Distances on the sphere, the Web Mercator square, and Morton codes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6371.0088
KM_PER_DEGREE = np.pi * EARTH_RADIUS_KM / 180.0
MAX_LATITUDE = 85.05112877980659  # where Web Mercator's square ends; points beyond it belong to the outermost tiles

FIXED_POINT = 1e7  # stored coordinates are int32 multiples of 1e-7 degrees: 1 cm

Floats = NDArray[np.floating]


def to_fixed(degrees: Floats) -> NDArray[np.int32]:
    """Coordinates in the form that is stored, rounded to the nearest."""
    scaled = degrees * FIXED_POINT
    return np.rint(scaled, out=scaled).astype(np.int32)


def to_degrees(fixed: NDArray[Any]) -> NDArray[np.float64]:
    """Stored coordinates in degrees."""
    return fixed / FIXED_POINT


def haversine_km(latitude_a: Floats, longitude_a: Floats, latitude_b: Floats, longitude_b: Floats) -> Floats:
    """Great-circle distance in km between points in degrees (haversine formula; arrays broadcast)."""
    lat_a, lat_b = np.radians(latitude_a), np.radians(latitude_b)
    half_lat = np.sin((lat_b - lat_a) / 2.0)
    half_lon = np.sin(np.radians(np.asarray(longitude_b) - np.asarray(longitude_a)) / 2.0)
    chord = half_lat**2 + np.cos(lat_a) * np.cos(lat_b) * half_lon**2
    return 2.0 * EARTH_RADIUS_KM * np.arcsin(np.minimum(1.0, np.sqrt(chord)))


def unit_vectors(latitude: Floats, longitude: Floats) -> NDArray[np.float64]:
    """Points in degrees on the unit sphere, shape (n, 3)."""
    lat, lon = np.radians(np.asarray(latitude, np.float64)), np.radians(np.asarray(longitude, np.float64))
    flat = np.cos(lat)
    return np.stack([flat * np.cos(lon), flat * np.sin(lon), np.sin(lat)], axis=-1)


def distance_to_boxes_km(latitude: float, longitude: float, bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in km from a point to the nearest point of each box (0 inside it), shape (n,).

    Args:
        latitude, longitude: the point, degrees.
        bounds: south, west, north, east in degrees, shape (n, 4), none across the antimeridian.

    Beside the box's meridians the nearest point is straight north or south; else it lies on the nearer of its two
    meridians, where the distance is least at latitude atan2(tan(latitude), cos(difference of longitude)).
    """
    south, west, north, east = bounds.T
    straight = np.abs(latitude - np.clip(latitude, south, north)) * KM_PER_DEGREE
    best = np.full(len(bounds), np.inf)
    for meridian in (west, east):
        apart = np.radians(meridian - longitude)
        foot = np.degrees(np.arctan2(np.sin(np.radians(latitude)), np.cos(np.radians(latitude)) * np.cos(apart)))
        # Behind a pole the foot leaves [-90, 90]: the nearest point is then one of the two ends.
        for nearest in (np.clip(foot, south, north), south, north):
            best = np.minimum(best, haversine_km(np.full(1, latitude), np.full(1, longitude), nearest, meridian))
    return np.where((west <= longitude) & (longitude <= east), straight, best)


def corner_distance_km(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in km from the middle of each box to its farthest corner, shape (n,).

    Args:
        bounds: south, west, north, east in degrees, shape (n, 4).
    """
    south, west, north, east = bounds.T
    middle, half = (south + north) / 2.0, (east - west) / 2.0
    # East and west are alike; of the two latitudes the one nearer the equator is farther, except for huge boxes.
    return np.maximum(*(haversine_km(middle, np.zeros(1), edge, half) for edge in (south, north)))


def areas_km2(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area in km² of boxes (south, west, north, east in degrees, shape (n, 4)) on the sphere, shape (n,)."""
    south, west, north, east = np.radians(bounds.T)
    return EARTH_RADIUS_KM**2 * (np.sin(north) - np.sin(south)) * (east - west)


def mercator(latitude: Floats, longitude: Floats) -> tuple[Floats, Floats]:
    """Web Mercator coordinates in [0, 1), x eastwards from the antimeridian, y southwards (float64)."""
    latitude = np.clip(np.atleast_1d(np.asarray(latitude, dtype=np.float64)), -MAX_LATITUDE, MAX_LATITUDE)
    x = (np.atleast_1d(np.asarray(longitude, dtype=np.float64)) + 180.0) / 360.0
    sine = np.sin(np.radians(latitude))
    y = 0.5 - np.log((1.0 + sine) / (1.0 - sine)) / (4.0 * np.pi)
    top = np.nextafter(1.0, 0.0)
    x[x >= 1.0] -= 1.0  # 180 degrees are -180 degrees
    return x, np.clip(y, 0.0, top, out=y)


def inverse_mercator(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Latitude and longitude in degrees of Web Mercator coordinates in [0, 1]."""
    latitude = np.degrees(np.arctan(np.sinh((0.5 - np.asarray(y, dtype=np.float64)) * 2.0 * np.pi)))
    return latitude, np.asarray(x, dtype=np.float64) * 360.0 - 180.0


def tile_bounds(levels: NDArray[np.integer], x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """South, west, north, east in degrees of map tiles, shape (len(levels), 4).

    The outermost rows reach the poles: the points beyond Web Mercator's square are theirs.
    """
    tiles = np.exp2(np.asarray(levels, dtype=np.float64))
    north, west = inverse_mercator(x / tiles, y / tiles)
    south, east = inverse_mercator((x + 1) / tiles, (y + 1) / tiles)
    north, south = np.where(y == 0, 90.0, north), np.where(y + 1 == tiles, -90.0, south)
    return np.stack([south, west, north, east], axis=1)


_SPREADING = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)
_GATHERING = (
    (1, 0x3333333333333333),
    (2, 0x0F0F0F0F0F0F0F0F),
    (4, 0x00FF00FF00FF00FF),
    (8, 0x0000FFFF0000FFFF),
    (16, 0x00000000FFFFFFFF),
)


def morton(x: NDArray[np.uint64], y: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Interleave the (up to 32) bits of x and y: x in the even bits, y in the odd ones."""
    return (_spread_bits(y) << np.uint64(1)) | _spread_bits(x)


def unmorton(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Undo `morton`."""
    return _gather_bits(keys).astype(np.int64), _gather_bits(keys >> np.uint64(1)).astype(np.int64)


def _spread_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Put a zero bit between the bits of each value."""
    for shift, mask in _SPREADING:
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def _gather_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Undo `_spread_bits`."""
    values = values & np.uint64(0x5555555555555555)
    for shift, mask in _GATHERING:
        values = (values | (values >> np.uint64(shift))) & np.uint64(mask)
    return values
