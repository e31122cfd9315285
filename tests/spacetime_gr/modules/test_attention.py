"""Every attention back end keeps packed users apart: each equals sdpa, and a user alone.

Without a GPU the variable-length kernels are stood in for by the reference one, so what is tested of them is all but
the kernel: boundaries, layout, caches. Flex attention runs unfused, which torch otherwise refuses to differentiate.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import flex_attention as flex
from transformers import PreTrainedModel, modeling_utils
from transformers.integrations import flex_attention as transformers_flex

from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.modules import attention
from spacetime_gr.modules.attention import Boundaries, boundaries, reference_kernel, same_sequence, torch_kernel
from spacetime_gr.modules.token_rows import segments
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_generate import WHEN, in_steps, requests
from tests.spacetime_gr.test_modeling_spacetime_gr import batch_of, make_model, pack

Batch = dict[str, Tensor]


def flash_stand_in(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int, max_seqlen_k: int,
    softmax_scale: float, causal: bool,
) -> tuple[Tensor, None]:  # fmt: skip
    """The interface of `flash_attn_varlen_func`; later versions return the normaliser as well."""
    assert causal
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    assert int(cu_seqlens_q.diff().max()) <= max_seqlen_q
    assert int(cu_seqlens_k.diff().max()) <= max_seqlen_k
    return reference_kernel(
        q, k, v, Boundaries(cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k), softmax_scale
    ), None


@pytest.fixture(params=["eager", "varlen", "flash_attention_2", "flex_attention"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A back end other than sdpa, made to run on a CPU."""

    def load(*_: Any, **__: Any) -> Any:
        return (None, flash_stand_in, None, None, None), (None, None)

    attention.flash_kernel.cache_clear()
    monkeypatch.setattr(attention, "lazy_import_flash_attention", load)
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", load)
    monkeypatch.setattr(modeling_utils, "is_kernels_available", lambda: False)
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(
        transformers_flex,
        "compile_friendly_flex_attention",
        lambda *states, training, **options: flex.flex_attention(*states, **options),
    )
    yield request.param
    attention.flash_kernel.cache_clear()


def models(tokenizer: SpacetimeGRTokenizer, backend: str, **options: Any) -> list[SpacetimeGRForCausalLM]:
    """The same model twice in double precision: sdpa, and with another back end. Two queries share a key."""
    options = {"num_key_value_heads": 1} | options
    return [make_model(tokenizer, attn_implementation=name, **options).double() for name in ("sdpa", backend)]


