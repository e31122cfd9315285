"""Habits and the given features of candidates against values worked out by hand."""

import math

import pytest
import torch

from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.modules.habits import MIN_SHARE, Habits
from spacetime_gr.modules.memory import NUM_TIME_RELATIONS, TimeRelations
from spacetime_gr.modules.zero_start import ZeroLinear
from tests.spacetime_gr.test_modeling_spacetime_gr import batch_of, make_model

QUERIES, SLOTS, WIDTH, CATEGORIES = 4, 7, 6, 3


@torch.no_grad()
def test_scores_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    config = SpacetimeGRConfig(num_categories=CATEGORIES, hidden_size=WIDTH, num_attention_heads=2)
    habits = Habits(config).double()
    for parameter in habits.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    hidden = torch.randn(1, QUERIES, WIDTH, generator=generator, dtype=torch.float64)
    category = torch.tensor([[1, 0, 3, 1, 1, 3, 0]])
    visible = torch.rand(1, QUERIES, SLOTS, generator=generator) < 0.6
    visible[0, -1] = False  # knows nothing: every category the same
    kinds = [torch.randint(NUM_TIME_RELATIONS, (1, QUERIES, SLOTS), generator=generator) for _ in range(3)]
    scores = habits(hidden, category, CATEGORIES, visible, TimeRelations(*kinds))
    for query in range(QUERIES):
        bias, weight = habits.relation(hidden[0, query]), float(habits.weight(hidden[0, query]))
        strength = {slot: sum(bias[kind[0, query, slot]] for kind in kinds).exp().item()
                    for slot in visible[0, query].nonzero().flatten().tolist()}  # fmt: skip
        total = sum(strength.values())
        for number in range(CATEGORIES + 1):
            share = sum(value for slot, value in strength.items() if category[0, slot] == number) / max(total, 1e-9)
            assert scores[0, query, number].item() == pytest.approx(weight * math.log(share + MIN_SHARE))


@torch.no_grad()
def test_a_place_in_a_habitual_category_gains(tokenizer: SpacetimeGRTokenizer) -> None:
    """With habits that weigh shares only, candidates of the person's one category gain, all of it, and no others."""
    model = make_model(tokenizer, return_explore=False).double()
    batch = batch_of(tokenizer, 2, [9])
    batch.pop("labels")
    assert model.habits is not None
    for parameter in model.habits.parameters():
        parameter.zero_()
    vocabulary, places = model.config.vocabulary, model.places
    column = int((batch["input_ids"][0] >= vocabulary.block_start).nonzero()[-3])  # the last block token
    assert vocabulary.block_start <= batch["input_ids"][0, column] < vocabulary.inner_start

    def log_probs() -> torch.Tensor:
        return model(**batch).logits[0, column, vocabulary.inner_start : vocabulary.action_start]

    before = log_probs()
    model.habits.weight.bias.fill_(1.0)
    gain = log_probs() - before
    block = batch["input_ids"][:, column] - vocabulary.block_start
    at, exists = places.candidates(block)
    seen = batch["input_ids"][0, :column]
    blocks = seen[(seen >= vocabulary.block_start) & (seen < vocabulary.inner_start)] - vocabulary.block_start
    inner = seen[(seen >= vocabulary.inner_start) & (seen < vocabulary.action_start)] - vocabulary.inner_start
    past = places.category[places.find(blocks, inner)[0]].tolist()
    expected = torch.tensor([math.log(past.count(number) / len(past) + MIN_SHARE) for number in places.category[at[0]]])
    difference = (gain - expected)[exists[0]]
    assert torch.allclose(difference, difference[:1].expand_as(difference))  # but for the softmax's constant


@torch.no_grad()
def test_candidates_start_from_their_visitors(tokenizer: SpacetimeGRTokenizer) -> None:
    """With the token table and the random features silent, a block's places share it as their visitors do."""
    torch.manual_seed(0)
    config = SpacetimeGRConfig(**tokenizer.config_kwargs(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = SpacetimeGRForCausalLM(config)
    model.load_places(tokenizer.index)
    scores = model.inner_scores
    starting_at_zero = {name for name, module in scores.named_children() if isinstance(module, ZeroLinear)}
    assert starting_at_zero == {"prior", "popularity", "loyalty"}
    for layer in (model.lm_head, scores.category, scores.cell):
        for parameter in layer.parameters():
            parameter.zero_()
    blocks = torch.arange(tokenizer.index.num_blocks)
    found = scores(model.lm_head, model.places, torch.randn(len(blocks), 16), blocks).softmax(-1)
    at, exists = model.places.candidates(blocks)
    visitors = tokenizer.index.visitors(tokenizer.index.rows_in_order())
    assert len(set(visitors.tolist())) > 3
    share = torch.from_numpy(visitors + 1.0)[at] * exists
    ratio = (found / (share / share.sum(-1, keepdim=True)))[exists]
    assert ratio.min() > 0.5 ** (1 / 3) - 1e-6  # a bucket is a third of an octave wide
    assert ratio.max() < 2 ** (1 / 3) + 1e-6
