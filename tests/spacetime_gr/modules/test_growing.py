"""A model that grows with its index: what was learnt stays, what is new can be reached, what is none gets nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from spacetime_gr import POIIndex, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from tests.spacetime_gr.conftest import make_histories, make_pois
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

WHEN = 1_360_000_000
OPTIONS: list[dict[str, Any]] = [
    {},
    {"return_explore": False},
    {"tie_word_embeddings": False, "return_explore": False},
    {"inner_head": "tied", "spatial_features": 0},
]


def new_pois(index: POIIndex) -> pa.Table:
    """Places for spare inner ids, for child blocks of a block that is full, and for an empty part of the map."""
    spare = int(np.argmin(index.block_sizes))
    full = int(np.argmax(index.block_sizes))
    assert index.block_sizes[spare] + 1 < index.num_inner
    assert index.block_sizes[full] == index.num_inner
    rows = index.decode_rows([spare, full, full], [0, 0, 1])
    latitude, longitude = (np.append(axis, [20.0, 20.001]) for axis in index.coordinates(rows))
    return pa.table(
        {
            "poi_id": ["n-spare", "n-child-1", "n-child-2", "n-far-1", "n-far-2"],
            "latitude": latitude + 1e-6,
            "longitude": longitude,
            "category": ["volcano", "bar", None, "volcano", "park"],
            "train_visits": [3, 2, 1, 0, 5],
        }
    )


def grown_tokenizer(tokenizer: SpacetimeGRTokenizer) -> SpacetimeGRTokenizer:
    """The tokenizer of the small world with new places."""
    return SpacetimeGRTokenizer(tokenizer.index.add(new_pois(tokenizer.index)), tokenizer.actions)


@pytest.fixture(scope="module")
def tokenizer() -> SpacetimeGRTokenizer:
    """As the shared one, with more spare blocks and with spare inner ids that no place has."""
    return SpacetimeGRTokenizer(
        POIIndex.build(make_pois(), max_pois_per_block=8, spare_blocks=0.5), ["click", "navigate"]
    )


@pytest.fixture(scope="module")
def grown(tokenizer: SpacetimeGRTokenizer) -> SpacetimeGRTokenizer:
    """The tokenizer with new places."""
    return grown_tokenizer(tokenizer)


def scores_of(model: SpacetimeGRForCausalLM, tokenizer: SpacetimeGRTokenizer, histories: list[dict]) -> torch.Tensor:
    """Log-probabilities of all places for the histories' requests, in double precision."""
    requests = tokenizer.encode_requests(*tokenizer.columns(histories), when=WHEN, tz_offset_minutes=-240)
    return model.score_pois(requests, tokenizer.index)


def test_new_places_came_as_meant(tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer) -> None:
    before, after = tokenizer.index, grown.index
    blocks, inners = after.encode(["n-spare", "n-child-1", "n-far-1"])
    assert blocks[0] < before.num_blocks <= min(blocks[1:])
    assert inners[0] == before.block_sizes[blocks[0]]
    assert after.num_blocks < after.block_capacity == before.block_capacity
    assert after.category_names == [*before.category_names, "volcano"]


@pytest.mark.parametrize("options", OPTIONS)
def test_old_tokens_keep_their_rows_and_new_ones_descend(
    tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer, options: dict
) -> None:
    model = make_model(tokenizer, **options)
    state = {name: values.clone() for name, values in model.state_dict().items()}
    model.grow(grown)
    start = tokenizer.vocabulary.block_start
    fresh = np.arange(tokenizer.index.num_blocks, grown.index.num_blocks)
    parents = grown.index.blocks.parents[fresh]
    for layer, name in (
        (model.get_input_embeddings(), "model.decoder.embed_tokens.weight"),
        (model.get_output_embeddings(), "lm_head.weight"),
    ):
        old = state[name]
        assert torch.equal(layer.weight[start + fresh], old[start + parents])
        others = np.delete(np.arange(len(old)), start + fresh)
        assert torch.equal(layer.weight[others], old[others])
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == (
        options.get("tie_word_embeddings", True)
    )
    category = model.model.side.category.weight
    assert torch.equal(category[:-1], state["model.side.category.weight"])
    torch.testing.assert_close(category[-1], state["model.side.category.weight"][1:].mean(0))
    assert torch.equal(model.places.longest_km, state["places.longest_km"])
    assert torch.equal(model.places.block_centers[: fresh[0]], state["places.block_centers"][: fresh[0]])


