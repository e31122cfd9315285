"""The pointer's relations and memory against values worked out by hand."""

import numpy as np
import pytest
import torch

from spacetime_gr import SpacetimeGRTokenizer
from spacetime_gr.index.geometry import haversine_km
from spacetime_gr.modules.memory import (
    NUM_CLOCK,
    NUM_DISTANCE,
    NUM_ELAPSED,
    NUM_HOUR,
    NUM_RECENCY,
    NUM_RELATIONS,
    NUM_STEP,
    Memory,
    Relations,
    relate,
    typed_slots,
)
from spacetime_gr.modules.token_rows import TokenRows, segments
from tests.spacetime_gr.conftest import make_histories
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model, pack

HOUR, DAY = 3600, 86_400
MONDAY = 1_353_888_000  # 26 November 2012, 00:00


def memory_at(times: list[int]) -> Memory:
    """Memories of one row at the given local times."""
    time = torch.tensor([times])
    slots = torch.arange(len(times)).unsqueeze(0)
    filled = torch.ones_like(slots, dtype=torch.bool)
    ones = torch.ones_like(slots)
    return Memory(torch.zeros(1, len(times), 4), slots, slots, time, ones, 4 * slots + 3, filled, filled)


def related(query_time: int, times: list[int], km: float = float("nan")) -> dict[str, list[int]]:
    """Positions within each kind of relation of one query."""
    memory = memory_at(times)
    visible = torch.ones(1, 1, len(times), dtype=torch.bool)
    found = relate(memory, torch.tensor([[query_time]]), torch.full((1, 1, len(times)), km), visible)
    sizes = (NUM_ELAPSED, NUM_CLOCK, NUM_RECENCY, NUM_DISTANCE, NUM_STEP)
    assert sum(sizes) == NUM_RELATIONS
    return {
        name: (kind - sum(sizes[:number]))[0, 0].tolist()
        for number, (name, kind) in enumerate(zip(Relations._fields, found, strict=True))
    }


def clock(day: int, half_hours: int) -> int:
    return day * NUM_HOUR + 1 + half_hours


def test_relations_by_hand() -> None:
    noon = MONDAY + 12 * HOUR
    found = related(noon, [noon - 7 * DAY, noon - 3 * DAY, noon - 2 * DAY, noon - HOUR])
    assert found["elapsed"] == [1 + int(2 * torch.log2(torch.tensor(1.0 + h))) for h in (168, 72, 48, 1)]
    # A Monday; Friday: both working; Saturday: mixed; the same day an hour ago.
    assert found["clock"] == [clock(1, 0), clock(2, 0), clock(4, 0), clock(1, 2)]
    assert found["recency"] == [4, 3, 2, 0]  # 4, 3, 2, 1 actions ago
    assert found["distance"] == [0, 0, 0, 0]  # not known
    # 23 h and 1 h are 2 hours apart; differences are rounded to the half hour.
    assert related(MONDAY + 23 * HOUR, [MONDAY + HOUR])["clock"] == [clock(1, 4)]
    assert related(noon, [noon - 14 * 60, noon - 16 * 60])["clock"] == [clock(1, 0), clock(1, 1)]
    saturday = MONDAY + 5 * DAY
    assert related(saturday + DAY, [saturday])["clock"] == [clock(3, 0)]  # Sunday and Saturday: both weekend


def test_hidden_times_are_unknown() -> None:
    for query_time, times in ((0, [MONDAY]), (MONDAY, [0])):
        found = related(query_time, times)
        assert (found["elapsed"], found["clock"]) == ([0], [0])


def test_distance_buckets_rise() -> None:
    buckets = [related(MONDAY, [MONDAY], km)["distance"][0] for km in (0.0, 0.2, 1.0, 10.0, 1e5)]
    assert buckets[0] == 1
    assert buckets == sorted(set(buckets))


def test_steps_from_where_the_person_is() -> None:
    """Two people in one row; the second was at A (block 5, inner 0), B (5, 1), A, C (6, 0), D (5, 2), A."""
    memory = memory_at([MONDAY] * 8)
    memory.block = torch.tensor([[5, 5, 5, 5, 5, 6, 5, 5]])
    memory.inner = torch.tensor([[0, 0, 0, 1, 0, 0, 2, 0]])
    memory.segment = torch.tensor([[1, 1, 2, 2, 2, 2, 2, 2]])
    position = memory.position + 1
    visible = memory.before(position, memory.segment)
    distance = torch.full(visible.shape, float("nan"))
    step = relate(memory, memory.local_time, distance, visible).step - (NUM_RELATIONS - NUM_STEP)
    # After the last A: A has none before, B followed A, A followed another place of the block (B), C followed A, D
    # followed another block, A another place of the block (D).
    assert step[0, 7, 2:].tolist() == [0, 1, 2, 1, 3, 2]
    assert step[0, 5, 2:6].tolist() == [0, 3, 3, 3]  # after C nothing has followed C
    assert step[0, 1, :2].tolist() == [0, 1]


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


def test_first_visits(tokenizer: SpacetimeGRTokenizer) -> None:
    """An action is the first at its place unless the same person's row says so earlier; unknown places do not count."""
    histories = [
        {**history, "poi_row": np.array(rows)}
        for history, rows in zip(make_histories(0, [6, 2]), ([3, 4, 3, -1, -1, 5], [3, 3]), strict=True)
    ]
    batch = pack([dict(tokenizer([history], return_tensors="pt")) for history in histories])
    segment = segments(batch["position_ids"])
    tokens = TokenRows(
        batch["input_ids"], torch.zeros(*segment.shape, 2), segment, batch["local_time"], batch["user_block"]
    )
    memory = tokens.memory(make_model(tokenizer).config)
    assert memory.first[memory.filled].tolist() == [True, True, False, True, True, False]
