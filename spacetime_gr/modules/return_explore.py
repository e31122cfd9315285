"""The return-explore head: a pointer over the person's own past, mixed with the softmax by a gate.

    p(token) = g * softmax(token) + (1 - g) * sum of pointer weights over the past tokens that equal it

Most next places are returns, and a softmax over a vocabulary is a poor memory of one person. `g`, read from the hidden
state and from what the pointer found, is the probability that the person explores; where there is nothing to return
to, g = 1. In training only the
target's mass is needed, so nothing is scattered into the vocabulary and the cost does not grow with it.

The pointer weighs the past visits in several ways, by how long ago they were, by the time of day, by what they followed
upon, and by all of it at once. Each way gives the places of the past a share; a place's score is a weighted sum of the
logarithms of its shares (a logarithmic opinion pool: Genest and Zidek, 1986), with weights read from the hidden state.
So a place that one visit speaks for by its hour and another by what came before it gains from both, which no single
softmax over visits can say.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.memory import NUM_RELATIONS, Memory, Relations, visits_ago
from spacetime_gr.modules.typed_heads import NEVER, full_precision
from spacetime_gr.modules.zero_start import ZeroLinear

NUM_SHARES = 4
EVERYTHING, RECENCY, CLOCK, STEP = range(NUM_SHARES)
NOVELTY_LIVES = (math.inf, 30.0, 8.0)  # visits after which one counts half in the share of first visits
NUM_SIGNS = 4 + len(NOVELTY_LIVES)  # what the gate sees
MIN_SHARE = 1e-5  # added to each share: no single way rules a place out


class ReturnExplore(nn.Module):
    """Pointer and gate of one typed head."""

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        self.scale = config.pointer_size**-0.5
        self.query = nn.Linear(config.hidden_size, config.pointer_size, bias=False)
        self.key = nn.Linear(config.hidden_size, config.pointer_size, bias=False)
        self.relation = nn.Linear(config.hidden_size, NUM_RELATIONS)
        self.pool = ZeroLinear(config.hidden_size, NUM_SHARES + 1)
        self.gate = nn.Linear(config.hidden_size, 1)
        self.gate_signs = ZeroLinear(NUM_SIGNS, 1, bias=False)

    def forward(
        self,
        hidden: Tensor,
        memory: Memory,
        pointed: Tensor,
        visible: Tensor,
        relations: Relations,
        explore_odds: float | Tensor = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pointer and gate for a grid of queries.

        Args:
            hidden: states of the queries, shape (batch, queries, hidden_size).
            memory: what can be pointed to.
            pointed: the tokens that the memories stand for, shape (batch, slots).
            visible: which memories each query may point to, shape (batch, queries, slots).
            relations: from `memory.relate`.
            explore_odds: factor on the gate's odds g / (1 - g): the discovery knob (1 = as learnt); several settings
                at once have the shape (settings, 1, 1).

        Returns:
            log pointer weights (batch, queries, slots), `NEVER` where not visible; the visits of a place share its
            weight evenly; log g and log (1 - g), both ([settings,] batch, queries). All at least float32.
        """
        views = self._views(hidden, memory, relations).masked_fill(~visible.unsqueeze(1), NEVER)
        same = (pointed.unsqueeze(1) == pointed.unsqueeze(2)).to(views.dtype)  # (batch, slots, slots)
        weights = functional.softmax(views, dim=-1).flatten(1, 2)
        with torch.autocast(views.device.type, enabled=False):  # half precision counts to 256 and knows three digits
            # The visits of each place, and its shares, at every one of its slots.
            log_visits = (visible.to(views.dtype) @ same).clamp(min=1.0).log()
            log_shares = (weights @ same).unflatten(1, views.shape[1:3]).add(MIN_SHARE).log()

        pool = full_precision(self.pool(hidden)).unsqueeze(-1)  # zero at first: then the softmax over visits alone
        scores = (1.0 + pool[:, :, EVERYTHING]) * log_shares[:, EVERYTHING] + pool[:, :, NUM_SHARES] * log_visits
        for view in (RECENCY, CLOCK, STEP):
            scores = scores + pool[:, :, view] * log_shares[:, view]
        # A place's score once, not once a visit.
        log_weights = functional.log_softmax((scores - log_visits).masked_fill(~visible, NEVER), dim=-1)
        log_weights = log_weights.masked_fill(~visible, NEVER)

        anything = visible.any(-1)
        shift = explore_odds.log() if isinstance(explore_odds, Tensor) else math.log(explore_odds)
        signs = self._signs(log_weights, log_visits, log_shares[:, CLOCK], memory.first, visible)
        odds = full_precision((self.gate(hidden) + self.gate_signs(signs.to(hidden.dtype))).squeeze(-1)) + shift
        log_explore = torch.where(anything, functional.logsigmoid(odds), 0.0)
        log_return = torch.where(anything, functional.logsigmoid(-odds), NEVER)
        return log_weights, log_explore, log_return

    def _views(self, hidden: Tensor, memory: Memory, relations: Relations) -> Tensor:
        """Scores of the visits in each way of weighing them, shape (batch, NUM_SHARES, queries, slots)."""
        content = self.scale * self.query(hidden) @ self.key(memory.hidden).transpose(1, 2)
        bias = self.relation(hidden)
        elapsed, clock, recency, distance, step = (bias.gather(-1, kind) for kind in relations)
        recent, led = elapsed + recency, content + step
        views = {EVERYTHING: led + recent + clock + distance, RECENCY: recent, CLOCK: clock, STEP: led}
        return full_precision(torch.stack([views[view] for view in range(NUM_SHARES)], dim=1))

    @staticmethod
    def _signs(log_weights: Tensor, log_visits: Tensor, log_hour: Tensor, first: Tensor, visible: Tensor) -> Tensor:
        """What the gate sees of the pointer and of the past, shape (batch, queries, NUM_SIGNS).

        Log probability of the likeliest place, log of the largest share by the clock, log (1 + visits), entropy over
        the places in nats; and the share of first visits among those that the pointer may point to (for an inner id:
        those in its block), of all of them and lately.
        """
        floor = math.log(MIN_SHARE)
        log_place = log_weights + log_visits
        entropy = -(log_weights.exp() * log_place).sum(-1)
        likeliest = log_place.amax(-1).clamp(min=floor)
        at_this_hour = log_hour.masked_fill(~visible, floor).amax(-1)
        visits = visible.sum(-1).to(entropy.dtype)
        ago = visits_ago(visible).to(entropy.dtype)
        weights = [torch.exp2(-ago / life) * visible for life in NOVELTY_LIVES]
        # Where none is visible: 0.
        novelty = [(weight * first.unsqueeze(1)).sum(-1) / weight.sum(-1).clamp(min=MIN_SHARE) for weight in weights]
        return torch.stack([likeliest, at_this_hour, visits.log1p(), entropy, *novelty], dim=-1)


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
