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


def distances_km(index: POIIndex, columns: Columns, offsets: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """How far each person stands from the place of the previous action, km, shape (num_actions,).

    Known where the person's own coordinates are given and the previous place is in the index; else NaN, and None if
    no coordinates are given at all. The place of the action itself, which is to be predicted, plays no part.
    """
    if "user_latitude" not in columns:
        return None
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
    place = unit_vectors(*index.coordinates(columns["poi_row"])).T
    standing = np.roll(place, 1, axis=1)
    standing[:, first_actions(offsets)] = np.nan
    if "user_latitude" in columns:
        given = unit_vectors(columns["user_latitude"], columns["user_longitude"]).T
        standing = np.where(np.isfinite(given).all(axis=0), given, standing)
    total = np.zeros((3, place.shape[1] + 1), np.int64)
    np.cumsum(np.rint(np.nan_to_num(place) * _FIXED_POINT).astype(np.int64), axis=1, out=total[:, 1:])
    before = (total[:, :-1] - np.repeat(total[:, offsets[:-1]], np.diff(offsets), axis=1)).astype(np.float64)
    # Unit vectors more than a chord apart: their product is below 1 - chord^2 / 2. Where nothing was seen before, or
    # the place is not known, both sides are 0 or NaN: not far.
    chord = 2.0 * np.sin(TRIP_KM / EARTH_RADIUS_KM / 2.0)
    length = np.sqrt((before * before).sum(axis=0))
    far = (standing * before).sum(axis=0) < (1.0 - chord**2 / 2.0) * length
    return np.where(far, MODES.index("in_trip"), MODES.index("local"))
