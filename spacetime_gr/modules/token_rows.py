"""Token rows after the decoder: which sequence a token belongs to, and the positions where each type is predicted."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.memory import Memory, typed_slots
from spacetime_gr.vocabulary import TOKENS_PER_ACTION


@dataclass
class TokenRows:
    """Token rows and what the decoder made of them, all (batch, length[, hidden_size])."""

    input_ids: Tensor
    hidden: Tensor
    segment: Tensor
    local_time: Tensor
    user_block: Tensor

    def at(self, position: Tensor) -> "TokenRows":
        """The tokens at some positions, shape (batch, queries)."""

        def pick(values: Tensor) -> Tensor:
            trailing = values.shape[2:]
            index = position.reshape(*position.shape, *(1 for _ in trailing)).expand(*position.shape, *trailing)
            return values.gather(1, index)

        return TokenRows(*(pick(getattr(self, field.name)) for field in fields(self)))

    def memory(self, config: SpacetimeGRConfig) -> Memory:
        """Past actions that a pointer may point to."""
        is_action = self.input_ids >= config.vocabulary.action_start
        return Memory.collect(self.input_ids, self.hidden, self.segment, self.local_time, is_action)

    def queries(self, first: int, stop: int, following: Tensor) -> "Queries":
        """The positions whose token lies in [first, stop), with what follows each of them."""
        num_slots = self.input_ids.shape[1] // TOKENS_PER_ACTION + 1
        position, filled = typed_slots((self.input_ids >= first) & (self.input_ids < stop), num_slots)
        target = following.gather(1, position)
        return Queries(position, filled & (target >= stop), target, self.at(position))


@dataclass
class Queries:
    """Positions of one token type in fixed slots, and which of them are supervised; all (batch, slots)."""

    position: Tensor
    supervised: Tensor
    target: Tensor
    tokens: TokenRows

    @property
    def num_slots(self) -> int:
        """Slots of the whole batch: the most supervised positions there can be."""
        return self.position.numel()

    def select(self, values: Tensor) -> Tensor:
        """Values (batch, slots[, width]) of the supervised slots, shape (supervised[, width]).

        A traced graph has to have fixed shapes: there it is all slots, and `total` leaves out what is not supervised.
        """
        return values.flatten(0, 1) if torch.compiler.is_compiling() else values[self.supervised]

    def classes(self, first: int) -> Tensor:
        """Targets of the selected slots, counted from the token of class 0; 0 where nothing is supervised."""
        return self.select(torch.where(self.supervised, self.target - first, 0))

    def total(self, values: Tensor) -> Tensor:
        """Sum over the supervised slots of values of the selected ones."""
        return torch.where(self.select(self.supervised), values, 0.0).sum()


def segments(position_ids: Tensor, attention_mask: Tensor | None = None, past: Tensor | None = None) -> Tensor:
    """Number of the packed sequence that each token belongs to, shape as given; 0 for padding.

    Args:
        position_ids: positions restart at 0 with each sequence.
        attention_mask: 1 for real tokens, of which the last columns count; default all are real.
        past: segments of cached tokens before these.
    """
    segment = (position_ids == 0).cumsum(-1)
    if past is not None:
        segment = segment + past.amax(dim=1, keepdim=True)
    if attention_mask is None or attention_mask.dim() != 2:
        return segment
    return segment * (attention_mask[:, -segment.shape[1] :] != 0)


def default_positions(tokens: Tensor, attention_mask: Tensor | None, past_length: int) -> Tensor:
    """Positions counted from the mask of real tokens (or from 0), shape (batch, length).

    Args:
        tokens: anything of shape (batch, length, ...).
        attention_mask: of the past tokens and these, (batch, past_length + length).
        past_length: cached tokens.
    """
    batch, length = tokens.shape[:2]
    if attention_mask is None or attention_mask.dim() != 2:
        return (torch.arange(length, device=tokens.device) + past_length).expand(batch, length)
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -length:]
