"""pad(): what a data collator of transformers does with encodings of single histories."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from spacetime_gr import SpacetimeGRTokenizer
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

LENGTHS = [3, 0, 7]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_single_encodings_gives_the_batch(tokenizer: SpacetimeGRTokenizer, side: str) -> None:
    tokenizer = SpacetimeGRTokenizer(tokenizer.index, tokenizer.actions, side)
    histories = make_histories(1, LENGTHS)
    expected = tokenizer(histories, return_tensors="pt")
    singles = [tokenizer(history) for history in histories]
    arrays = [{name: np.array(values, int) for name, values in single.items()} for single in singles]
    tensors = [{name: torch.tensor(values, dtype=torch.int64) for name, values in one.items()} for one in singles]
    together = {name: [single[name] for single in singles] for name in singles[0]}
    ragged = tokenizer(histories, padding=False)
    for encodings in (singles, arrays, tensors, together, ragged):
        padded = tokenizer.pad(encodings, return_tensors="pt")
        assert set(padded) == set(expected)
        assert all(torch.equal(padded[name], expected[name]) for name in expected)
    without = [{name: one[name] for name in ("input_ids", "labels")} for one in singles]
    lists = tokenizer.pad(without)
    assert set(lists) == {"input_ids", "labels", "attention_mask", "position_ids"}
    assert lists["attention_mask"] == expected["attention_mask"].tolist()


def test_row_lengths_can_be_asked_for(tokenizer: SpacetimeGRTokenizer) -> None:
    singles = [tokenizer(history) for history in make_histories(2, LENGTHS)]
    for options, width in (
        ({}, 28),
        ({"padding": "longest", "pad_to_multiple_of": 16}, 32),
        ({"padding": "max_length", "max_length": 40}, 40),
        ({"padding": "max_length", "max_length": 8}, 28),
    ):
        assert tokenizer.pad(singles, return_tensors="np", **options)["input_ids"].shape == (3, width)
    assert tokenizer.pad([], return_tensors="np")["input_ids"].shape == (0, 0)


def test_a_collator_feeds_the_model(tokenizer: SpacetimeGRTokenizer) -> None:
    histories = make_histories(3, [5, 2, 9, 4])
    collator = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8)
    batches = list(DataLoader([tokenizer(one) for one in histories], batch_size=2, collate_fn=collator))
    model = make_model(tokenizer)
    whole = model(**tokenizer(histories, return_tensors="pt"))
    parts = [model(**batch) for batch in batches]
    torch.testing.assert_close(sum(part.loss_sums for part in parts), whole.loss_sums, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("encodings", "options", "message"),
    [
        ([{"input_ids": [1], "weight": [2]}], {}, "encoding 0 has the fields input_ids, weight"),
        ([{"input_ids": [1], "labels": [1]}, {"input_ids": [1]}], {}, "encoding 1 has the fields input_ids; expected"),
        ([{"labels": [1]}], {}, "expected input_ids"),
        ([{"input_ids": [1, 2], "labels": [1]}], {}, r"labels has shape \(1,\), input_ids 2 tokens"),
        ([{"input_ids": [[1, 2]]}], {}, "one sequence per encoding"),
        ([], {"padding": False}, "expected True or 'longest'"),
        ([], {"padding": "max_length"}, "'max_length' with one"),
    ],
)
def test_what_cannot_be_padded_is_said(
    tokenizer: SpacetimeGRTokenizer, encodings: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.pad(encodings, **options)