def test_an_inner_id_that_nobody_had_starts_from_the_mean() -> None:
    pois = make_pois()
    index = POIIndex.build(pois, max_pois_per_block=200)  # two cities fit one block or a few: ids stay spare
    tokenizer = SpacetimeGRTokenizer(index, ["click"])
    model = make_model(tokenizer)
    used, block = int(index.block_sizes.max()), int(index.block_sizes.argmax())
    assert used < index.num_inner
    latitude, longitude = index.coordinates(index.decode_rows([block], [0]))
    near = pa.table({"poi_id": ["n1", "n2"], "latitude": latitude.repeat(2), "longitude": longitude.repeat(2)})
    old = model.get_input_embeddings().weight.detach().clone()
    model.grow(SpacetimeGRTokenizer(index.add(near), ["click"]))
    start = tokenizer.vocabulary.inner_start
    weight = model.get_input_embeddings().weight
    mean = old[start : start + used].mean(0)
    torch.testing.assert_close(weight[start + used : start + used + 2], torch.stack([mean, mean]))
    others = np.delete(np.arange(len(old)), start + used + np.arange(2))
    assert torch.equal(weight[others], old[others])


@pytest.mark.parametrize("options", OPTIONS)
def test_old_places_keep_their_order(
    tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer, options: dict
) -> None:
    """No old place gains; and where the softmax stands alone, without the pointer, none overtakes another.

    (Over the blocks that got no place: a block that did shares its probability among more.)
    """
    model = make_model(tokenizer, **options).double()
    histories = make_histories(3, [9, 4, 0])
    before = scores_of(model, tokenizer, histories)
    model.grow(grown)
    model.double()
    after = scores_of(model, grown, histories)
    assert after.shape == (3, tokenizer.index.num_pois + 5)
    torch.testing.assert_close(after.exp().sum(1), torch.ones(3, dtype=torch.double), atol=1e-9, rtol=0)
    after = after[:, : tokenizer.index.num_pois]
    blocks, _ = tokenizer.index.encode(np.arange(tokenizer.index.num_pois), rows=True)
    assert (after <= before + 1e-9).all()
    if options.get("return_explore") is False:
        gained = np.flatnonzero(grown.index.block_sizes[: tokenizer.index.num_blocks] != tokenizer.index.block_sizes)
        assert len(gained) == 1
        for rows in (np.flatnonzero(blocks != gained[0]), np.flatnonzero(blocks == gained[0])):
            shift = (after - before)[:, rows]
            torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), atol=1e-9, rtol=0)


def test_new_places_can_be_recommended_and_retired_ones_never(
    tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer
) -> None:
    model = make_model(tokenizer)
    history = make_histories(5, [12])[0]
    visited = tokenizer.index.ids(np.unique(history["poi_row"]))
    closed = [*visited[:2], "n-far-1"]
    after = SpacetimeGRTokenizer(grown.index.retire(closed), grown.actions)
    model.grow(after)
    everything = {"k": 1000, "num_beams": after.index.block_capacity}
    places = model.recommend(after, [history], when=WHEN, **everything)[0]
    assert len(places["poi_id"]) == len(set(places["poi_id"])) == after.index.num_pois - 3
    assert {"n-spare", "n-child-1", "n-child-2", "n-far-2"} <= set(places["poi_id"])
    assert not set(closed) & set(places["poi_id"])
    assert None not in places["poi_id"]
    # Retired places are masked after scoring: over all places, these too, the probabilities sum to one.
    scores = scores_of(model, after, [history])
    assert float(scores.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    lost = float(scores[0, after.index.rows(closed)].exp().sum())
    assert float(np.exp(places["log_prob"]).sum()) == pytest.approx(1.0 - lost, abs=2e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_spare_blocks_get_nothing_and_the_loss_is_the_masked_softmax(
    tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer, options: dict
) -> None:
    """After growth as before: the typed loss equals the one read off the flat, masked log-probabilities."""
    model = make_model(tokenizer, **options)
    model.grow(grown)
    model.double()
    new = {"poi_id": ["n-far-1", "n-child-1", "n-spare", "n-far-1", "n-child-2"], "timestamp": np.arange(5) * 5000}
    batch = dict(grown([*make_histories(6, [9, 5]), new], return_tensors="pt"))
    labels = batch["labels"]
    with torch.no_grad():
        loss = model(**batch).loss.item()
        logits = model(**{name: values for name, values in batch.items() if name != "labels"}).logits
    supervised = labels[:, 1:] != -100
    log_probs = logits[:, :-1].gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)[supervised]
    assert loss == pytest.approx(-log_probs.mean().item(), rel=1e-10)
    assert log_probs.min() > -1e3
    start = grown.vocabulary.block_start
    spare = logits[..., start + grown.index.num_blocks : grown.vocabulary.inner_start].exp()
    assert spare.numel() > 0
    assert spare.sum() == 0.0
    request = grown.encode_requests(*grown.columns([new]), when=WHEN)
    request.pop("labels")
    with torch.no_grad():
        row = model(**request, logits_to_keep=1).logits[0, -1]
    assert row[start : start + grown.index.num_blocks].exp().sum().item() == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[2]])
