"""Filters of recommend(): counts of blocks and answers against the exact scores of all places, filtered one by one."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.generation import filters
from spacetime_gr.generation.filters import Filters
from spacetime_gr.index.geometry import haversine_km
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

DAY = 86_400
WHERE = [(40.7, -74.0), (41.24, -74.0), (40.71, -74.01)]
SOUTH = [[(40.68, -74.02), (40.68, -73.99), (40.72, -73.99), (40.72, -74.02)]]
NORTH = {"type": "Polygon", "coordinates": [[[-74.02, 41.2], [-73.98, 41.2], [-74.0, 41.26], [-74.02, 41.2]]]}
NOWHERE = [[(0, 0), (0, 1), (1, 1)]]
FILTERS: list[dict[str, Any]] = [
    {},
    {"categories": ["bar", "park"]},
    {"within_km": 2.0},
    {"within": SOUTH},
    {"within": [SOUTH, NORTH, NOWHERE]},
    {"exclude_visited": True},
    {"min_novelty_days": 10},
    {"min_novelty_days": 10, "exclude_visited": True, "categories": ["bar"]},
    {"within": [SOUTH, NORTH, SOUTH], "within_km": 3.0, "categories": ["museum", "bar"], "min_novelty_days": 20.0},
]


@pytest.fixture(scope="module")
def world(tokenizer: SpacetimeGRTokenizer) -> tuple[SpacetimeGRForCausalLM, SpacetimeGRTokenizer]:
    """A model whose index has places that were added (some in blocks of their own) and places that were retired."""
    rng = np.random.default_rng(3)
    new = pa.table(
        {
            "poi_id": [f"n{number}" for number in range(20)],
            "latitude": 40.7 + rng.normal(0, 0.005, 20),
            "longitude": -74.0 + rng.normal(0, 0.005, 20),
            "category": ["bar"] * 20,
        }
    )
    grown = tokenizer.index.add(new)
    grown = grown.retire([*grown.poi_ids.take(np.arange(0, 120, 9)).to_pylist(), "n3"])
    tokenizer = SpacetimeGRTokenizer(grown, tokenizer.actions)
    return make_model(tokenizer), tokenizer


def expected(
    tokenizer: SpacetimeGRTokenizer, histories: list[dict], when: np.ndarray, options: dict[str, Any]
) -> np.ndarray:
    """Which places are allowed for whom, shape (histories, num_pois), by plain rules."""
    index = tokenizer.index
    rows = np.arange(index.num_pois)
    latitude, longitude = index.coordinates(rows)
    allowed = np.tile(~index.is_retired(rows), (len(histories), 1))
    if "categories" in options:
        names = np.array([*index.category_names, ""])
        allowed &= np.isin(names[index.categories(rows)], options["categories"])
    for number, (history, here) in enumerate(zip(histories, WHERE, strict=True)):
        if "within_km" in options:
            allowed[number] &= haversine_km(*here, latitude, longitude) <= options["within_km"]
        fence = options.get("within")
        if fence is not None and fence is not SOUTH:
            fence = fence[number]
        if fence is SOUTH:
            allowed[number] &= (latitude > 40.68) & (latitude < 40.72) & (longitude > -74.02) & (longitude < -73.99)
        elif fence is NORTH:
            width = 0.02 * (41.26 - latitude) / 0.06
            allowed[number] &= (latitude > 41.2) & (np.abs(longitude + 74.0) < width)
        elif fence is NOWHERE:
            allowed[number] = False
        days = np.inf if options.get("exclude_visited") else options.get("min_novelty_days")
        if days is not None:
            recent = when[number] - history["timestamp"] <= days * DAY
            allowed[number, history["poi_row"][recent]] = False
    return allowed


def requests(tokenizer: SpacetimeGRTokenizer) -> tuple[list[dict], np.ndarray]:
    """Three histories, one of them empty, and requests an hour after their last actions."""
    histories = make_histories(31, [25, 12, 0], tokenizer.index.num_pois)
    last = [history["timestamp"][-1] if len(history["timestamp"]) else 1_340_000_000 for history in histories]
    return histories, np.array(last) + 3600


@pytest.mark.parametrize("options", FILTERS)
def test_answers_are_the_exact_ranking_of_what_is_allowed(
    world: tuple[SpacetimeGRForCausalLM, SpacetimeGRTokenizer], options: dict[str, Any]
) -> None:
    model, tokenizer = world
    histories, when = requests(tokenizer)
    batch = tokenizer.encode_requests(
        *tokenizer.columns(histories), when=when, where=WHERE, tz_offset_minutes=[-240, -240, 0]
    )
    scores = model.score_pois(batch, tokenizer.index).numpy()
    allowed = expected(tokenizer, histories, when, options)
    for k, num_beams in ((200, 1), (7, 1000)):
        places = model.recommend(tokenizer, histories, when=when, where=WHERE, k=k, num_beams=num_beams, **options)
        for place, score, mask in zip(places, scores, allowed, strict=True):
            best = np.argsort(-np.where(mask, score, -np.inf), kind="stable")[: min(k, mask.sum())]
            np.testing.assert_allclose(place["log_prob"], score[best], atol=2e-4)
            assert set(place["poi_id"]) == set(tokenizer.index.poi_ids.take(best).to_pylist())
            assert place["coverage"] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("options", FILTERS)
def test_counts_of_blocks(
    world: tuple[SpacetimeGRForCausalLM, SpacetimeGRTokenizer], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tokenizer = world
    index = tokenizer.index
    histories, when = requests(tokenizer)
    defaults = dict.fromkeys(("categories", "within_km", "within", "min_novelty_days")) | {"exclude_visited": False}
    made = Filters(index, *tokenizer.columns(histories), when, np.array(WHERE), **(defaults | options))
    allowed = expected(tokenizer, histories, when, options)
    block, _ = index.encode(np.arange(index.num_pois), rows=True)
    counts = np.stack([np.bincount(block[mask], minlength=index.num_blocks) for mask in allowed])
    np.testing.assert_array_equal(made.counts(), counts)
    monkeypatch.setattr(filters, "PAIR_CHUNK", 1)
    np.testing.assert_array_equal(made.counts(), counts)
    for last in (None, 4):
        past = np.zeros(counts.shape, bool)
        for number, history in enumerate(histories):
            rows = history["poi_row"] if last is None else history["poi_row"][-last:]
            past[number, block[rows[allowed[number, rows]]]] = True
        np.testing.assert_array_equal(made.past_blocks(last), past)


def test_a_geofence_far_from_the_habitual_blocks_is_served(
    world: tuple[SpacetimeGRForCausalLM, SpacetimeGRTokenizer],
) -> None:
    """One beam: it goes to a block inside the fence, however improbable, and coverage is relative to such blocks."""
    model, tokenizer = world
    index = tokenizer.index
    near = np.flatnonzero(index.coordinates(np.arange(120))[0] < 41)
    history = {"poi_row": near[:10], "timestamp": 1_340_000_000 + DAY * np.arange(10)}
    when = int(history["timestamp"][-1]) + DAY
    (place,) = model.recommend(tokenizer, history, when=when, k=1, num_beams=1, within=NORTH)
    assert len(place["poi_id"]) == 1
    assert index.coordinates(index.rows(place["poi_id"]))[0] > 41.2
    assert 0 < place["coverage"] < 1
    (nothing,) = model.recommend(tokenizer, history, when=when, within=NOWHERE)
    assert nothing == {"poi_id": [], "log_prob": [], "coverage": 1.0}


def test_the_edge_of_novelty(world: tuple[SpacetimeGRForCausalLM, SpacetimeGRTokenizer]) -> None:
    """A visit exactly m days ago is within the last m days, one a second earlier is not."""
    model, tokenizer = world
    history = {"poi_row": [1, 2, 3], "timestamp": [1_340_000_000 + seconds for seconds in (0, 1, 50)]}
    (place,) = model.recommend(tokenizer, history, when=1_340_000_001 + DAY, k=200, num_beams=1000, min_novelty_days=1)
    assert set(tokenizer.index.rows(place["poi_id"])) & {1, 2, 3} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"within_km": 0.0, "where": (40.7, -74.0)}, "within_km is 0.0"),
        ({"within_km": 1.0, "where": (np.nan, np.nan)}, "within_km needs where"),
        ({"min_novelty_days": 0}, "min_novelty_days is 0"),
        ({"min_novelty_days": np.nan}, "min_novelty_days is nan"),
        ({"within": [[SOUTH], [SOUTH]]}, "within is"),
        ({"within": [SOUTH, NORTH]}, "within has 2 polygons for 1 histories"),
    ],
)
def test_what_is_refused(
    world: tuple[SpacetimeGRForCausalLM, SpacetimeGRTokenizer], options: dict[str, Any], message: str
) -> None:
    model, tokenizer = world
    with pytest.raises(ValueError, match=message):
        model.recommend(tokenizer, make_histories(32, [3]), when=1_360_000_000, **options)
