"""Vectors of places: what they tell of places that nobody has visited, and every way into and out of the model."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.modules.typed_heads import gathered_products
from tests.spacetime_gr.conftest import NUM_POIS, make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import batch_of, make_model

SIZE = 6


def test_rows_are_ordered_as_the_places_and_nan_is_none(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer, poi_embedding_size=SIZE)
    vectors = np.arange(NUM_POIS * SIZE, dtype=np.float32).reshape(NUM_POIS, SIZE)
    vectors[3, 2] = np.nan
    model.load_places(tokenizer.index, vectors)
    batch = tokenizer([{"poi_row": [7, 3, -1, 9], "timestamp": [1, 2, 3, 4]}], return_tensors="pt")
    looked_up = model._poi_vectors(batch["input_ids"])[0].float().numpy()
    assert np.array_equal(looked_up[[2, 14]], vectors[[7, 9]])
    assert not np.delete(looked_up, [2, 14], axis=0).any()  # other tokens, a place without, an unknown place


@pytest.mark.parametrize(
    ("shape", "size"), [((NUM_POIS, SIZE + 1), SIZE), ((3, SIZE), SIZE), (None, SIZE), ((9, 9), 0)]
)
def test_other_shapes_are_refused(tokenizer: SpacetimeGRTokenizer, shape: tuple | None, size: int) -> None:
    model = make_model(tokenizer, poi_embedding_size=size)
    with pytest.raises(ValueError, match="poi_embedding_size"):
        model.load_places(tokenizer.index, None if shape is None else np.zeros(shape, np.float16))


def test_saved_with_the_weights(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    model = make_model(tokenizer, poi_embedding_size=SIZE)
    model.save_pretrained(tmp_path)
    again = SpacetimeGRForCausalLM.from_pretrained(tmp_path).eval()
    assert again.places.vector.dtype == torch.float16
    assert torch.equal(again.places.vector, model.places.vector)
    batch = batch_of(tokenizer, 0, [9])
    with torch.no_grad():
        assert torch.equal(again(**batch).loss, model(**batch).loss)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_vectors_stay_as_they_are_under_a_cast(tokenizer: SpacetimeGRTokenizer, dtype: torch.dtype) -> None:
    """Training casts the model: vectors would double in float32 and lose bits in bfloat16."""
    model = make_model(tokenizer, poi_embedding_size=SIZE)
    vector = model.places.vector.clone()
    model.to(dtype)
    assert model.places.vector.dtype == torch.float16
    assert torch.equal(model.places.vector, vector)
    model(**batch_of(tokenizer, 0, [9])).loss.backward()
    assert model.inner_scores.poi.weight.grad.dtype == dtype


def test_a_cached_inner_token_finds_its_block(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer, poi_embedding_size=SIZE)
    batch = batch_of(tokenizer, 4, [8]) | {"labels": None}
    with torch.no_grad():
        whole = model(**batch).logits
        cache, steps = None, []
        for at in range(whole.shape[1]):
            one = {name: values[:, at : at + 1] for name, values in batch.items() if values is not None}
            one["attention_mask"] = batch["attention_mask"][:, : at + 1]
            output = model(**one, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-4, rtol=1e-4)


def test_products_in_parts_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    table, positions = torch.randn(30, 4).double(), torch.randint(0, 30, (9, 5))
    gradients = []
    for bound in (1 << 24, 45):
        monkeypatch.setattr("spacetime_gr.modules.typed_heads.GATHERED_AT_ONCE", bound)
        query = torch.linspace(-1, 1, 36).double().view(9, 4).requires_grad_()
        found = gathered_products(query, table, positions)
        torch.testing.assert_close(found, (query.unsqueeze(1) * table[positions]).sum(-1))
        found.square().sum().backward()
        gradients.append(query.grad)
    torch.testing.assert_close(*gradients)


def test_a_place_that_nobody_visited_is_ranked_by_its_vector(tokenizer: SpacetimeGRTokenizer) -> None:
    """Everybody goes to the marked place of a block; that of one block, never visited in training, comes first, too."""
    index = tokenizer.index
    sizes = index.block_sizes
    marked = index.decode_rows(np.arange(index.num_blocks), np.minimum(sizes - 1, np.arange(index.num_blocks) % 5))
    hidden_block = int(np.argmax(sizes))
    vectors = np.zeros((NUM_POIS, 2), np.float16)
    vectors[:, 0] = 1.0
    vectors[marked] = (0.0, 1.0)
    seen = np.delete(marked, hidden_block)
    model = make_model(
        tokenizer, poi_embedding_size=2, initializer_range=0.02, return_explore=False, num_user_buckets=0
    )
    model.load_places(index, vectors)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    histories = make_histories(0, [16] * 8)
    rng = np.random.default_rng(1)
    model.train()
    for _ in range(40):
        for history in histories:
            history["poi_row"] = rng.choice(seen, 16)
        loss = model(**tokenizer(histories, return_tensors="pt")).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    columns, offsets = tokenizer.columns(histories[:1])
    request = tokenizer.encode_requests(columns, offsets, when=int(columns["timestamp"][-1]) + 3600)
    scores = model.eval().score_pois(request, index)[0].numpy()
    others = index.decode_rows(np.full(sizes[hidden_block], hidden_block), np.arange(sizes[hidden_block]))
    assert others[np.argmax(scores[others])] == marked[hidden_block]
