"""Token rows after the decoder: which sequence a token belongs to, and the positions where each type is predicted."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.return_explore import Memory, typed_slots
from spacetime_gr.vocabulary import TOKENS_PER_ACTION


@dataclass
class Queries:
    """Positions of one token type in fixed slots, and which of them are supervised."""

    position: Tensor
    supervised: Tensor
    target: Tensor
    hidden: Tensor

    @property
    def num_slots(self) -> int:
        """Slots of the whole batch: the most supervised positions there can be."""
        return self.position.numel()

    @property
    def hidden_n(self) -> Tensor:
        """States of the supervised positions, shape (supervised, hidden_size)."""
        return self.hidden[self.supervised]

    @property
    def target_n(self) -> Tensor:
        """Target tokens of the supervised positions, shape (supervised,)."""
        return self.target[self.supervised]

    def pick(self, values: Tensor) -> Tensor:
        """Values (batch, length) at the supervised positions, shape (supervised,)."""
        return values.gather(1, self.position)[self.supervised]


@dataclass
class TokenRows:
    """Token rows and what the decoder made of them, all (batch, length[, hidden_size])."""

    input_ids: Tensor
    hidden: Tensor
    segment: Tensor
    local_time: Tensor
    user_block: Tensor

    def memory(self, config: SpacetimeGRConfig) -> Memory:
        """Past actions that a pointer may point to."""
        is_action = self.input_ids >= config.vocabulary.action_start
        return Memory.collect(self.input_ids, self.hidden, self.segment, self.local_time, is_action)

    def queries(self, first: int, stop: int, following: Tensor) -> Queries:
        """The positions whose token lies in [first, stop), with what follows each of them."""
        num_slots = self.input_ids.shape[1] // TOKENS_PER_ACTION + 1
        position, filled = typed_slots((self.input_ids >= first) & (self.input_ids < stop), num_slots)
        target = following.gather(1, position)
        hidden = self.hidden.gather(1, position.unsqueeze(-1).expand(-1, -1, self.hidden.shape[-1]))
        return Queries(position, filled & (target >= stop), target, hidden)


def segments(position_ids: Tensor) -> Tensor:
    """Number of the packed sequence that each token belongs to: positions restart at 0 with each, shape as given."""
    return (position_ids == 0).cumsum(-1)


def default_positions(hidden: Tensor, attention_mask: Tensor | None, past_length: int) -> Tensor:
    """Positions counted from the mask of real tokens (or from 0), shape (batch, length)."""
    batch, length = hidden.shape[:2]
    if attention_mask is None or attention_mask.dim() != 2:
        return (torch.arange(length, device=hidden.device) + past_length).expand(batch, length)
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -length:]
