"""Where a person stands at an action and what that tells: from the past only, so that it is known at a request."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import EARTH_RADIUS_KM, haversine_km, unit_vectors
from spacetime_gr.vocabulary import MODES

TRIP_KM = 50.0  # a person is in trip while further than this from the middle of the places seen so far
_FIXED_POINT = 2.0**36  # sums of whole numbers are exact, so a history's modes do not depend on what stands before it

Columns = Mapping[str, NDArray[Any]]


def first_actions(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the first action of each sequence that is not empty."""
    return offsets[:-1][np.diff(offsets) > 0]


def user_blocks(
    index: POIIndex, blocks: NDArray[np.int32], columns: Columns, offsets: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Blocks in which persons stand at each action, -1 unknown; shape (num_actions,).

    That of the given place, else of the previous action's place: never of the place that is to be predicted.

    Args:
        blocks: of the actions' places, -1 unknown, shape (num_actions,).
    """
    previous = np.roll(blocks, 1).astype(np.int64)
    previous[first_actions(offsets)] = -1
    if "user_latitude" not in columns:
        return previous
    given = index.block_of_point(columns["user_latitude"], columns["user_longitude"])
    return np.where(given >= 0, given, previous)


def distances_km(index: POIIndex, columns: Columns, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far each person stands from the place of the previous action, km, shape (num_actions,).

    Known where the person's own coordinates are given and the previous place is in the index; else NaN. The place of
    the action itself, which is to be predicted, plays no part.
    """
    if "user_latitude" not in columns:
        return np.full(len(columns["poi_row"]), np.nan)
    last_latitude, last_longitude = (np.roll(degrees, 1) for degrees in index.coordinates(columns["poi_row"]))
    here = columns["user_latitude"], columns["user_longitude"]
    moved = np.asarray(haversine_km(last_latitude, last_longitude, *here), np.float64)
    moved[first_actions(offsets)] = np.nan
    return moved


def infer_modes(index: POIIndex, columns: Columns, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Mode ids, shape (num_actions,): `in_trip` while the person stands far from the places seen before, else `local`.

    Far is more than `TRIP_KM` from their middle (of unit vectors, so that the antimeridian is no border). `pre_trip` is
    a matter of intent: it comes with the data or not at all.
    """
    place = unit_vectors(*index.coordinates(columns["poi_row"]))
    standing = np.roll(place, 1, axis=0)
    standing[first_actions(offsets)] = np.nan
    if "user_latitude" in columns:
        given = unit_vectors(columns["user_latitude"], columns["user_longitude"])
        standing = np.where(np.isfinite(given).all(axis=1, keepdims=True), given, standing)
    total = np.zeros((len(place) + 1, 3), np.int64)
    np.cumsum(np.rint(np.nan_to_num(place) * _FIXED_POINT).astype(np.int64), axis=0, out=total[1:])
    before = (total[:-1] - total[np.repeat(offsets[:-1], np.diff(offsets))]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        middle = before / np.linalg.norm(before, axis=1, keepdims=True)
    chord = np.linalg.norm(standing - middle, axis=1)  # NaN where nothing was seen before: not far
    far = chord > 2.0 * np.sin(TRIP_KM / EARTH_RADIUS_KM / 2.0)
    return np.where(far, MODES.index("in_trip"), MODES.index("local"))
