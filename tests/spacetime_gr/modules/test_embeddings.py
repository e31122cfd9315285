"""Side information: each input can be switched off by itself, and then nothing of it reaches the model."""

from collections.abc import Callable

import pytest
import torch

from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.configuration_spacetime_gr import SIDE_SWITCHES
from spacetime_gr.modules.embeddings import contexts_read
from spacetime_gr.vocabulary import HOURS, HOURS_PER_WEEK, MODES
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

Batch = dict[str, torch.Tensor]


def turn_contexts(model: SpacetimeGRForCausalLM, batch: Batch, hours: int, modes: int) -> None:
    """Other hours or modes in the u tokens."""
    vocabulary = model.config.vocabulary
    ids = batch["input_ids"]
    is_context = (ids >= vocabulary.context_start) & (ids < vocabulary.block_start)
    mode, hour = (
        (ids - vocabulary.context_start).div(HOURS, rounding_mode="floor"),
        (ids - vocabulary.context_start) % HOURS,
    )
    turned = (mode + modes) % len(MODES) * HOURS + (hour + hours) % HOURS_PER_WEEK
    batch["input_ids"] = torch.where(is_context, vocabulary.context_start + turned, ids)


def roll(batch: Batch, name: str, size: int) -> None:
    """Other values of a side input where there is one."""
    batch[name] = torch.where(batch[name] > 0, batch[name] % size + 1, 0)


def other_cells(model: SpacetimeGRForCausalLM, batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Other positions in the blocks, in the rows and in the tables."""
    batch["cell"] = torch.where(batch["cell"] > 0, change(batch["cell"] - 1) + 1, 0)
    model.places.fine_cell.copy_(change(model.places.fine_cell.long() - 1) + 1)


def other_categories(model: SpacetimeGRForCausalLM, batch: Batch) -> None:
    """Other categories, in the rows and in the tables."""
    roll(batch, "category", 3)
    model.places.category.copy_(model.places.category % 3 + 1)


def elsewhere(model: SpacetimeGRForCausalLM, batch: Batch) -> None:
    """Persons who stand in other blocks."""
    start, block = model.config.vocabulary.block_start, batch["user_block"]
    batch["user_block"] = torch.where(block > 0, start + (block - start + 5) % 12, 0)


def later(batch: Batch) -> None:
    """Requests that happen at other times than the past tells."""
    is_context = batch["user_hash"] > 0
    batch["local_time"] = torch.where(is_context, batch["local_time"] + 40 * 3600, batch["local_time"])


CHANGES: dict[str, Callable[[SpacetimeGRForCausalLM, Batch], None]] = {
    "use_mode": lambda model, batch: turn_contexts(model, batch, 0, 1),
    "use_hour": lambda model, batch: turn_contexts(model, batch, 7, 0),
    "use_gap": lambda model, batch: roll(batch, "gap", 24),
    "use_clock": lambda model, batch: later(batch),
    "use_user_block": elsewhere,
    "use_distance": lambda model, batch: roll(batch, "distance", 20),
    "use_category": other_categories,
    # The coarse position turned by one cell and what is finer kept, and the other way round.
    "use_position": lambda model, batch: other_cells(model, batch, lambda cell: (cell + 16) % 1024),
    "use_fine_position": lambda model, batch: other_cells(model, batch, lambda cell: cell // 16 * 16 + (cell + 1) % 16),
}


def test_every_switch_has_its_change() -> None:
    assert set(CHANGES) == set(SIDE_SWITCHES)


@pytest.mark.parametrize("switch", SIDE_SWITCHES)
def test_what_is_switched_off_is_not_read(tokenizer: SpacetimeGRTokenizer, switch: str) -> None:
    """Another value changes the predictions of a model with it, also of one with nothing else; not of one without."""
    others = dict.fromkeys({*SIDE_SWITCHES} - {switch}, True)
    if switch == "use_position":  # a coarse position says nothing that the fine one does not
        others["use_fine_position"] = False
    off = dict.fromkeys(others, False)
    cases = ((others | {switch: True}, False), (off | {switch: True}, False), (others | {switch: False}, True))
    for options, same in cases:
        model = make_model(tokenizer, **options)
        histories = make_histories(2, [14, 9])
        for history in histories:
            history |= {"user_latitude": 40.8, "user_longitude": -74.1}
        batch = dict(tokenizer(histories, return_tensors="pt"))
        with torch.no_grad():
            before = model(**batch | {"labels": None}).logits
            CHANGES[switch](model, batch)
            after = model(**batch | {"labels": None}).logits
        assert torch.equal(before, after) == same, options


def test_contexts_without_hour_or_mode_are_ids_of_the_tokenizer(tokenizer: SpacetimeGRTokenizer) -> None:
    sizes = tokenizer.config_kwargs()
    start = tokenizer.vocabulary.context_start
    ids = torch.arange(tokenizer.vocab_size)
    contexts = slice(start, tokenizer.vocabulary.block_start)
    others = [*range(start), *range(tokenizer.vocabulary.block_start, tokenizer.vocab_size)]
    mode, hour = torch.arange(len(MODES)).repeat_interleave(HOURS), torch.arange(HOURS).repeat(len(MODES))

    def read(**switches: bool) -> torch.Tensor:
        kept = contexts_read(ids, SpacetimeGRConfig(**sizes, **switches))
        assert torch.equal(kept[others], ids[others])
        return kept[contexts] - start

    assert torch.equal(read(), mode * HOURS + hour)
    assert torch.equal(read(use_hour=False), mode * HOURS + HOURS_PER_WEEK)
    assert torch.equal(read(use_mode=False), hour)
    assert torch.equal(read(use_mode=False, use_hour=False), torch.full_like(hour, HOURS_PER_WEEK))


def test_an_unread_hour_is_the_blind_one(tokenizer: SpacetimeGRTokenizer) -> None:
    """The id that stands for 'no hour' is the one that the blind setting trains."""
    columns, offsets = tokenizer.columns([{"poi_row": [1, 2], "timestamp": [1_340_000_000, 1_340_100_000]}])
    seen, blind = (
        tokenizer.encode_requests(columns, offsets, when=1_340_200_000, blind=blind)["input_ids"]
        for blind in (False, True)
    )
    config = SpacetimeGRConfig(**tokenizer.config_kwargs(), use_hour=False)
    assert contexts_read(seen, config)[0, -1] == blind[0, -1] != seen[0, -1]