def test_a_grown_model_survives_a_round_trip(
    tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer, options: dict, tmp_path: Path
) -> None:
    model = make_model(tokenizer, **options)
    model.grow(grown)
    model.save_pretrained(tmp_path)
    grown.save_pretrained(tmp_path)
    again = SpacetimeGRForCausalLM.from_pretrained(tmp_path).eval()
    its_tokenizer = SpacetimeGRTokenizer.from_pretrained(tmp_path)
    histories = make_histories(7, [6, 3])
    state = again.state_dict()
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())
    one, two = model.recommend(grown, histories, when=WHEN), again.recommend(its_tokenizer, histories, when=WHEN)
    assert [place["poi_id"] for place in one] == [place["poi_id"] for place in two]
    # and it goes on growing: a second time, from what was loaded
    more = pa.table({"poi_id": ["m1"], "latitude": [-30.0], "longitude": [10.0], "category": ["observatory"]})
    twice = SpacetimeGRTokenizer(its_tokenizer.index.add(more), grown.actions)
    again.grow(twice)
    assert again.config.num_categories == len(twice.index.category_names)
    places = again.recommend(twice, histories, when=WHEN, k=1000, num_beams=1000)
    assert all("m1" in one["poi_id"] for one in places)


def test_two_growths_at_once_follow_the_parents(tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer) -> None:
    """A block whose parent the model does not know either descends from the nearest one that it knows."""
    far = pa.table(
        {
            "poi_id": [f"far{i}" for i in range(9)],
            "latitude": np.linspace(20.0, 20.001, 9),
            "longitude": np.tile(grown.index.coordinates(grown.index.rows(["n-far-1"]))[1], 9),
        }
    )
    twice = SpacetimeGRTokenizer(grown.index.add(far), grown.actions)
    blocks, _ = twice.index.encode(far["poi_id"])
    parents = twice.index.blocks.parents[blocks]
    assert (parents >= tokenizer.index.num_blocks).any()
    model = make_model(tokenizer)
    model.grow(twice)
    weight, start = model.get_input_embeddings().weight, twice.vocabulary.block_start
    known = weight[start : start + tokenizer.index.num_blocks]
    for block in blocks:
        assert (known == weight[start + int(block)]).all(1).any()


def test_another_index_is_refused_and_changes_nothing(
    tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer
) -> None:
    model = make_model(tokenizer)
    state = {name: values.clone() for name, values in model.state_dict().items()}
    shuffled = make_pois().set_column(4, "train_visits", pa.array(1000 + np.random.default_rng(1).permutation(120)))
    other = POIIndex.build(shuffled, max_pois_per_block=8, spare_blocks=0.5)
    for wrong, message in (
        (SpacetimeGRTokenizer(tokenizer.index, ["click"]), "keeps its sizes"),
        (SpacetimeGRTokenizer(POIIndex.build(make_pois(), max_pois_per_block=16), tokenizer.actions), "keeps its"),
        (SpacetimeGRTokenizer(other, tokenizer.actions), "did not grow out of"),
        (SpacetimeGRTokenizer(other.add(new_pois(other)), tokenizer.actions), "did not grow out of"),
    ):
        with pytest.raises(ValueError, match=message):
            model.grow(wrong)
    assert all(torch.equal(values, state[name]) for name, values in model.state_dict().items())
    model.grow(grown)
    with pytest.raises(ValueError, match="did not grow out of"):
        model.grow(tokenizer)  # the other way round: places would be lost


def test_a_tokenizer_that_is_not_the_models_is_refused(
    tokenizer: SpacetimeGRTokenizer, grown: SpacetimeGRTokenizer
) -> None:
    model = make_model(tokenizer)
    history = make_histories(8, [3])
    with pytest.raises(ValueError, match=r"model\.grow\(tokenizer\)"):
        model.recommend(grown, history, when=WHEN)
    latitude = make_pois()["latitude"].to_numpy()
    moved = make_pois().set_column(1, "latitude", pa.array(np.where(latitude > 41.0, latitude - 0.5, latitude)))
    index = POIIndex.build(moved, max_pois_per_block=8, spare_blocks=0.5)
    spare = tokenizer.index.block_capacity - index.num_blocks
    assert spare >= 0
    same_sizes = SpacetimeGRTokenizer(
        POIIndex.build(moved, max_pois_per_block=8, spare_blocks=spare / index.num_blocks), tokenizer.actions
    )
    assert same_sizes.vocabulary == tokenizer.vocabulary
    with pytest.raises(ValueError, match="not the model's"):
        model.recommend(same_sizes, history, when=WHEN)
    requests = tokenizer.encode_requests(*tokenizer.columns(history), when=WHEN)
    with pytest.raises(ValueError, match="not the model's"):
        model.score_pois(requests, same_sizes.index)
