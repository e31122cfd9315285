"""Blocks summed over the tiles above them: the sums, both sides of the model, and growth."""

import numpy as np
import pytest
import torch

from spacetime_gr import POIIndex, SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from tests.spacetime_gr.conftest import make_histories, make_pois
from tests.spacetime_gr.test_modeling_spacetime_gr import batch_of, make_model


def test_sums_run_over_all_tiles_above(tokenizer: SpacetimeGRTokenizer) -> None:
    ancestors = make_model(tokenizer, block_ancestors=True).model.ancestors
    with torch.no_grad():
        sums = ancestors()
    for tile in range(len(ancestors.above)):
        expected, at = torch.zeros(sums.shape[1]), tile
        while at:
            expected, at = expected + ancestors.tile.weight[at], int(ancestors.above[at])
        torch.testing.assert_close(sums[tile], expected)


def test_tiles_equal_blocks_with_the_sum_in_their_own_embedding(tokenizer: SpacetimeGRTokenizer) -> None:
    """A model with tiles gives what one without gives whose block embeddings hold the sums."""
    model = make_model(tokenizer, block_ancestors=True).double()
    plain = make_model(tokenizer).double()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "ancestors" not in name})
    vocabulary = model.config.vocabulary
    batch = batch_of(tokenizer, 3, [12, 7])
    with torch.no_grad():
        blocks = slice(vocabulary.block_start, vocabulary.inner_start)
        plain.get_input_embeddings().weight[blocks] += model.model.ancestors.of_all_blocks(model.model.tile_sums())
        found, expected = (one(**batch | {"labels": None}).logits for one in (model, plain))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    assert not torch.equal(found, make_model(tokenizer).double()(**batch | {"labels": None}).logits)


def test_a_new_model_starts_as_one_without_tiles(tokenizer: SpacetimeGRTokenizer) -> None:
    weights = []
    for options in ({}, {"block_ancestors": True, "use_fine_position": True}):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = SpacetimeGRForCausalLM(SpacetimeGRConfig(**tokenizer.config_kwargs(), **sizes, **options))
        model.load_places(tokenizer.index)
        weights.append(model.state_dict())
    first, second = weights
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(second[name].any() for name in second.keys() - first.keys() if second[name].is_floating_point())


def test_sums_are_taken_once_a_step(tokenizer: SpacetimeGRTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """For body and heads together, and for all candidates of a request, however many steps these take."""
    model = make_model(tokenizer, block_ancestors=True)
    taken = []
    model.model.ancestors.register_forward_hook(lambda *_: taken.append(1))
    monkeypatch.setattr("spacetime_gr.generation.recommend.CANDIDATE_CHUNK", 2)
    batch, history = batch_of(tokenizer, 3, [5, 2]), make_histories(4, [6])[0]
    prompt = {name: values for name, values in batch.items() if name != "labels"}
    index, when = tokenizer.index, int(history["timestamp"][-1]) + 3600
    request = tokenizer.encode_requests(*tokenizer.columns([history]), when=when)
    for call, expected in (
        (lambda: model(**batch), 1),
        (lambda: model(**prompt), 1),
        (lambda: model.generate(**prompt, max_new_tokens=4, do_sample=False), 4),
        (lambda: model.recommend(tokenizer, [history], when=when, num_beams=5), 1),
        (lambda: model.score_pois(request, index), 1),
    ):
        taken.clear()
        call()
        assert len(taken) == expected


def test_growth_gives_a_new_block_the_tiles_of_its_origin() -> None:
    index = POIIndex.build(make_pois(), max_pois_per_block=8, spare_blocks=1.0)
    tokenizer = SpacetimeGRTokenizer(index, ["click", "navigate"])
    model = make_model(tokenizer, block_ancestors=True)
    new = make_pois(1, 40)
    new = new.set_column(new.column_names.index("poi_id"), "poi_id", [[f"n{i}" for i in range(40)]])
    grown = index.add(new)
    assert grown.num_blocks > index.num_blocks
    model.grow(SpacetimeGRTokenizer(grown, tokenizer.actions))
    of_block = model.model.ancestors.of_block
    fresh = np.arange(index.num_blocks, grown.num_blocks)
    assert torch.equal(of_block[fresh], of_block[grown.blocks.parents[fresh].astype(np.int64)])
    assert of_block[fresh].any()


def test_a_grid_is_refused_by_name() -> None:
    tokenizer = SpacetimeGRTokenizer(POIIndex.build(make_pois(), scheme="grid"), ["click"])
    with pytest.raises(ValueError, match="block_ancestors is true, but num_ancestors is 0"):
        SpacetimeGRConfig(**tokenizer.config_kwargs(), block_ancestors=True)
