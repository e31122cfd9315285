"""The pointer and its gate against the formulas written out place by place."""

import math

import pytest
import torch
from torch import Tensor

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.memory import NUM_RELATIONS, Memory, Relations
from spacetime_gr.modules.return_explore import MIN_SHARE, NOVELTY_LIVES, NUM_SHARES, ReturnExplore, pointed_log_mass

BATCH, QUERIES, SLOTS, WIDTH = 2, 3, 9, 8


def pointer_case() -> tuple[ReturnExplore, dict]:
    """A head with every weight at random, and arguments of its call; the last query of the first row sees nothing."""
    generator = torch.Generator().manual_seed(0)
    config = SpacetimeGRConfig(
        num_blocks=4, num_inner=4, num_actions=1, num_contexts=4, num_pois=16, hidden_size=WIDTH, pointer_size=4,
        intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=4,
    )  # fmt: skip
    head = ReturnExplore(config).double()
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    slots = torch.arange(SLOTS).expand(BATCH, SLOTS)
    filled = torch.ones_like(slots, dtype=torch.bool)
    first = torch.rand(BATCH, SLOTS, generator=generator) < 0.5
    memory = Memory(numbers(BATCH, SLOTS, WIDTH), slots, slots, slots, slots, slots, filled, first)
    visible = torch.rand(BATCH, QUERIES, SLOTS, generator=generator) < 0.7
    visible[0, -1] = False
    kinds = [torch.randint(NUM_RELATIONS, (BATCH, QUERIES, SLOTS), generator=generator) for _ in Relations._fields]
    pointed = torch.randint(10, 14, (BATCH, SLOTS), generator=generator)
    return head, {
        "hidden": numbers(BATCH, QUERIES, WIDTH),
        "memory": memory,
        "pointed": pointed,
        "visible": visible,
        "relations": Relations(*kinds),
    }


def by_hand(head: ReturnExplore, case: dict, row: int, query: int) -> tuple[dict[int, float], float]:
    """Probability of each place, and the gate's odds, with loops."""
    hidden, pointed = case["hidden"][row, query], case["pointed"][row].tolist()
    seen = case["visible"][row, query].nonzero().flatten().tolist()
    content = head.key(case["memory"].hidden[row]) @ head.query(hidden) * head.scale
    bias = head.relation(hidden)
    elapsed, clock, recency, distance, step = (bias[kind[row, query]] for kind in case["relations"])
    recent = elapsed + recency
    views = [content + recent + clock + distance + step, recent, clock, content + step]
    places = sorted({pointed[slot] for slot in seen})
    pool = head.pool(hidden).tolist()
    pool[0] += 1.0
    scores, clock_shares = [], []
    for place in places:
        visits = [slot for slot in seen if pointed[slot] == place]
        shares = [float(torch.softmax(view[seen], 0)[[seen.index(slot) for slot in visits]].sum()) for view in views]
        clock_shares.append(shares[2])
        score = sum(weight * math.log(share + MIN_SHARE) for weight, share in zip(pool, shares, strict=False))
        scores.append(score + pool[NUM_SHARES] * math.log(len(visits)))
    probability = torch.tensor(scores, dtype=torch.float64).softmax(0)
    entropy = -float((probability * probability.log()).sum())
    signs = [math.log(probability.max()), math.log(max(clock_shares) + MIN_SHARE), math.log1p(len(seen)), entropy]
    first = case["memory"].first[row].tolist()
    for life in NOVELTY_LIVES:
        weights = [0.5 ** ((len(seen) - number) / life) for number in range(len(seen))]  # the last one is 1 ago
        new = sum(weight for weight, slot in zip(weights, seen, strict=True) if first[slot])
        signs.append(new / sum(weights))
    odds = head.gate(hidden) + head.gate_signs(torch.tensor(signs, dtype=torch.float64))
    return dict(zip(places, probability.tolist(), strict=True)), float(odds)


@torch.no_grad()
def test_places_are_scored_by_the_pool_of_their_shares() -> None:
    head, case = pointer_case()
    log_weights, log_explore, log_return = head(**case)
    for row in range(BATCH):
        for query in range(QUERIES):
            if not case["visible"][row, query].any():
                continue
            expected, odds = by_hand(head, case, row, query)
            for place, probability in expected.items():
                mass = pointed_log_mass(log_weights[row, query], case["pointed"][row] == place)
                assert float(mass.exp()) == pytest.approx(probability, rel=1e-9)
            assert float(log_explore[row, query]) == pytest.approx(math.log(1 / (1 + math.exp(-odds))), rel=1e-6)
            assert float(log_explore[row, query].exp() + log_return[row, query].exp()) == pytest.approx(1.0)


@torch.no_grad()
def test_nothing_to_return_to() -> None:
    head, case = pointer_case()
    log_weights, log_explore, log_return = head(**case)
    assert float(log_explore[0, -1]) == 0.0
    assert float(log_return[0, -1]) < -1e29
    assert (log_weights[0, -1] < -1e29).all()


@torch.no_grad()
def test_without_a_pool_it_is_the_softmax_over_visits() -> None:
    head, case = pointer_case()
    head.pool.weight.zero_()
    head.pool.bias.zero_()
    views = head._views(case["hidden"], case["memory"], case["relations"])[:, 0]
    expected = views.masked_fill(~case["visible"], -math.inf).softmax(-1)
    log_weights, *_ = head(**case)
    for row, query in ((0, 0), (1, 2)):
        for place in case["pointed"][row].unique():
            matches = case["pointed"][row] == place
            assert float(log_weights[row, query][matches].exp().sum()) == pytest.approx(
                float(expected[row, query][matches].sum()), abs=20 * MIN_SHARE
            )


@torch.no_grad()
def test_the_knob_multiplies_the_odds() -> None:
    head, case = pointer_case()
    settings = torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(-1, 1, 1)
    _, log_explore, log_return = head(**case, explore_odds=settings)
    odds = (log_explore - log_return)[:, 1]
    assert torch.allclose(odds[1] - odds[0], torch.full((QUERIES,), math.log(3.0), dtype=torch.float64))


def test_pointed_mass() -> None:
    log_weights = torch.tensor([0.5, 0.3, 0.2]).log()
    matches = torch.tensor([[True, False, True], [False, False, False]])
    mass = pointed_log_mass(log_weights.expand(2, 3), matches)
    assert float(mass[0].exp()) == pytest.approx(0.7)
    assert float(mass[1]) < -1e29
