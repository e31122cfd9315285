"""A small world that the tests of the model package share: places in two cities, an index, a tokenizer, histories."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from spacetime_gr import POIIndex, SpacetimeGRTokenizer

NUM_POIS = 120


def make_pois(seed: int = 0, num_pois: int = NUM_POIS) -> pa.Table:
    """Places in two clusters 60 km apart, with categories (some null) and popularity."""
    rng = np.random.default_rng(seed)
    center = rng.integers(0, 2, num_pois)
    categories = np.array(["bar", "museum", "park", None], dtype=object)[rng.integers(0, 4, num_pois)]
    places = {
        "poi_id": [f"p{i:04d}" for i in rng.permutation(num_pois)],
        "latitude": 40.7 + 0.54 * center + rng.normal(0, 0.02, num_pois),
        "longitude": -74.0 + rng.normal(0, 0.02, num_pois),
        "category": pa.array(categories.tolist(), pa.string()),
        "train_visits": rng.zipf(1.5, num_pois).clip(max=1000),
    }
    return pa.table(places | {"train_visitors": (places["train_visits"] + 1) // 2})


def make_histories(seed: int, lengths: list[int], num_pois: int = NUM_POIS) -> list[dict[str, Any]]:
    """Histories with rising times over weeks, returning often to few places."""
    rng = np.random.default_rng(seed)
    return [
        {
            "poi_row": rng.choice(rng.integers(0, num_pois, 12), length),
            "timestamp": 1_340_000_000 + np.cumsum(rng.integers(600, 200_000, length)),
            "tz_offset_minutes": -240,
            "action": rng.choice(np.array(["click", "navigate"], dtype=object), length),
            "user_hash": int(rng.integers(1, 1 << 40)),
        }
        for length in lengths
    ]


@pytest.fixture(autouse=True)
def subnormal_floats() -> Iterator[None]:
    """The commands flush subnormal floats to zero for speed; hypothesis needs them, so each test gives them back."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def pois() -> pa.Table:
    """The POI table of the small world."""
    return make_pois()


@pytest.fixture(scope="session")
def index(pois: pa.Table) -> POIIndex:
    """A quadtree index with small blocks."""
    return POIIndex.build(pois, max_pois_per_block=8)


@pytest.fixture(scope="session")
def tokenizer(index: POIIndex) -> SpacetimeGRTokenizer:
    """A tokenizer with two action types."""
    return SpacetimeGRTokenizer(index, ["click", "navigate"])
