"""The model against oracles: flat softmax, mixtures written out, single sequences, Hugging Face round trips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.configuration_spacetime_gr import SIDE_SWITCHES
from spacetime_gr.modules.zero_start import ZeroEmbedding, ZeroLinear
from tests.spacetime_gr.conftest import make_histories


def make_model(tokenizer: SpacetimeGRTokenizer, **options: Any) -> SpacetimeGRForCausalLM:
    """A small model with its places loaded, in evaluation mode; initial weights large enough to matter."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "pointer_size": 16}
    config = SpacetimeGRConfig(**tokenizer.config_kwargs(), **(sizes | {"initializer_range": 0.2} | options))
    model = SpacetimeGRForCausalLM(config)
    size = config.poi_embedding_size
    vectors = np.random.default_rng(0).normal(size=(config.num_pois, size)).astype(np.float16) if size else None
    model.load_places(tokenizer.index, vectors)
    for module in model.modules():
        if isinstance(module, ZeroEmbedding | ZeroLinear):
            torch.nn.init.normal_(module.weight, std=config.initializer_range)
            if isinstance(module, ZeroEmbedding):
                torch.nn.init.zeros_(module.weight[0])
    return model.eval()


def batch_of(tokenizer: SpacetimeGRTokenizer, seed: int, lengths: list[int]) -> dict[str, torch.Tensor]:
    """Encoded histories as tensors."""
    return dict(tokenizer(make_histories(seed, lengths), return_tensors="pt"))


