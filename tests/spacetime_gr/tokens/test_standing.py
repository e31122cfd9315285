"""Modes: far from the middle of the past, wherever on the globe that is; distances from the last place."""

import numpy as np
import pyarrow as pa

from spacetime_gr import POIIndex, SpacetimeGRTokenizer


def test_the_antimeridian_is_no_border() -> None:
    """Places on both sides of it are near each other; the arithmetic mean of their longitudes lies half a world off."""
    pois = pa.table(
        {"poi_id": ["west", "east", "far"], "latitude": [-17.0, -17.0, -17.0], "longitude": [179.9, -179.9, 178.0]}
    )
    tokenizer = SpacetimeGRTokenizer(POIIndex.build(pois), ["visit"])
    history = {"poi_id": ["west", "east", "west", "east", "far", "far"], "timestamp": np.arange(6)}
    modes = [action["mode"] for action in tokenizer.decode(tokenizer(history)["input_ids"])]
    assert modes == ["local"] * 5 + ["in_trip"]


def test_unknown_places_say_nothing(tokenizer: SpacetimeGRTokenizer) -> None:
    history = {"poi_row": [-1, -1, 3, -1], "timestamp": np.arange(4)}
    assert [action["mode"] for action in tokenizer.decode(tokenizer(history)["input_ids"])] == ["local"] * 4


def test_distance_runs_from_the_last_place_to_the_person(tokenizer: SpacetimeGRTokenizer) -> None:
    """Buckets rise with the distance; nothing is known without a place before, or without the person's coordinates."""
    latitude, longitude = (float(degrees[0]) for degrees in tokenizer.index.coordinates([5]))
    north = np.array([0.0, 0.01, 0.049, 0.06, 5.0, 900.0, 15_000.0])  # km, from the place before
    history = {
        "poi_row": [5] * 7 + [-1, 5, 5],
        "timestamp": np.arange(10),
        "user_latitude": [latitude, *(latitude + north[1:] / 111.195).clip(max=90.0), latitude, latitude, np.nan],
        "user_longitude": longitude,
    }
    distance = np.array(tokenizer(history)["distance"]).reshape(-1, 4)
    assert not distance[:, 1:].any()
    u = distance[:, 0]
    assert u[[0, 8, 9]].tolist() == [0, 0, 0]  # no place before, an unknown one, no coordinates
    assert u[[1, 2, 3, 7]].tolist() == [1, 1, 2, 1]
    assert u[3] < u[4] < u[5] < u[6] <= 20
    del history["user_latitude"], history["user_longitude"]
    assert not np.array(tokenizer(history)["distance"]).any()


def test_a_request_has_the_distance_that_training_has(tokenizer: SpacetimeGRTokenizer) -> None:
    columns, offsets = tokenizer.columns([{"poi_row": [5, 9], "timestamp": [0, 9]}])
    request = tokenizer.encode_requests(columns, offsets, when=20, where=[(40.9, -74.0)])
    whole = tokenizer([{"poi_row": [5, 9, 1], "timestamp": [0, 9, 20], "user_latitude": [np.nan, np.nan, 40.9],
                        "user_longitude": [np.nan, np.nan, -74.0]}], return_tensors="pt")  # fmt: skip
    assert request["distance"][0, -1] == whole["distance"][0, 8] > 0
