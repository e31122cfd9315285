"""recommend() and score_pois() against one-by-one evaluation, and every filter."""

import numpy as np
import pytest
import torch

from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.generation import recommend as recommending
from spacetime_gr.index.geometry import haversine_km
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

WHEN = 1_360_000_000
LENGTHS = [9, 3, 0]


@pytest.fixture(scope="module")
def model(tokenizer: SpacetimeGRTokenizer) -> SpacetimeGRForCausalLM:
    """A model with the return-explore head."""
    return make_model(tokenizer)


def exact_scores(model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer, histories: list[dict]) -> torch.Tensor:
    """Scores of all places for the histories' requests."""
    requests = tokenizer.encode_requests(*tokenizer.columns(histories), when=WHEN, tz_offset_minutes=-240)
    return model.score_pois(requests, tokenizer.index)


def test_scores_are_a_distribution_and_equal_one_by_one_evaluation(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer
) -> None:
    """log p(block) + log p(inner | block) from two plain forward passes, one place at a time."""
    histories = make_histories(20, LENGTHS)
    scores = exact_scores(model, tokenizer, histories)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)
    for number, history in enumerate(histories):
        request = tokenizer.encode_requests(*tokenizer.columns([history]), when=WHEN, tz_offset_minutes=-240)
        request.pop("labels")
        for row in (0, 7, 50, 119):
            tokens = {name: torch.cat([values, torch.zeros_like(values[:, :1])], 1) for name, values in request.items()}
            pair = tokenizer.index.encode([row], rows=True)
            block, inner = (int(ids[0]) for ids in pair)
            block, inner = block + tokenizer.vocabulary.block_start, inner + tokenizer.vocabulary.inner_start
            tokens["input_ids"][:, -1] = block
            tokens["position_ids"][:, -1] = tokens["position_ids"][:, -2] + 1
            tokens["attention_mask"][:, -1] = 1
            tokens["local_time"][:, -1] = tokens["local_time"][:, -2]
            with torch.no_grad():
                logits = model(**tokens, logits_to_keep=2).logits[0]
            expected = float(logits[0, block] + logits[1, inner])
            assert float(scores[number, row]) == pytest.approx(expected, abs=2e-4)


def test_recommend_with_all_beams_is_the_exact_ranking(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer
) -> None:
    histories = make_histories(21, LENGTHS)
    scores = exact_scores(model, tokenizer, histories).sort(dim=1, descending=True)
    places = model.recommend(tokenizer, histories, when=WHEN, tz_offset_minutes=-240, k=15, num_beams=10_000)
    for number, place in enumerate(places):
        np.testing.assert_allclose(place["log_prob"], scores.values[number, :15].numpy(), atol=2e-4)
        assert place["poi_id"] == tokenizer.index.poi_ids.take(scores.indices[number, :15].numpy()).to_pylist()
        assert place["coverage"] == pytest.approx(1.0, abs=1e-4)


def test_fewer_beams_report_less_coverage(model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer) -> None:
    histories = make_histories(22, LENGTHS)
    few, more = (
        model.recommend(tokenizer, histories, when=WHEN, k=1, num_beams=beams, exclude_visited=True) for beams in (1, 4)
    )
    assert all(0 < one["coverage"] < two["coverage"] < 1 for one, two in zip(few, more, strict=True))


def test_filters_hold(model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer) -> None:
    index = tokenizer.index
    histories = make_histories(23, [9, 5])
    where = [(40.7, -74.0), (41.24, -74.0)]
    places = model.recommend(
        tokenizer, histories, when=WHEN, where=where, k=200, num_beams=1000, categories=["bar", "park"], within_km=3.0,
        exclude_visited=True,
    )  # fmt: skip
    for place, history, (latitude, longitude) in zip(places, histories, where, strict=True):
        rows = index.rows(place["poi_id"])
        assert {index.category_names[c] for c in index.categories(rows)} <= {"bar", "park"}
        assert (haversine_km(latitude, longitude, *index.coordinates(rows)) <= 3.0).all()
        assert not set(rows.tolist()) & set(history["poi_row"].tolist())
        assert place["log_prob"] == sorted(place["log_prob"], reverse=True)
        every = np.arange(index.num_pois)
        allowed = np.isin(index.categories(every), [index.category_names.index(name) for name in ("bar", "park")])
        allowed &= haversine_km(latitude, longitude, *index.coordinates(every)) <= 3.0
        allowed[history["poi_row"]] = False
        assert len(rows) == allowed.sum() > 0


def test_fewer_than_k_come_back_only_when_fewer_exist(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer
) -> None:
    """Blocks hold at most eight places: one beam is not enough for k, all of them are."""
    histories = make_histories(28, LENGTHS)
    for k in (20, 120, 150):
        places = model.recommend(tokenizer, histories, when=WHEN, k=k, num_beams=1)
        assert [len(place["poi_id"]) for place in places] == [min(k, 120)] * 3


