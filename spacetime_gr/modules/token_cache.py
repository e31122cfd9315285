"""What the heads need of past tokens, kept in a key-value cache as one more layer."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from spacetime_gr.modules.token_rows import TokenRows


class TokenLayer(DynamicLayer):
    """Last layer of a cache: hidden states in place of keys, what each token was in place of values.

    The pointer reads hidden states, tokens and times of past actions, and the attention mask the packed sequences. As a
    layer they are cropped, repeated and reordered (for beams) together with the keys and values.
    """

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """As the base class, but the two keep types of their own: half precision does not hold a token id."""
        super().lazy_initialization(key_states, value_states)
        self.values = value_states[..., :0, :]


def past_tokens(cache: Cache | None) -> TokenRows | None:
    """The tokens that a cache holds, None where it is empty.

    Raises:
        ValueError: it was filled by something else than the language model.
    """
    if cache is None or cache.get_seq_length() == 0:
        return None
    layer = cache.layers[-1]
    if not isinstance(layer, TokenLayer):
        raise ValueError(
            "past_key_values holds keys and values alone; expected a cache that SpacetimeGRForCausalLM filled, which "
            "holds the tokens as well: pass output.past_key_values of its forward, or an empty DynamicCache()"
        )
    input_ids, segment, local_time, user_block = layer.values.squeeze(1).unbind(-1)
    return TokenRows(input_ids, layer.keys.squeeze(1), segment, local_time, user_block)


def remember(cache: Cache, rows: TokenRows) -> TokenRows:
    """Add new tokens to a cache that the decoder has just extended; returns the past tokens and these."""
    if not isinstance(cache.layers[-1], TokenLayer):
        cache.layers.append(TokenLayer())
    record: Any = torch.stack([rows.input_ids, rows.segment, rows.local_time, rows.user_block], dim=-1)
    hidden, record = cache.update(rows.hidden.unsqueeze(1), record.unsqueeze(1), len(cache.layers) - 1)
    return TokenRows(record[:, 0, :, 0], hidden.squeeze(1), *record[:, 0, :, 1:].unbind(-1))
