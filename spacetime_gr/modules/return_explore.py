"""The return-explore head: a pointer over the person's own past, mixed with the softmax by a gate.

    p(token) = g * softmax(token) + (1 - g) * sum of pointer weights over the past tokens that equal it

Most next places are returns, and a softmax over a vocabulary is a poor memory of one person. `g`, read from the hidden
state, is the probability that the person explores; where there is nothing to return to, g = 1. In training only the
target's mass is needed, so nothing is scattered into the vocabulary and the cost does not grow with it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.typed_heads import NEVER, full_precision
from spacetime_gr.vocabulary import TOKENS_PER_ACTION, UNK

NUM_ELAPSED, NUM_HOUR, NUM_DAY, NUM_RECENCY, NUM_DISTANCE = 24, 14, 5, 24, 24
NUM_RELATIONS = NUM_ELAPSED + NUM_HOUR + NUM_DAY + NUM_RECENCY + NUM_DISTANCE


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
    """Whole past actions of a batch of rows: what a pointer can point to. All of shape (batch, num_slots[, width])."""

    hidden: Tensor
    block: Tensor
    inner: Tensor
    local_time: Tensor
    segment: Tensor
    position: Tensor
    filled: Tensor

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
        block = pick(input_ids, 2)
        return cls(
            hidden=hidden.gather(1, position.unsqueeze(-1).expand(-1, -1, width)),
            block=block,
            inner=pick(input_ids, 1),
            local_time=pick(local_time, 0),
            segment=pick(segment, 0),
            position=position,
            filled=filled & (position >= TOKENS_PER_ACTION - 1) & (block != UNK),
        )

    def before(self, position: Tensor, segment: Tensor) -> Tensor:
        """Which memories each query may see: earlier ones of the same sequence; shape (batch, queries, num_slots)."""
        earlier = self.position.unsqueeze(1) < position.unsqueeze(2)
        return earlier & (self.segment.unsqueeze(1) == segment.unsqueeze(2)) & self.filled.unsqueeze(1)


def relations(memory: Memory, local_time: Tensor, distance_km: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
    """How each query relates to each memory: five positions in one table of biases, each (batch, queries, slots).

    Time passed (log buckets of hours), difference of the hour of day (0 to 12), of the day (same weekday, both working
    days, both weekend, mixed), how many actions ago (log buckets), and how far the person stands from there (log
    buckets of `distance_km`, NaN unknown). Where a time is hidden, the bucket 'unknown'.
    """
    query_time, key_time = local_time.unsqueeze(2), memory.local_time.unsqueeze(1)
    unknown = (query_time == 0) | (key_time == 0)
    hours = (query_time - key_time).clamp(min=0).float() / 3600.0
    elapsed = 1 + (2.0 * torch.log2(1.0 + hours)).long().clamp(max=NUM_ELAPSED - 2)
    query_hour, key_hour = query_time // 3600, key_time // 3600
    apart = (query_hour - key_hour) % 24
    hour = 1 + torch.minimum(apart, 24 - apart)
    query_day, key_day = (query_hour // 24 + 3) % 7, (key_hour // 24 + 3) % 7  # Monday is 0; 1970 began on a Thursday
    both_weekend = (query_day >= 5) & (key_day >= 5)
    both_working = (query_day < 5) & (key_day < 5)
    day = torch.where(query_day == key_day, 1, torch.where(both_working, 2, torch.where(both_weekend, 3, 4)))
    # Visible memories counted from the query backwards: how many actions at known places ago each was.
    ago = visible.flip(-1).cumsum(-1).flip(-1).clamp(min=1)
    recency = (2.0 * torch.log2(ago.float())).long().clamp(max=NUM_RECENCY - 1)
    near = 1 + (2.0 * torch.log2(1.0 + 4.0 * distance_km.nan_to_num(0.0))).long().clamp(max=NUM_DISTANCE - 2)
    zero = torch.zeros_like(elapsed)
    return (
        torch.where(unknown, zero, elapsed),
        NUM_ELAPSED + torch.where(unknown, zero, hour),
        NUM_ELAPSED + NUM_HOUR + torch.where(unknown, zero, day),
        NUM_ELAPSED + NUM_HOUR + NUM_DAY + recency,
        NUM_ELAPSED + NUM_HOUR + NUM_DAY + NUM_RECENCY + torch.where(distance_km.isnan(), zero, near),
    )


class ReturnExplore(nn.Module):
    """Pointer and gate of one typed head."""

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        self.scale = config.pointer_size**-0.5
        self.query = nn.Linear(config.hidden_size, config.pointer_size, bias=False)
        self.key = nn.Linear(config.hidden_size, config.pointer_size, bias=False)
        self.relation = nn.Linear(config.hidden_size, NUM_RELATIONS)
        self.gate = nn.Linear(config.hidden_size, 1)

    def forward(
        self,
        hidden: Tensor,
        memory: Memory,
        visible: Tensor,
        relation: tuple[Tensor, ...],
        explore_odds: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pointer and gate for a grid of queries.

        Args:
            hidden: states of the queries, shape (batch, queries, hidden_size).
            memory: what can be pointed to.
            visible: which memories each query may point to, shape (batch, queries, slots).
            relation: from `relations`, each (batch, queries, slots).
            explore_odds: factor on the gate's odds g / (1 - g): the discovery knob (1 = as learnt); several settings
                at once have the shape (settings, 1, 1).

        Returns:
            log pointer weights (batch, queries, slots), `NEVER` where not visible; log g and log (1 - g), both
            ([settings,] batch, queries). All at least float32.
        """
        scores = self.scale * self.query(hidden) @ self.key(memory.hidden).transpose(1, 2)
        bias = self.relation(hidden)
        for kind in relation:
            scores = scores + bias.gather(-1, kind)
        scores = full_precision(scores).masked_fill(~visible, NEVER)
        anything = visible.any(-1)
        log_weights = torch.where(visible, functional.log_softmax(scores, dim=-1), NEVER)
        shift = explore_odds.log() if isinstance(explore_odds, Tensor) else math.log(explore_odds)
        odds = full_precision(self.gate(hidden).squeeze(-1)) + shift
        log_explore = torch.where(anything, functional.logsigmoid(odds), 0.0)
        log_return = torch.where(anything, functional.logsigmoid(-odds), NEVER)
        return log_weights, log_explore, log_return