def test_exact_over_the_history_and_the_opened_blocks(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer
) -> None:
    """One beam: the answer is the ranking of the places in the best block (the best that hold k) and in all blocks of
    the history."""
    histories = make_histories(29, [40, 6])
    scores = exact_scores(model, tokenizer, histories)
    block, _ = tokenizer.index.encode(np.arange(120), rows=True)
    sizes = np.bincount(block)
    mass = np.stack([np.bincount(block, row) for row in scores.exp().numpy()])
    places = model.recommend(tokenizer, histories, when=WHEN, tz_offset_minutes=-240, k=4, num_beams=1)
    for place, history, score, blocks in zip(places, histories, scores.numpy(), mass, strict=True):
        order = np.argsort(-blocks)
        best_blocks = order[np.cumsum(sizes[order]) - sizes[order] < 4]
        opened = {*best_blocks.tolist(), *block[history["poi_row"]].tolist()}
        best = np.argsort(-np.where(np.isin(block, list(opened)), score, -np.inf))[:4]
        np.testing.assert_allclose(place["log_prob"], score[best], atol=2e-4)
        assert place["coverage"] == pytest.approx(blocks[list(opened)].sum(), abs=1e-4)


def test_an_answer_does_not_depend_on_the_other_histories(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer
) -> None:
    histories = make_histories(30, [40, 6, 0])
    together = model.recommend(tokenizer, histories, when=WHEN, num_beams=2, k=12)
    for history, place in zip(histories, together, strict=True):
        (alone,) = model.recommend(tokenizer, [history], when=WHEN, num_beams=2, k=12)
        assert alone["poi_id"] == place["poi_id"]
        np.testing.assert_allclose(alone["log_prob"], place["log_prob"], atol=2e-4)
        assert alone["coverage"] == pytest.approx(place["coverage"], abs=1e-4)


def test_one_prefill_and_candidates_in_bounded_steps(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History, request, then all beams at once; in parts where they are many, with the same answer."""
    histories = make_histories(33, LENGTHS)
    widths: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        whole = model.recommend(tokenizer, histories, when=WHEN, k=30, num_beams=1000)
        assert widths == [36, 1, tokenizer.index.num_blocks]
        widths.clear()
        monkeypatch.setattr(recommending, "CANDIDATE_CHUNK", 3)
        parts = model.recommend(tokenizer, histories, when=WHEN, k=30, num_beams=1000)
        assert max(widths[1:]) == 3
    finally:
        hook.remove()
    for one, other in zip(whole, parts, strict=True):
        assert one["poi_id"] == other["poi_id"]
        np.testing.assert_allclose(one["log_prob"], other["log_prob"], atol=2e-5)


@pytest.mark.parametrize("chunk", [256, 4])
def test_ties_fall_by_block_then_inner_id(
    tokenizer: SpacetimeGRTokenizer, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any weights, popularity's too, all blocks are equal, and all places of a block."""
    monkeypatch.setattr(recommending, "CANDIDATE_CHUNK", chunk)
    model = make_model(tokenizer, return_explore=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.inner_scores.prior.bias.fill_(-1.0)
    index = tokenizer.index
    for beams in (3, 1000):
        places = model.recommend(tokenizer, make_histories(34, LENGTHS), when=WHEN, k=12, num_beams=beams)
        opened = np.arange(min(beams, index.num_blocks))
        block, inner = np.nonzero(np.arange(index.num_inner) < index.block_sizes[opened, None])
        order = np.lexsort((inner, block, index.block_sizes[opened][block]))  # a small block's places share its mass
        expected = index.decode(block[order], inner[order])[:12].tolist()
        assert all(place["poi_id"] == expected for place in places)


def test_the_knob_moves_from_returning_to_exploring(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer
) -> None:
    histories = make_histories(24, [30])
    requests = tokenizer.encode_requests(*tokenizer.columns(histories), when=WHEN)
    visited = np.unique(histories[0]["poi_row"])
    mass = [
        float(model.score_pois(requests, tokenizer.index, explore_odds=odds)[0].exp()[visited].sum())
        for odds in (0.05, 1.0, 20.0)
    ]
    assert mass[0] > mass[1] > mass[2]


def test_bad_requests_are_refused(model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer) -> None:
    history = make_histories(25, [3])
    with pytest.raises(ValueError, match="unknown categories"):
        model.recommend(tokenizer, history, when=WHEN, categories=["volcano"])
    with pytest.raises(ValueError, match="within_km needs where"):
        model.recommend(tokenizer, history, when=WHEN, within_km=1.0)
    with pytest.raises(ValueError, match="must be positive"):
        model.recommend(tokenizer, history, when=WHEN, k=0)
    with pytest.raises(ValueError, match=r"within -90\.\.90"):
        model.recommend(tokenizer, history, when=WHEN, where=(95.0, 3.0))


def test_a_history_beyond_its_request_is_refused(
    model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer
) -> None:
    histories = make_histories(27, [3, 0, 4])
    last = [int(history["timestamp"][-1]) if len(history["timestamp"]) else WHEN for history in histories]
    model.recommend(tokenizer, histories, when=last)
    with pytest.raises(ValueError, match="history 2: 1 actions lie after the request at"):
        model.recommend(tokenizer, histories, when=[*last[:2], last[2] - 1])


def test_a_model_without_its_places_is_refused(tokenizer: SpacetimeGRTokenizer) -> None:
    config = SpacetimeGRConfig(**tokenizer.config_kwargs(), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match="load_places"):
        SpacetimeGRForCausalLM(config).recommend(tokenizer, make_histories(26, [3]), when=WHEN)
