"""Mode segmentation: a user's sequence as a whole (multi-mode), or cut into runs of one mode (single-mode).

Where the data states no mode, the whole sequence is looked at, future included: a cut decides only which actions share
a row. What the model reads as the mode of an action is the tokenizer's matter, and from the past alone.
"""

from typing import Any

import numpy as np

from data_pipelines.stream.places import distance_km, filled, poi_points, stated_points
from data_pipelines.stream.sequences import Sequences

# The order of the manifest's `modes`.
LOCAL, PRE_TRIP, IN_TRIP = range(3)
TRIP_KM = 50.0


def segment_modes(sequences: Sequences, index: Any, trip_km: float = TRIP_KM) -> np.ndarray:
    """Mode of each action: the stated one, inferred where it is -1 or there is none; int8 (num_actions,).

    The usual area of a person is what lies within `trip_km` of the most visited place. In trip: the person is outside
    of it (at the stated place, else at the place of the action, as a check-in is made there). Pre-trip: the person is
    inside and the place of the action is further than `trip_km` from the person. Else, and where places are not known,
    local.
    """
    stated = sequences.columns.get("mode")
    if stated is not None and not (stated < 0).any():
        return stated
    places, persons = poi_points(sequences, index), stated_points(sequences)
    at = places if persons is None else filled(persons, places)
    inferred = np.full(sequences.num_actions, LOCAL, dtype=np.int8)
    if persons is not None:
        inferred[distance_km(at, places) > trip_km] = PRE_TRIP
    inferred[distance_km(at, _usual_points(sequences, index)) > trip_km] = IN_TRIP
    return inferred if stated is None else np.where(stated < 0, inferred, stated)


def single_mode_offsets(mode: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Cuts sequences where the mode changes.

    mode: (num_actions,) any integer dtype; offsets: (num_sequences + 1,) int64. Returns the offsets of the runs:
    int64, rising strictly, and holding every old offset, so no run crosses from one user to the next.
    """
    changes = np.flatnonzero(mode[1:] != mode[:-1]) + 1
    return np.unique(np.concatenate([offsets, changes.astype(np.int64)]))


def _usual_points(sequences: Sequences, index: Any) -> tuple[np.ndarray, np.ndarray]:
    """The most visited place of each action's person: latitude and longitude, float64 (num_actions,)."""
    visits = sequences.visits
    # The pairs lie sequence by sequence: of those with the most visits, the one that was visited first.
    most = np.zeros(len(sequences), dtype=np.int64)
    np.maximum.at(most, visits.sequence, visits.count)
    first = np.full(len(sequences), sequences.num_actions, dtype=np.int64)
    top = visits.count == most[visits.sequence]
    np.minimum.at(first, visits.sequence[top], visits.first[top])
    known = most > 0
    places = np.full(len(sequences), -1, dtype=np.int64)
    places[known] = sequences.columns["poi_row"][first[known]]
    latitude, longitude = index.coordinates(places)
    lengths = sequences.lengths
    return np.repeat(latitude, lengths), np.repeat(longitude, lengths)
