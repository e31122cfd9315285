"""Where actions and persons are: distances on the sphere, and what the data tells of a person's place."""

from typing import Any

import numpy as np

from data_pipelines.stream.sequences import Sequences

EARTH_RADIUS_KM = 6371.0088

Points = tuple[np.ndarray, np.ndarray]


def distance_km(a: Points, b: Points) -> np.ndarray:
    """Great-circle distance in km of points (latitude, longitude in degrees), NaN where one is unknown (haversine)."""
    lat_a, lon_a, lat_b, lon_b = (np.radians(np.asarray(part, np.float64)) for part in (*a, *b))
    chord = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(1.0, chord)))


def poi_points(sequences: Sequences, index: Any) -> Points:
    """Coordinates of each action's place, NaN where it is unknown; two float64 (num_actions,)."""
    latitude, longitude = index.coordinates(sequences.columns["poi_row"])
    return latitude, longitude


def stated_points(sequences: Sequences) -> Points | None:
    """Where the data says that the person stood at each action, NaN unknown; None if it never says so."""
    if "user_latitude" not in sequences.columns:
        return None
    return sequences.columns["user_latitude"], sequences.columns["user_longitude"]


def points_before(sequences: Sequences, index: Any) -> Points:
    """Where the person was known to stand before each action: the stated place, else that of the previous action."""
    first = sequences.offsets[:-1][sequences.lengths > 0]
    before = []
    for values in poi_points(sequences, index):
        previous = np.roll(values, 1)
        previous[first] = np.nan
        before.append(previous)
    stated = stated_points(sequences)
    return (before[0], before[1]) if stated is None else filled(stated, (before[0], before[1]))


def filled(points: Points, others: Points) -> Points:
    """The points, and others where they are not known."""
    known = np.isfinite(points[0]) & np.isfinite(points[1])
    return np.where(known, points[0], others[0]), np.where(known, points[1], others[1])
