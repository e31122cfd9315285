"""What a pointer may point to: the person's past actions, and how a request relates to each of them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from spacetime_gr.vocabulary import TOKENS_PER_ACTION, UNK

NUM_ELAPSED, NUM_HOUR, NUM_DAY, NUM_RECENCY, NUM_DISTANCE, NUM_STEP = 24, 26, 5, 24, 24, 4
NUM_CLOCK = NUM_DAY * NUM_HOUR
NUM_TIME_RELATIONS = NUM_ELAPSED + NUM_CLOCK + NUM_RECENCY
NUM_RELATIONS = NUM_TIME_RELATIONS + NUM_DISTANCE + NUM_STEP
_DAY = 86_400
_HALF_HOUR = 1_800


def typed_slots(is_type: Tensor, num_slots: int) -> tuple[Tensor, Tensor]:
    """Positions of the tokens of one type, row by row, in a fixed number of slots.

    Args:
        is_type: mask, shape (batch, length).
        num_slots: how many a row can have at most.

    Returns:
        positions (batch, num_slots) and which of the slots are filled.
    """
    positions = torch.argsort((~is_type).to(torch.int8), dim=-1, stable=True)[:, :num_slots]
    return positions, is_type.gather(1, positions)


@dataclass
class Memory:
    """Whole past actions of a batch of rows: what a pointer can point to. All of shape (batch, num_slots[, width]).

    `first`: whether the person had not been at that place before, as far as the row tells.
    """

    hidden: Tensor
    block: Tensor
    inner: Tensor
    local_time: Tensor
    segment: Tensor
    position: Tensor
    filled: Tensor
    first: Tensor

    @classmethod
    def collect(
        cls, input_ids: Tensor, hidden: Tensor, segment: Tensor, local_time: Tensor, is_action: Tensor
    ) -> "Memory":
        """Memory of the action tokens `a` of token rows: by then the model has read the whole action.

        Actions at unknown places are left out: nobody can be sent back there.
        """
        num_slots = input_ids.shape[1] // TOKENS_PER_ACTION + 1
        position, filled = typed_slots(is_action, num_slots)

        def pick(values: Tensor, back: int) -> Tensor:
            return values.gather(1, (position - back).clamp(min=0))

        width = hidden.shape[-1]
        block, inner, sequence = pick(input_ids, 2), pick(input_ids, 1), pick(segment, 0)
        filled = filled & (position >= TOKENS_PER_ACTION - 1) & (block != UNK)
        return cls(
            hidden=hidden.gather(1, position.unsqueeze(-1).expand(-1, -1, width)),
            block=block,
            inner=inner,
            local_time=pick(local_time, 0),
            segment=sequence,
            position=position,
            filled=filled,
            first=~_repeated(filled, block, inner, sequence),
        )

    def before(self, position: Tensor, segment: Tensor) -> Tensor:
        """Which memories each query may see: earlier ones of the same sequence; shape (batch, queries, num_slots)."""
        earlier = self.position.unsqueeze(1) < position.unsqueeze(2)
        return earlier & (self.segment.unsqueeze(1) == segment.unsqueeze(2)) & self.filled.unsqueeze(1)


def _repeated(filled: Tensor, *values: Tensor) -> Tensor:
    """Which slots say in all `values` what an earlier, filled one says; shape (batch, slots)."""
    same = filled.unsqueeze(1)
    for value in values:
        same = same & (value.unsqueeze(1) == value.unsqueeze(2))
    return same.tril(-1).any(-1)


class Relations(NamedTuple):
    """How each query relates to each memory: positions in one table of `NUM_RELATIONS` biases, (batch, queries, slots).

    Attributes:
        elapsed: time passed, log buckets of hours.
        clock: difference of the time of day (0 to 12 h in steps of half an hour) x of the day (same weekday, both
            working days, both weekend, mixed).
        recency: how many visible actions ago, log buckets.
        distance: how far the person stands from there, log buckets of km.
        step: whether that action followed upon the place where the person is now (the query's last visible memory):
            none before it, that very place, another place of its block, elsewhere.

    Where a time or a distance is not known, the bucket 0 of its kind.
    """

    elapsed: Tensor
    clock: Tensor
    recency: Tensor
    distance: Tensor
    step: Tensor


class TimeRelations(NamedTuple):
    """The relations of time alone, of `Relations`: positions in a table of `NUM_TIME_RELATIONS` biases."""

    elapsed: Tensor
    clock: Tensor
    recency: Tensor


def relate_times(memory: Memory, local_time: Tensor, visible: Tensor) -> TimeRelations:
    """Relations of queries to memories in time; arguments as of `relate`."""
    start_clock = NUM_ELAPSED
    start_recency = start_clock + NUM_CLOCK
    query_time, key_time = local_time.unsqueeze(2), memory.local_time.unsqueeze(1)
    unknown = (query_time == 0) | (key_time == 0)
    hours = (query_time - key_time).clamp(min=0).float() / 3600.0
    elapsed = 1 + (2.0 * torch.log2(1.0 + hours)).long().clamp(max=NUM_ELAPSED - 2)
    return TimeRelations(
        elapsed.masked_fill(unknown, 0),
        start_clock + _clock(query_time, key_time).masked_fill(unknown, 0),
        start_recency + _recency(visible),
    )


def relate(memory: Memory, local_time: Tensor, distance_km: Tensor, visible: Tensor) -> Relations:
    """Relations of queries to memories.

    Args:
        memory: of slots in rising order of position.
        local_time: of the queries in seconds, 0 hidden, shape (batch, queries).
        distance_km: NaN unknown, shape (batch, queries, slots).
        visible: from `Memory.before`, shape (batch, queries, slots).
    """
    start_distance = NUM_TIME_RELATIONS
    start_step = start_distance + NUM_DISTANCE
    near = 1 + (2.0 * torch.log2(1.0 + 4.0 * distance_km.nan_to_num(0.0))).long().clamp(max=NUM_DISTANCE - 2)
    return Relations(
        *relate_times(memory, local_time, visible),
        start_distance + near.masked_fill(distance_km.isnan(), 0),
        start_step + _step(memory, visible),
    )


def _clock(query_time: Tensor, key_time: Tensor) -> Tensor:
    apart = (query_time - key_time) % _DAY
    hour = 1 + (torch.minimum(apart, _DAY - apart) + _HALF_HOUR // 2) // _HALF_HOUR
    query_day, key_day = (query_time // _DAY + 3) % 7, (key_time // _DAY + 3) % 7  # Monday is 0; 1970: a Thursday
    both_weekend = (query_day >= 5) & (key_day >= 5)
    both_working = (query_day < 5) & (key_day < 5)
    day = torch.where(query_day == key_day, 1, torch.where(both_working, 2, torch.where(both_weekend, 3, 4)))
    return NUM_HOUR * day + hour


def visits_ago(visible: Tensor) -> Tensor:
    """Visible memories counted from the query backwards, the last one 1; shape (batch, queries, slots)."""
    return visible.flip(-1).cumsum(-1).flip(-1)


def _recency(visible: Tensor) -> Tensor:
    return (2.0 * torch.log2(visits_ago(visible).clamp(min=1).float())).long().clamp(max=NUM_RECENCY - 1)


def _step(memory: Memory, visible: Tensor) -> Tensor:
    slots = torch.arange(visible.shape[-1], device=visible.device)
    last = (slots * visible).amax(-1)  # (batch, queries)

    def leads_on(values: Tensor) -> Tensor:
        """Whether what stood before each memory is what stands at the query's last one."""
        return before(values).unsqueeze(1) == values.gather(1, last).unsqueeze(2)

    def before(values: Tensor) -> Tensor:
        return functional.pad(values[:, :-1], (1, 0), value=-1)

    same_block = leads_on(memory.block)
    first = (before(memory.segment) != memory.segment).unsqueeze(1)
    step = torch.where(same_block & leads_on(memory.inner), 1, torch.where(same_block, 2, 3))
    return step.masked_fill(first, 0)