def assert_equal(backend: str, actual: Any, expected: Any) -> None:
    """To double precision; eager attention computes its softmax in single precision whatever the model's."""
    tolerance = 1e-4 if backend == "eager" else 1e-10
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def loss_and_gradients(model: SpacetimeGRForCausalLM, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    """Summed losses over some batches, and the gradients of their sum."""
    model.zero_grad()
    total = sum(model(**batch, num_items_in_batch=1).loss for batch in batches)
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def packed_rows(tokenizer: SpacetimeGRTokenizer) -> tuple[Batch, list[Batch]]:
    """Three rows of several users each, padded on either side or not at all, and the users one by one."""
    lengths = [[7, 11, 1], [2, 9], [1, 4, 6]]
    rows, alone = [], []
    for number, row in enumerate(lengths):
        users = [batch_of(tokenizer, 10 * number + i, [length]) for i, length in enumerate(row)]
        padding = 76 - 4 * sum(row)
        left = (0, padding, padding // 2)[number]
        packed = pack(users) | {"attention_mask": torch.ones(1, 4 * sum(row), dtype=torch.long)}
        fill = {"labels": -100}
        rows.append({
            name: torch.nn.functional.pad(values, (left, padding - left), value=fill.get(name, 0))
            for name, values in packed.items()
        })  # fmt: skip
        alone.extend(users)
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}, alone


@pytest.mark.parametrize("options", [{}, {"return_explore": False, "backbone": "llama"}])
def test_packed_users_equal_the_users_alone(
    tokenizer: SpacetimeGRTokenizer, backend: str, options: dict[str, Any]
) -> None:
    """Logits, loss and gradients, for rows of several users with padding; and they are those of sdpa."""
    sdpa, model = models(tokenizer, backend, **options)
    together, alone = packed_rows(tokenizer)
    loss, gradients = loss_and_gradients(model, [together])
    for oracle, batches in ((model, alone), (sdpa, [together])):
        expected, expected_gradients = loss_and_gradients(oracle, batches)
        assert_equal(backend, loss, expected)
        assert_equal(backend, gradients, expected_gradients)
    labels = [batch.pop("labels") for batch in (together, *alone)]
    with torch.no_grad():
        logits = model(**together).logits[together["attention_mask"].bool()]
        expected = torch.cat([model(**batch).logits[0] for batch in alone])
    assert len(labels[0]) == 3
    assert_equal(backend, logits, expected)


def test_gradient_checkpointing(tokenizer: SpacetimeGRTokenizer, backend: str) -> None:
    model = models(tokenizer, backend)[1].train()
    together, _ = packed_rows(tokenizer)
    expected = loss_and_gradients(model, [together])
    model.gradient_checkpointing_enable()
    torch.testing.assert_close(loss_and_gradients(model, [together]), expected, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_cache_equals_no_cache(tokenizer: SpacetimeGRTokenizer, backend: str) -> None:
    """Left-padded rows in pieces of any size, down to single tokens; and packed ones, cut inside a user."""
    sdpa, model = models(tokenizer, backend)
    batch = requests(tokenizer, 40, [9, 0, 5])
    real = batch["attention_mask"].bool()
    expected = sdpa(**batch, use_cache=False).logits[real]
    for edges in ([0, 20, 21, 22, 30, 37], [0, 36, 37]):
        assert_equal(backend, in_steps(model, batch, edges)[real], expected)
    row = pack([batch_of(tokenizer, seed, [length]) for seed, length in ((41, 7), (42, 6), (43, 5))])
    row.pop("labels")
    expected = sdpa(**row).logits
    assert_equal(backend, in_steps(model, row, [0, 37, 60, 61, 72]), expected)


@torch.no_grad()
def test_padding_inside_a_sequence(tokenizer: SpacetimeGRTokenizer, backend: str) -> None:
    """As where right-padded prompts are continued: no run of tokens, so the variable-length kernels give way."""
    sdpa, model = models(tokenizer, backend)
    batch = requests(tokenizer, 48, [6, 6])
    batch["attention_mask"][1, 9:13] = 0
    real = batch["attention_mask"].bool()
    expected = sdpa(**batch).logits[real]
    assert_equal(backend, model(**batch).logits[real], expected)
    assert_equal(backend, in_steps(model, batch, [0, 20, 25])[real], expected)


def test_recommend(tokenizer: SpacetimeGRTokenizer, backend: str) -> None:
    """Candidates see the history and themselves, which no boundary says: that step is sdpa's where it has to be."""
    histories = make_histories(49, [12, 3, 0])
    expected, got = (model.recommend(tokenizer, histories, when=WHEN, k=5) for model in models(tokenizer, backend))
    for one, other in zip(expected, got, strict=True):
        assert list(one["poi_id"]) == list(other["poi_id"])
        torch.testing.assert_close(
            torch.as_tensor(other["log_prob"]), torch.as_tensor(one["log_prob"]), rtol=1e-6, atol=1e-6
        )


def test_the_body_alone(tokenizer: SpacetimeGRTokenizer, backend: str) -> None:
    """With a cache of its own, which knows of padding but not of packed sequences."""
    sdpa, model = (each.model for each in models(tokenizer, backend))
    batch = requests(tokenizer, 50, [5, 3])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        expected = sdpa(input_ids=ids, attention_mask=mask).last_hidden_state[:, -4:]
        past = model(input_ids=ids[:, :-4], attention_mask=mask[:, :-4], use_cache=True).past_key_values
        step = model(input_ids=ids[:, -4:], attention_mask=mask, past_key_values=past).last_hidden_state
    assert_equal(backend, step, expected)


def test_switching_a_live_model(tokenizer: SpacetimeGRTokenizer, backend: str) -> None:
    sdpa, model = models(tokenizer, backend)
    batch = batch_of(tokenizer, 51, [6, 3])
    for each in (sdpa, sdpa.model):
        each.set_attn_implementation(backend)
        assert each.config._attn_implementation == model.config._attn_implementation == backend
    assert sdpa.model.decoder.config._attn_implementation == model.model.decoder.config._attn_implementation
    torch.testing.assert_close(sdpa(**batch).loss, model(**batch).loss, rtol=0, atol=0)


def test_the_kernel_is_used(tokenizer: SpacetimeGRTokenizer, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable-length back ends fall back where they have to, and nowhere else."""
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(attention, "reference_kernel", counted("kernel", reference_kernel))
    monkeypatch.setitem(globals(), "reference_kernel", attention.reference_kernel)
    monkeypatch.setattr(attention, "sdpa_attention_forward", counted("sdpa", attention.sdpa_attention_forward))
    model = models(tokenizer, backend)[1]
    layers = model.config.num_hidden_layers
    together, _ = packed_rows(tokenizer)
    model(**together)
    varlen = backend in ("varlen", "flash_attention_2")
    assert calls == ["kernel"] * (layers * varlen)
    calls.clear()
    model.recommend(tokenizer, make_histories(52, [4]), when=WHEN)
    assert calls == (["kernel"] * layers + ["sdpa"] * 2 * layers) * varlen


# -------------------------------------------------------------------- boundaries


@st.composite
def packed_positions(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Positions and mask of rows of random sequences, padded on both sides (or padding alone); new tokens."""
    length = draw(st.integers(1, 14))
    positions, mask = [], []
    for _ in range(draw(st.integers(1, 4))):
        left = draw(st.integers(0, length))
        right = draw(st.integers(left, length))
        starts = draw(st.sets(st.integers(left, right))) | {left}
        row = [
            column - max(s for s in starts if s <= column) if left <= column < right else 0 for column in range(length)
        ]
        positions.append(row)
        mask.append([int(left <= column < right) for column in range(length)])
    return torch.tensor(positions), torch.tensor(mask), draw(st.integers(1, length))


@settings(max_examples=200, deadline=None)
@given(packed_positions())
def test_boundaries(case: tuple[Tensor, Tensor, int]) -> None:
    """Written out token by token: they allow each new token exactly the keys that the mask allows it."""
    positions, mask, length = case
    segment = segments(positions, mask)
    batch, keys = segment.shape
    bounds = boundaries(segment, length)
    assert bounds is not None
    assert bounds.cu_q[0] == bounds.cu_k[0] == 0
    assert (int(bounds.cu_q[-1]), int(bounds.cu_k[-1])) == (batch * length, batch * keys)
    assert int(bounds.cu_q.diff().max()) <= bounds.max_q
    assert int(bounds.cu_k.diff().max()) <= bounds.max_k
    allowed = torch.zeros(batch * length, batch * keys, dtype=torch.bool)
    sequences = zip(
        *(bound.tolist() for bound in (bounds.cu_q, bounds.cu_q[1:], bounds.cu_k, bounds.cu_k[1:])), strict=False
    )
    for first_q, end_q, first_k, end_k in sequences:
        for query in range(first_q, end_q):
            allowed[query, first_k : end_k - (end_q - 1 - query)] = True
    expected = torch.block_diag(*same_sequence(segment, length).squeeze(1)).bool()
    real = mask[:, keys - length :].flatten().bool()
    assert torch.equal(allowed[real], expected[real])


def test_an_interrupted_sequence_has_no_boundaries() -> None:
    assert boundaries(torch.tensor([[1, 1, 1], [1, 0, 1]]), 3) is None
    assert boundaries(torch.tensor([[1, 1, 2], [1, 0, 2]]), 3) is not None


def test_torch_kernel_takes_what_it_is_given() -> None:
    """On no device: shapes and names of the arguments, not the numbers."""
    states = [torch.empty(10, heads, 16, device="meta", dtype=torch.bfloat16) for heads in (4, 2, 2)]
    bounds = Boundaries(*(torch.empty(3, device="meta", dtype=torch.int32) for _ in range(2)), 8, 8)
    assert torch_kernel(*states, bounds, 0.25).shape == (10, 4, 16)


# -------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"attn_implementation": "paged|eager"},
            "expected one of sdpa, eager, varlen, flex_attention, flash_attention_2",
        ),
        ({"attn_implementation": "flash_attention_2"}, "which cannot run here .*; 'varlen' needs no further package"),
        ({"attn_implementation": "varlen", "attention_dropout": 0.1}, "set attention_dropout to 0 or attn_impl"),
    ],
)
def test_refusals(tokenizer: SpacetimeGRTokenizer, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_model(tokenizer, **options)