def pack(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One row that holds several single-history batches, one after the other (no attention mask: positions tell)."""
    return {name: torch.cat([b[name] for b in batches], 1) for name in batches[0] if name != "attention_mask"}


OPTIONS = [
    {},
    {"return_explore": False},
    {"inner_head": "tied", "spatial_features": 0, "num_user_buckets": 0},
    {"tie_word_embeddings": False, "backbone": "llama", "attn_implementation": "eager"},
    dict.fromkeys(SIDE_SWITCHES, False),
    {"use_fine_position": True, "poi_embedding_size": 6, "block_ancestors": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_loss_equals_the_flat_softmax_in_double_precision(tokenizer: SpacetimeGRTokenizer, options: dict) -> None:
    """The chunked typed loss and its gradients equal those read off full-vocabulary log-probabilities."""
    model = make_model(tokenizer, loss_chunk_size=3, **options).double()
    batch = batch_of(tokenizer, 1, [12, 5, 9])
    batch["labels"][0, :20] = -100
    labels = batch["labels"]
    output = model(**batch)
    output.loss.backward()
    gradients = {
        name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    model.zero_grad()
    logits = model(**{name: values for name, values in batch.items() if name != "labels"}).logits
    assert torch.allclose(logits.exp().sum(-1), torch.ones(labels.shape, dtype=torch.double), atol=1e-9)
    supervised = labels[:, 1:] != -100
    log_probs = logits[:, :-1].gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)[supervised]
    loss = -log_probs.mean()
    loss.backward()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-10)
    assert int(output.loss_counts.sum()) == int(supervised.sum())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rows", [[4], [0, 5, 9], [11]])
def test_unknown_places_leave_the_loss_exact(tokenizer: SpacetimeGRTokenizer, rows: list[int]) -> None:
    """An unknown place takes a slot of the memory but none of the block queries: the two must not shift apart."""
    model = make_model(tokenizer).double()
    history = make_histories(30, [12])[0]
    history["poi_row"] = history["poi_row"].copy()
    history["poi_row"][rows] = -1
    batch = dict(tokenizer(history, return_tensors="pt"))
    labels = batch["labels"]
    with torch.no_grad():
        loss = model(**batch).loss.item()
        logits = model(**{name: values for name, values in batch.items() if name != "labels"}).logits
    supervised = labels[:, 1:] != -100
    log_probs = logits[:, :-1].gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)[supervised]
    assert loss == pytest.approx(-log_probs.mean().item(), rel=1e-10)


def test_unknown_places_attract_no_probability(tokenizer: SpacetimeGRTokenizer) -> None:
    """Nobody can return to a place that has no id: with only such places behind, the person explores."""
    model = make_model(tokenizer)
    history = make_histories(31, [3])[0] | {"poi_row": np.full(3, -1)}
    request = tokenizer.encode_requests(*tokenizer.columns([history]), when=1_360_000_000)
    request.pop("labels")
    plain = make_model(tokenizer, return_explore=False)
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        expected = plain(**request, logits_to_keep=1).logits
        torch.testing.assert_close(model(**request, logits_to_keep=1).logits, expected, rtol=1e-5, atol=1e-4)


def test_every_parameter_learns(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer, use_fine_position=True, poi_embedding_size=6, block_ancestors=True)
    histories = [history | {"user_latitude": 40.8, "user_longitude": -74.1} for history in make_histories(2, [30, 20])]
    model(**tokenizer(histories, return_tensors="pt")).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_user_equals_the_user_alone(tokenizer: SpacetimeGRTokenizer, attention: str) -> None:
    """Losses, log-probabilities and gradients of packed sequences are those of the sequences one by one."""
    model = make_model(tokenizer, attn_implementation=attention)
    singles = [batch_of(tokenizer, seed, [length]) for seed, length in ((3, 7), (4, 11), (5, 2))]
    row = pack(singles)
    packed = model(**row)
    packed.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    outputs = [model(**single) for single in singles]
    torch.testing.assert_close(packed.loss_sums, sum(output.loss_sums for output in outputs))
    (sum(o.loss * o.loss_counts.sum() for o in outputs) / packed.loss_counts.sum()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        row.pop("labels")
        together = model(**row).logits
        alone = [model(**{n: v for n, v in single.items() if n != "labels"}).logits for single in singles]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-4, atol=1e-4)


def test_eager_equals_sdpa_and_padding_does_not_matter(tokenizer: SpacetimeGRTokenizer) -> None:
    batch = batch_of(tokenizer, 6, [4, 13])
    eager, sdpa = (make_model(tokenizer, attn_implementation=name) for name in ("eager", "sdpa"))
    torch.testing.assert_close(eager(**batch).loss_sums, sdpa(**batch).loss_sums, rtol=1e-5, atol=1e-4)
    right = SpacetimeGRTokenizer(tokenizer.index, tokenizer.actions, "right")
    torch.testing.assert_close(
        sdpa(**batch).loss_sums, sdpa(**batch_of(right, 6, [4, 13])).loss_sums, rtol=1e-5, atol=1e-4
    )
    del batch["position_ids"]  # derived from the attention mask
    torch.testing.assert_close(eager(**batch).loss_sums, sdpa(**batch).loss_sums, rtol=1e-5, atol=1e-4)


def test_num_items_in_batch_makes_accumulation_exact(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer)
    whole = batch_of(tokenizer, 7, [5, 9, 3])
    total = (whole["labels"] != -100).sum()
    parts = [{name: values[i : i + 1] for name, values in whole.items()} for i in range(3)]
    accumulated = sum(model(**part, num_items_in_batch=total).loss for part in parts)
    torch.testing.assert_close(accumulated, model(**whole).loss)


def test_nothing_supervised_gives_zero_loss_and_gradients(tokenizer: SpacetimeGRTokenizer) -> None:
    model = make_model(tokenizer)
    batch = batch_of(tokenizer, 8, [6])
    batch["labels"][:] = -100
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.isnan().any() for p in model.parameters())


def test_mixture_against_a_loop(tokenizer: SpacetimeGRTokenizer) -> None:
    """g softmax + (1 - g) pointer, written out with Python loops for the block after the last u."""
    model = make_model(tokenizer)
    request = tokenizer.encode_requests(*tokenizer.columns(make_histories(9, [8])), when=1_360_000_000)
    captured: dict[str, Any] = {}

    def capture(_: Any, __: Any, output: tuple[torch.Tensor, ...]) -> None:
        captured["pointer"] = output

    handle = model.block_pointer.register_forward_hook(capture)
    request.pop("labels")
    with torch.no_grad():
        logits = model(**request, logits_to_keep=1).logits[0, -1]
        hidden = model.model(**{n: v for n, v in request.items() if n != "local_time"}).last_hidden_state[:, -1]
        scores = model.block_scores(model.lm_head, model.places, hidden, request["user_block"][:, -1])[0]
    handle.remove()
    log_weights, log_explore, log_return = (values[0, 0] for values in captured["pointer"])
    gate, weights = float(log_explore.exp()), log_weights.exp().numpy()
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    assert gate + float(log_return.exp()) == pytest.approx(1.0, abs=1e-5)
    expected = gate * torch.softmax(scores, -1).numpy().astype(float)
    for slot, block in enumerate(request["input_ids"][0, 1::4].tolist()):
        expected[block - tokenizer.vocabulary.block_start] += (1 - gate) * float(weights[slot])
    start = tokenizer.vocabulary.block_start
    np.testing.assert_allclose(logits[start : start + len(expected)].exp().numpy(), expected, rtol=1e-4, atol=1e-9)


def test_no_history_means_exploring(tokenizer: SpacetimeGRTokenizer) -> None:
    """Without a past there is nothing to return to: g = 1, and the mixture is the softmax."""
    model = make_model(tokenizer)
    request = tokenizer.encode_requests(*tokenizer.columns([{"poi_row": [], "timestamp": []}]), when=1_360_000_000)
    request.pop("labels")
    plain = make_model(tokenizer, return_explore=False)
    plain.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(model(**request).logits, plain(**request).logits, rtol=1e-5, atol=1e-4)


def test_saved_model_is_the_same(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    for number, options in enumerate(({}, {"tie_word_embeddings": False, "return_explore": False})):
        model = make_model(tokenizer, **options)
        model.save_pretrained(tmp_path / str(number))
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / str(number)).eval()
        assert isinstance(loaded, SpacetimeGRForCausalLM)
        batch = batch_of(tokenizer, 11, [6, 4])
        assert torch.equal(model(**batch).loss, loaded(**batch).loss)
        assert torch.equal(model.places.block_centers, loaded.places.block_centers)


def test_gradient_checkpointing_changes_nothing(tokenizer: SpacetimeGRTokenizer) -> None:
    batch = batch_of(tokenizer, 12, [9])
    plain, saving = make_model(tokenizer).train(), make_model(tokenizer).train()
    saving.gradient_checkpointing_enable()
    for model in (plain, saving):
        model(**batch).loss.backward()
    for one, two in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


def test_places_of_another_index_are_refused(tokenizer: SpacetimeGRTokenizer) -> None:
    config = SpacetimeGRConfig(**(tokenizer.config_kwargs() | {"num_blocks": 3}), hidden_size=32, num_attention_heads=2)
    with pytest.raises(ValueError, match="the model was configured for"):
        SpacetimeGRForCausalLM(config).load_places(tokenizer.index)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "mamba"}, "backbone"),
        ({"inner_head": "free"}, "inner_head"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "not a multiple of num_attention_heads"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "num_key_value_heads"),
        ({"spatial_features": 5}, "even"),
        ({"hidden_size": "abc"}, "hidden_size is 'abc'; expected a whole number, at least 1"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 2.5}, "expected a whole number"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_user_buckets": -3}, "num_user_buckets"),
        ({"rope_theta": True}, "rope_theta is True; expected a number above 0"),
        ({"hidden_dropout": "high"}, "hidden_dropout is 'high'; expected a number from 0"),
        ({"return_explore": "no"}, "return_explore is 'no'; expected true or false"),
        ({"hidden_act": "foo"}, "hidden_act is 'foo'; expected one of"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpacetimeGRConfig(**options)
