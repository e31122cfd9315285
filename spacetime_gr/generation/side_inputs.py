"""Side inputs of generated tokens, so that `generate()` feeds them back as the tokenizer would have made them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spacetime_gr.modules.places import PlaceTable
from spacetime_gr.vocabulary import Vocabulary

SIDE_INPUTS = ("user_hash", "user_block", "gap", "distance", "category", "cell", "local_time")


def with_generated(
    side: Mapping[str, Tensor], input_ids: Tensor, vocabulary: Vocabulary, places: PlaceTable
) -> dict[str, Tensor]:
    """Side inputs of a prompt, continued over the tokens that were generated after it.

    A generated u is the same person's, standing at the place before it, after an unknown time and distance; an inner
    token has category and position of its place; the clock stands still: the time of a generated action is not known.

    Args:
        side: some of `SIDE_INPUTS`, of the prompt, each (batch, prompt length).
        input_ids: prompt and generated tokens, shape (batch, length).
        vocabulary, places: of the model.

    Returns:
        The same names, each (batch, length).
    """
    is_context = (input_ids >= vocabulary.context_start) & (input_ids < vocabulary.block_start)

    def before(steps: int) -> Tensor:
        return functional.pad(input_ids, (steps, 0))[:, : input_ids.shape[1]]

    def same_person(prompt: Tensor) -> Tensor:
        column = torch.arange(prompt.shape[1], device=prompt.device)
        latest = torch.where(is_context[:, : prompt.shape[1]], column, 0).amax(dim=1, keepdim=True)
        return torch.where(is_context, prompt.gather(1, latest), 0)

    def standing(_: Tensor) -> Tensor:
        place = before(3)  # block, inner, a, u
        is_block = (place >= vocabulary.block_start) & (place < vocabulary.inner_start)
        return torch.where(is_context & is_block, place, 0)

    def of_place(table: Tensor) -> Tensor:
        at, exists = places.find(before(1) - vocabulary.block_start, input_ids - vocabulary.inner_start)
        return torch.where(exists, table[at].long(), 0)

    made: dict[str, Callable[[Tensor], Tensor]] = {
        "user_hash": same_person,
        "user_block": standing,
        "gap": lambda _: torch.zeros_like(input_ids),
        "distance": lambda _: torch.zeros_like(input_ids),
        "category": lambda _: of_place(places.category),
        "cell": lambda _: of_place(places.fine_cell),
        "local_time": lambda prompt: prompt[:, -1:].expand_as(input_ids),
    }
    return {
        name: torch.cat([prompt, made[name](prompt)[:, prompt.shape[1] :].to(prompt.dtype)], dim=1)
        for name, prompt in side.items()
    }


class SideInputsMixin:
    """`generate()` for a model whose tokens have side inputs."""

    def prepare_inputs_for_generation(
        self: Any,  # a SpacetimeGRForCausalLM: mixed into it
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Inputs of one step: those of any decoder, and the side inputs of the tokens that it reads."""
        # Made anew from the tokens at each step: what beams generated moves between rows, the prompt's side inputs do
        # not.
        side = {name: kwargs.pop(name) for name in SIDE_INPUTS if kwargs.get(name) is not None}
        inputs = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids, next_sequence_length=next_sequence_length, **kwargs
        )
        length = input_ids.shape[1]
        if any(values.shape[1] > length for values in side.values()):  # a chunk of the prompt (prefill_chunk_size)
            start = kwargs["past_key_values"].get_seq_length()
            side = {name: values[:, start : start + length] for name, values in side.items()}
        whole = with_generated(side, input_ids, self.config.vocabulary, self.places)
        read = inputs["input_ids"].shape[1]
        return inputs | {name: values[:, -read:].to(self.device) for name, values in whole.items()}
