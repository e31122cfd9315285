"""Modes: far from the middle of the past, wherever on the globe that is."""

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
