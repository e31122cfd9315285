"""Tables of places that the tests of the index share."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa


def table(latitude: Iterable[float], longitude: Iterable[float], **columns: Any) -> pa.Table:
    """Places p0, p1, … (or with the ids given) at points in degrees."""
    latitude, longitude = (np.array(list(axis), float) for axis in (latitude, longitude))
    ids = columns.pop("poi_id", [f"p{i}" for i in range(len(latitude))])
    return pa.table({"poi_id": ids, "latitude": latitude, "longitude": longitude, **columns})


def city(size: int, center: tuple[float, float], spread: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of places around a centre."""
    rng = np.random.default_rng(seed)
    return center[0] + rng.normal(0, spread, size), (center[1] + rng.normal(0, spread, size) + 180) % 360 - 180


def clustered(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in a few clusters of very different width, some of them in one spot, on the antimeridian or at a pole."""
    centers = np.array([(0.0, 0.0), (48.85, 2.35), (-33.9, 151.2), (65.0, 180.0), (89.99, 10.0), (-90.0, -30.0)])
    chosen, width = rng.integers(0, len(centers), size), 10.0 ** -rng.integers(0, 9, size)
    points = centers[chosen] + rng.normal(0, 1, (size, 2)) * np.where(rng.random(size) < 0.2, 0, width)[:, None]
    return np.clip(points[:, 0], -90, 90), (points[:, 1] + 180) % 360 - 180
