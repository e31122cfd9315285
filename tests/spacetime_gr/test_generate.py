"""`generate()` and the cache: one gives the same with and without the other, and real places only."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.generation.side_inputs import SIDE_INPUTS, with_generated
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import batch_of, make_model, pack

WHEN = 1_360_000_000


def requests(tokenizer: SpacetimeGRTokenizer, seed: int, lengths: list[int], **options: Any) -> dict[str, torch.Tensor]:
    """Left-padded histories that end with the u token of a request."""
    batch = tokenizer.encode_requests(*tokenizer.columns(make_histories(seed, lengths)), when=WHEN, **options)
    return {name: values for name, values in batch.items() if name != "labels"}


def cut(batch: dict[str, torch.Tensor], start: int, stop: int) -> dict[str, torch.Tensor]:
    """Some columns of a batch, with an attention mask from the first column on."""
    return {name: values[:, (0 if name == "attention_mask" else start) : stop] for name, values in batch.items()}


def in_steps(model: SpacetimeGRForCausalLM, batch: dict[str, torch.Tensor], edges: list[int]) -> torch.Tensor:
    """Logits of a batch that is read piece by piece through a cache."""
    cache, pieces = DynamicCache(), []
    for start, stop in pairwise(edges):
        output = model(**cut(batch, start, stop), past_key_values=cache)
        pieces.append(output.logits)
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("options", [{}, {"return_explore": False}, {"attn_implementation": "eager"}])
@torch.no_grad()
def test_cache_equals_no_cache(tokenizer: SpacetimeGRTokenizer, options: dict[str, Any]) -> None:
    """Rows of several lengths, left-padded, read at once or in pieces of any size."""
    model = make_model(tokenizer, **options).double()
    batch = requests(tokenizer, 40, [9, 0, 5])
    real = batch["attention_mask"].bool()
    expected = model(**batch, use_cache=False).logits[real]
    for edges in ([0, 20, 21, 22, 30, 37], [0, 1, 2, 37], [0, 36, 37]):
        torch.testing.assert_close(in_steps(model, batch, edges)[real], expected, rtol=1e-10, atol=1e-10)
    del batch["position_ids"]  # derived from the mask
    torch.testing.assert_close(in_steps(model, batch, [0, 22, 37])[real], expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_cache_keeps_packed_users_apart(tokenizer: SpacetimeGRTokenizer) -> None:
    """The cut lies inside the second user and inside the third."""
    model = make_model(tokenizer).double()
    row = pack([batch_of(tokenizer, seed, [length]) for seed, length in ((41, 7), (42, 6), (43, 5))])
    row.pop("labels")
    expected = model(**row).logits
    torch.testing.assert_close(in_steps(model, row, [0, 37, 60, 72]), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_cropped_cache_forgets(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer).double()
    batch = requests(tokenizer, 44, [6, 6])
    cache = model(**cut(batch, 0, 24)).past_key_values
    other = requests(tokenizer, 45, [6, 6])
    other = cut(other, 20, 25) | {"attention_mask": torch.ones(2, 29, dtype=torch.long)}
    model(**other | {"position_ids": other["position_ids"] + 4}, past_key_values=cache)
    cache.crop(-5)
    logits = model(**cut(batch, 24, 25), past_key_values=cache).logits
    torch.testing.assert_close(logits, model(**batch, logits_to_keep=1).logits, rtol=1e-10, atol=1e-10)


def test_a_cache_without_tokens_and_labels_with_a_cache_are_refused(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer)
    batch = batch_of(tokenizer, 46, [3])
    body = model.model(input_ids=batch["input_ids"], use_cache=True)
    with pytest.raises(ValueError, match="a cache that SpacetimeGRForCausalLM filled"):
        model(input_ids=batch["input_ids"], past_key_values=body.past_key_values)
    cache = model(input_ids=batch["input_ids"]).past_key_values
    with pytest.raises(ValueError, match="labels with a cache"):
        model(input_ids=batch["input_ids"], labels=batch["labels"], past_key_values=cache)


def test_side_inputs_are_those_of_the_tokenizer(tokenizer: SpacetimeGRTokenizer) -> None:
    """All but the times, which nobody knows, are as if the generated actions had been encoded."""
    whole = batch_of(tokenizer, 47, [8, 5])
    prompt = {name: whole[name][:, :17] for name in SIDE_INPUTS}
    places = make_model(tokenizer).places
    made = with_generated(prompt, whole["input_ids"], tokenizer.vocabulary, places)
    for name in ("user_hash", "user_block", "category", "cell"):
        assert torch.equal(made[name], whole[name]), name
    assert not made["gap"][:, 17:].any()
    assert torch.equal(made["local_time"][:, 17:], whole["local_time"][:, 16:17].expand(-1, 15))


DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 4},
    "sampled beams": {"do_sample": True, "num_beams": 3},
}


@pytest.mark.parametrize("decoding", DECODINGS)
@pytest.mark.parametrize("return_explore", [True, False])
def test_generated_actions_are_whole_and_real(
    tokenizer: SpacetimeGRTokenizer, decoding: str, return_explore: bool
) -> None:
    """u, block, inner, a in turn, only places that exist, and the same without a cache."""
    model = make_model(tokenizer, return_explore=return_explore).double()
    batch = requests(tokenizer, 48, [6, 0, 11])
    rows = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        rows.append(model.generate(**batch, max_new_tokens=11, use_cache=use_cache, **DECODINGS[decoding]))
    assert torch.equal(*rows)
    for actions in tokenizer.batch_decode(rows[0]):  # refuses a token where another type is due
        assert all(action["poi_id"] is not None and action["action"] is not None for action in actions)


@pytest.mark.parametrize("blind", [False, True])
def test_beams_find_what_recommend_finds(tokenizer: SpacetimeGRTokenizer, blind: bool) -> None:
    """With a beam for every pair of a block and an inner id, beam search is exact, too."""
    model = make_model(tokenizer).double()
    batch = requests(tokenizer, 49, [7, 12], blind=blind)
    output = model.generate(
        **batch, max_new_tokens=2, num_beams=120, num_return_sequences=10, do_sample=False, length_penalty=0.0,
        return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    scores = model.score_pois(batch, tokenizer.index)
    best, rows = scores.sort(dim=-1, descending=True)
    block, inner = tokenizer.index.encode(rows[:, :10].flatten().numpy(), rows=True)
    pairs = np.stack([block + tokenizer.vocabulary.block_start, inner + tokenizer.vocabulary.inner_start], axis=-1)
    torch.testing.assert_close(output.sequences_scores.view(2, 10).double(), best[:, :10], rtol=1e-5, atol=1e-5)
    assert np.array_equal(output.sequences[:, -2:].numpy(), pairs)


def test_chunked_prefill_equals_one_prefill(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer).double()
    batch = requests(tokenizer, 50, [9, 4])
    whole = model.generate(**batch, max_new_tokens=8, do_sample=False)
    assert torch.equal(model.generate(**batch, max_new_tokens=8, do_sample=False, prefill_chunk_size=7), whole)
