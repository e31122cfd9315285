"""The stated work against what torch counts as it executes."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.synthetic_rows import synthetic_rows
from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM
from spacetime_gr.training.flops import BatchCounts, RowShape, executed_flops, model_flops, total_work

ROWS, LENGTH, SEQUENCE = 3, 128, 64
SMALL: dict[str, Any] = {
    "num_blocks": 300,
    "num_inner": 40,
    "num_actions": 3,
    "num_pois": 12_000,
    "num_categories": 12,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_user_buckets": 32,
}
MEDIUM = SMALL | {"num_blocks": 3000, "hidden_size": 256, "num_hidden_layers": 6, "head_dim": 48}


def counted(config: SpacetimeGRConfig, batch: dict[str, np.ndarray], checkpointing: bool) -> int:
    config._attn_implementation = "eager"  # torch's counter knows no fused attention of the CPU
    model = SpacetimeGRForCausalLM(config).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
    # The counter knows addmm, but not the form that adds in place.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: in_place_product}) as counter:
        model(**tensors).loss.backward()
    return counter.get_total_flops()


def in_place_product(total: list[int], left: list[int], right: list[int], **_: Any) -> int:
    return 2 * left[0] * left[1] * right[1]


def counts_of(batch: dict[str, np.ndarray]) -> BatchCounts:
    supervised = float((batch["labels"] != -100).sum()) / 3
    return BatchCounts(batch["labels"].size, float((batch["position_ids"] + 1).sum()), (supervised,) * 3)


@pytest.mark.parametrize(
    ("options", "share", "checkpointing"),
    [
        (SMALL, 1.0, False),
        (SMALL | {"loss_chunk_size": 16}, 1.0, False),
        (SMALL | {"tie_word_embeddings": False, "backbone": "llama"}, 0.25, False),
        (SMALL | {"return_explore": False, "spatial_features": 0, "inner_head": "tied"}, 0.25, True),
        (SMALL | {"poi_embedding_size": 16, "use_fine_position": True}, 1.0, True),
        (SMALL | {"poi_embedding_size": 16, "loss_chunk_size": 16, "use_user_block": False}, 1.0, True),
        (SMALL | {"use_category": False, "use_position": False, "pointer_size": 32}, 0.25, False),
        (MEDIUM, 0.25, False),
        (MEDIUM | {"backbone": "llama", "loss_chunk_size": 64, "tie_word_embeddings": False}, 1.0, True),
    ],
)
def test_executed_work_is_what_torch_counts(options: dict[str, Any], share: float, checkpointing: bool) -> None:
    config = SpacetimeGRConfig(**options)
    batch = synthetic_rows(config, ROWS, LENGTH, SEQUENCE, share)
    shape = RowShape(ROWS, LENGTH, ROWS, checkpointing, "eager")
    stated = total_work(executed_flops(config, counts_of(batch), shape)).total
    # The one product left out is that of rotary frequencies with positions.
    assert stated == pytest.approx(counted(config, batch, checkpointing), rel=1e-3)


def test_model_work_is_executed_work_without_waste() -> None:
    """Rows of one sequence, all supervised, no recomputation: what remains is masked pairs and side inputs of tokens
    that have none."""
    config = SpacetimeGRConfig(**SMALL)
    batch = synthetic_rows(config, ROWS, LENGTH, LENGTH, 1.0)
    counts = counts_of(batch)
    assert counts == BatchCounts.expected(ROWS * LENGTH, LENGTH, 1.0)
    needed = model_flops(config, counts)
    done = executed_flops(config, counts, RowShape(ROWS, LENGTH, ROWS, False, "eager"))
    for part in ("layers", "block head", "spatial kernel", "spatial weights", "inner head", "action head"):
        assert needed[part] == done[part]
    assert done["side inputs"].total == 4 * needed["side inputs"].total
    assert done["attention"].total / needed["attention"].total == pytest.approx(2 * LENGTH / (LENGTH + 1))
    assert needed["pointers"].total < done["pointers"].total


def test_packed_rows_need_less_attention() -> None:
    """Sixteen short sequences in a row: the sum of their squares, not the square of their sum."""
    config = SpacetimeGRConfig(**SMALL)
    whole, packed = (model_flops(config, BatchCounts.expected(LENGTH, length, 0.5)) for length in (LENGTH, LENGTH / 16))
    assert packed["attention"].total / whole["attention"].total == pytest.approx((8 + 1) / (128 + 1))
    assert packed["layers"] == whole["layers"]
    masked = executed_flops(config, BatchCounts.expected(LENGTH, 8, 0.5), RowShape(1, LENGTH, 1, False, "sdpa"))
    skipped = executed_flops(config, BatchCounts.expected(LENGTH, 8, 0.5), RowShape(1, LENGTH, 1, False, "varlen"))
    assert skipped["attention"].forward == packed["attention"].forward
    assert masked["attention"].forward == pytest.approx(skipped["attention"].forward * 128 * 2 / 9)
    assert skipped["attention"].repeated == skipped["attention"].forward / 2  # a fused kernel's scores, again


def test_supervised_share_scales_the_heads_only() -> None:
    config = SpacetimeGRConfig(**SMALL)
    quarter, full = (model_flops(config, BatchCounts.expected(4096, 512, share)) for share in (0.25, 1.0))
    assert full["block head"].total == 4 * quarter["block head"].total
    assert full["inner head"].total == 4 * quarter["inner head"].total
    assert full["layers"] == quarter["layers"]


def test_no_tokens_no_work() -> None:
    assert total_work(model_flops(SpacetimeGRConfig(**SMALL), BatchCounts(0, 0, (0, 0, 0)))).total == 0
