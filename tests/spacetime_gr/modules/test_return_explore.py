"""The pointer's relations and memory against values worked out by hand."""

import pytest
import torch

from spacetime_gr.index.geometry import haversine_km
from spacetime_gr.modules.return_explore import (
    NUM_DAY,
    NUM_ELAPSED,
    NUM_HOUR,
    NUM_RECENCY,
    Memory,
    pointed_log_mass,
    relations,
    typed_slots,
)
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

HOUR, DAY = 3600, 86_400
MONDAY = 1_353_888_000  # 26 November 2012, 00:00


def memory_at(times: list[int]) -> Memory:
    """Memories of one row at the given local times."""
    time = torch.tensor([times])
    slots = torch.arange(len(times)).unsqueeze(0)
    filled = torch.ones_like(slots, dtype=torch.bool)
    return Memory(torch.zeros(1, len(times), 4), slots, slots, time, torch.ones_like(slots), 4 * slots + 3, filled)


def relate(query_time: int, times: list[int], km: float = float("nan")) -> list[list[int]]:
    """Positions within each kind of relation: elapsed, hour, day, recency, distance; one list per kind."""
    memory = memory_at(times)
    visible = torch.ones(1, 1, len(times), dtype=torch.bool)
    kinds = relations(memory, torch.tensor([[query_time]]), torch.full((1, 1, len(times)), km), visible)
    first = [0, NUM_ELAPSED, NUM_ELAPSED + NUM_HOUR, NUM_ELAPSED + NUM_HOUR + NUM_DAY]
    first.append(first[-1] + NUM_RECENCY)
    return [(kind - start)[0, 0].tolist() for kind, start in zip(kinds, first, strict=True)]


def test_relations_by_hand() -> None:
    noon = MONDAY + 12 * HOUR
    elapsed, hour, day, recency, distance = relate(noon, [noon - 7 * DAY, noon - 3 * DAY, noon - 2 * DAY, noon - HOUR])
    assert elapsed == [1 + int(2 * torch.log2(torch.tensor(1.0 + h))) for h in (168, 72, 48, 1)]
    assert hour == [1, 1, 1, 2]
    assert day == [1, 2, 4, 1]  # a Monday; Friday: both working; Saturday: mixed; the same day
    assert recency == [4, 3, 2, 0]  # 4, 3, 2, 1 actions ago
    assert distance == [0, 0, 0, 0]  # not known
    assert relate(MONDAY + 23 * HOUR, [MONDAY + DAY * -1 + HOUR])[1] == [1 + 2]  # 23 h and 1 h are 2 hours apart
    saturday = MONDAY + 5 * DAY
    assert relate(saturday + DAY, [saturday])[2] == [3]  # Sunday and Saturday: both weekend


def test_hidden_times_are_unknown() -> None:
    assert [kind[0] for kind in relate(0, [MONDAY])[:3]] == [0, 0, 0]
    assert [kind[0] for kind in relate(MONDAY, [0])[:3]] == [0, 0, 0]


def test_distance_buckets_rise() -> None:
    buckets = [relate(MONDAY, [MONDAY], km)[4][0] for km in (0.0, 0.2, 1.0, 10.0, 1e5)]
    assert buckets[0] == 1
    assert buckets == sorted(set(buckets))


def test_distance_between_blocks(tokenizer: object) -> None:
    places = make_model(tokenizer).places  # type: ignore[arg-type]
    here, there = torch.tensor([0, 3, -1, 0]), torch.tensor([5, 3, 2, 10_000])
    distance = places.distance_km(here, there)
    centers = places.block_centers.double().numpy()
    assert float(distance[0]) == pytest.approx(float(haversine_km(*centers[0], *centers[5])), rel=1e-3)
    assert float(distance[1]) == 0.0
    assert distance[2:].isnan().all()


def test_typed_slots_and_visibility() -> None:
    is_type = torch.tensor([[False, True, False, True, True]])
    position, filled = typed_slots(is_type, 4)
    assert position[filled].tolist() == [1, 3, 4]
    memory = memory_at([MONDAY] * 3)
    memory.segment[0, 0] = 7  # another person in the same row
    visible = memory.before(torch.tensor([[8, 3]]), torch.ones(1, 2, dtype=torch.long))
    assert visible[0].tolist() == [[False, True, False], [False, False, False]]


def test_pointed_mass() -> None:
    log_weights = torch.tensor([0.5, 0.3, 0.2]).log()
    matches = torch.tensor([[True, False, True], [False, False, False]])
    mass = pointed_log_mass(log_weights.expand(2, 3), matches)
    assert float(mass[0].exp()) == pytest.approx(0.7)
    assert float(mass[1]) < -1e29
