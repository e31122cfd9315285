"""Decoding: whatever a history or a model makes comes back readable, or is refused at its place."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetime_gr import SpacetimeGRTokenizer
from tests.spacetime_gr.conftest import make_histories


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 6), min_size=1, max_size=4), st.sampled_from(["left", "right"]))
def test_batches_decode_to_what_was_encoded(
    tokenizer: SpacetimeGRTokenizer, seed: int, lengths: list[int], side: str
) -> None:
    tokenizer = SpacetimeGRTokenizer(tokenizer.index, tokenizer.actions, side)
    histories = make_histories(seed, lengths)
    for history in histories:
        history["poi_row"] = np.where(history["poi_row"] % 5 == 0, -1, history["poi_row"])
    batch = tokenizer(histories, return_tensors="pt")
    for ids in (batch["input_ids"], batch["input_ids"].numpy(), batch["input_ids"].tolist()):
        decoded = tokenizer.batch_decode(ids)
        assert decoded == tokenizer.decode(ids)
        for actions, history in zip(decoded, histories, strict=True):
            assert [action["poi_id"] for action in actions] == tokenizer.index.ids(history["poi_row"]).tolist()
            assert [action["action"] for action in actions] == history["action"].tolist()
    one = tokenizer(histories[0], return_tensors="pt")["input_ids"][0]
    assert tokenizer.decode(one) == tokenizer.decode(one.tolist()) == decoded[0]
    ragged = tokenizer(histories, padding=False)["input_ids"]
    assert tokenizer.batch_decode(ragged) == decoded


def test_a_request_ends_with_an_action_that_has_only_its_state(tokenizer: SpacetimeGRTokenizer) -> None:
    columns, offsets = tokenizer.columns(make_histories(1, [3, 0]))
    ids = tokenizer.encode_requests(columns, offsets, when=1_700_000_000, blind=True)["input_ids"]
    decoded = tokenizer.decode(ids)
    assert [len(actions) for actions in decoded] == [4, 1]
    assert all(
        actions[-1] == {"poi_id": None, "action": None, "mode": "local", "hour_of_week": None} for actions in decoded
    )


def test_an_action_may_be_cut_off_anywhere(tokenizer: SpacetimeGRTokenizer) -> None:
    history = make_histories(2, [2])[0]
    ids = tokenizer(history)["input_ids"]
    place = tokenizer.index.ids(history["poi_row"])[1]
    expected = [(None, None), (None, None), (place, None), (place, history["action"][1])]
    for kept, (poi_id, action) in enumerate(expected, start=5):
        last = tokenizer.decode(ids[:kept])[-1]
        assert (last["poi_id"], last["action"]) == (poi_id, action)


def test_pairs_that_name_no_place_give_none(tokenizer: SpacetimeGRTokenizer) -> None:
    vocabulary, index = tokenizer.vocabulary, tokenizer.index
    u, action = vocabulary.context_start, vocabulary.action_start
    small = int(index.block_sizes.argmin())
    pairs = [
        (vocabulary.inner_start - 1, vocabulary.inner_start),  # a spare block
        (vocabulary.block_start + small, vocabulary.action_start - 1),  # an inner id that the block does not have
        (vocabulary.block_start, tokenizer.unk_token_id),
        (tokenizer.unk_token_id, tokenizer.unk_token_id),
    ]
    ids = [token for pair in pairs for token in (u, *pair, action)]
    assert [one["poi_id"] for one in tokenizer.decode(ids)] == [None] * len(pairs)
    retired = index.poi_ids[7].as_py()
    after = SpacetimeGRTokenizer(index.retire([retired]), tokenizer.actions)
    history = {"poi_row": [7], "timestamp": [0]}
    assert after.decode(after(history)["input_ids"])[0]["poi_id"] == retired


def test_special_tokens_are_skipped(tokenizer: SpacetimeGRTokenizer) -> None:
    ids = tokenizer(make_histories(3, [2])[0])["input_ids"]
    around = [0, tokenizer.bos_token_id, *ids[:4], 0, *ids[4:], tokenizer.eos_token_id, 0, 0]
    assert tokenizer.decode(around) == tokenizer.decode(ids)
    assert tokenizer.decode([]) == tokenizer.decode([0, 0]) == []
    assert tokenizer.batch_decode([[0], []]) == [[], []]
    assert tokenizer.batch_decode(np.zeros((0, 4), int)) == []


def test_tokens_out_of_place_are_refused(tokenizer: SpacetimeGRTokenizer) -> None:
    good = tokenizer(make_histories(4, [3])[0])["input_ids"]
    size = len(tokenizer)
    for position, wrong, due in ((0, good[1], "u"), (5, good[4], "block"), (2, size, "inner"), (11, -1, "action")):
        bad = [*good[:position], wrong, *good[position + 1 :]]
        with pytest.raises(ValueError, match=rf"row 1, token {position} \(padding aside\) is {wrong}; .* type {due},"):
            tokenizer.batch_decode([good, [0, *bad]])
    for nonsense in ([0.5], "click", [["a"]], np.zeros((2, 2, 2), int), torch.tensor(3)):
        with pytest.raises(ValueError, match="no rows of integers"):
            tokenizer.decode(nonsense)