def pointed_log_mass(log_weights: Tensor, matches: Tensor) -> Tensor:
    """Log of the pointer's mass on the memories that match, `NEVER` where none does; over the last dimension."""
    mass = torch.logsumexp(log_weights.masked_fill(~matches, NEVER), dim=-1)
    return torch.where(matches.any(-1), mass, NEVER)


@dataclass
class Pointer:
    """Result of a pointer: tokens (batch, slots), log weights (batch, queries, slots), log gate and its complement,
    both with a dimension of settings before (batch, queries) if the knob has several."""

    tokens: Tensor
    log_weights: Tensor
    log_explore: Tensor
    log_return: Tensor


def mix_into(log_probs: Tensor, pointer: Pointer, first_token: int) -> Tensor:
    """Log-probabilities of the mixture over a whole range of tokens, shape ([settings,] batch * queries, classes).

    Args:
        log_probs: softmax part, shape (batch * queries, classes).
        pointer: pointer at the grid of queries.
        first_token: token id of class 0.
    """
    batch, queries, slots = pointer.log_weights.shape
    classes = log_probs.shape[-1]
    target = (pointer.tokens - first_token).clamp(0, classes - 1).unsqueeze(1).expand(batch, queries, slots)
    mass = log_probs.new_zeros(batch, queries, classes)
    mass = mass.scatter_add(2, target, pointer.log_weights.exp()).flatten(0, 1)
    # Never been there: no mass at all, so that what cannot be (a spare block) keeps a probability of zero.
    returned = mass.clamp(min=torch.finfo(mass.dtype).tiny).log().masked_fill(mass == 0, NEVER)
    returned = returned + pointer.log_return.flatten(-2).unsqueeze(-1)
    return torch.logaddexp(pointer.log_explore.flatten(-2).unsqueeze(-1) + log_probs, returned)
