"""The stated activations against the tensors that autograd keeps."""

from typing import Any

import pytest
import torch

from benchmarks.synthetic_rows import synthetic_rows
from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM
from spacetime_gr.planning.activations import MicroBatch, activations

ROWS, LENGTH = 4, 256
MODEL: dict[str, Any] = {
    "num_blocks": 2000,
    "num_inner": 64,
    "num_actions": 2,
    "num_pois": 5000,
    "num_categories": 20,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_user_buckets": 32,
}


def kept_bytes(config: SpacetimeGRConfig, share: float, dtype: torch.dtype, checkpointing: bool) -> int:
    """Bytes of the storages that the graph holds after forward, parameters and buffers left out."""
    model = SpacetimeGRForCausalLM(config).to(dtype).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    lasting = [*model.parameters(), *model.buffers()]
    batch = {name: torch.from_numpy(values) for name, values in synthetic_rows(config, ROWS, LENGTH, 64, share).items()}
    model(**batch).loss.detach()  # makes what is kept from step to step
    lasting += [*batch.values(), model.places._kept_features[2]]
    known = {tensor.untyped_storage().data_ptr() for tensor in lasting}
    found: dict[int, tuple[int, torch.Tensor]] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        loss = model(**batch).loss
    total = sum(size for size, _ in found.values())
    del loss
    return total


@pytest.mark.parametrize(
    ("options", "attention", "dtype"),
    [
        ({}, "sdpa", torch.float32),
        ({"backbone": "llama", "num_key_value_heads": 4}, "varlen", torch.float32),
        ({"return_explore": False}, "eager", torch.float32),
        ({"loss_chunk_size": 64, "hidden_dropout": 0.1}, "sdpa", torch.float32),
        ({}, "varlen", torch.bfloat16),
    ],
)
def test_what_autograd_keeps(options: dict[str, Any], attention: str, dtype: torch.dtype) -> None:
    config = SpacetimeGRConfig(**MODEL | options)
    config._attn_implementation = attention
    batch = MicroBatch(ROWS, LENGTH, 0.5, dtype.itemsize, False, attention)
    stated = activations(config, batch)
    assert stated.body + stated.heads == pytest.approx(kept_bytes(config, 0.5, dtype, False), rel=0.1)


def test_checkpointing_keeps_the_layers_inputs_only() -> None:
    config = SpacetimeGRConfig(**MODEL | {"num_hidden_layers": 8})
    config._attn_implementation = "sdpa"
    whole, saved = (
        activations(config, MicroBatch(ROWS, LENGTH, 0.5, 4, checkpointing, "sdpa")) for checkpointing in (False, True)
    )
    inputs = 8 * ROWS * LENGTH * 128 * 4
    assert saved.heads == whole.heads
    assert whole.body - saved.body == pytest.approx(8 * saved.recomputed - inputs)
    assert saved.body + saved.heads == pytest.approx(kept_bytes(config, 0.5, torch.float32, True), rel=0.1)


def test_chunks_bound_the_scores() -> None:
    config = SpacetimeGRConfig(**MODEL | {"num_blocks": 400_000, "loss_chunk_size": 256})
    batch = MicroBatch(8, 4096, 1.0, 2, False, "varlen")
    stated = activations(config, batch)
    assert stated.chunk_forward == stated.chunk_backward == 256 * 400_000 * (4 + 2)
    whole = activations(SpacetimeGRConfig(**MODEL | {"num_blocks": 400_000, "loss_chunk_size": 8192}), batch)
    assert whole.chunk_backward == 0  # the one chunk's residual is kept instead
    assert whole.heads - stated.heads == 8192 * 400_000 * 2
