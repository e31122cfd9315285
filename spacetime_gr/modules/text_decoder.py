"""The weights of a text decoder as the starting point of the body."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

# What has to agree for the weights to mean the same in both; the embeddings and all heads are the model's own.
_SETTINGS = (
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
)


@torch.no_grad()
def copy_body(source: str | Path | PreTrainedModel, decoder: PreTrainedModel) -> None:
    """Copy all weights of a text decoder but its embeddings into the body of a model, in place.

    Args:
        source: a folder or hub name of a Qwen3 or Llama checkpoint, or such a model (with or without its head).
        decoder: the transformers decoder of a `SpacetimeGRModel`.

    Raises:
        ValueError: the two do not fit; names each setting with both values.
    """
    text = source if isinstance(source, PreTrainedModel) else AutoModel.from_pretrained(source)
    text = text.base_model
    given, wanted = _settings(text.config), _settings(decoder.config)
    differing = [
        f"{name}: {given[name]!r} there, {wanted[name]!r} here" for name in wanted if given[name] != wanted[name]
    ]
    if differing:
        raise ValueError(
            f"the text decoder ({text.config.model_type}) does not fit the configuration: {'; '.join(differing)}; "
            "set these in SpacetimeGRConfig to what the text decoder has (model_type is backbone)"
        )
    weights = {name: value for name, value in text.state_dict().items() if not name.startswith("embed_tokens.")}
    expected = {name: value for name, value in decoder.state_dict().items() if not name.startswith("embed_tokens.")}
    strange = sorted(weights.keys() ^ expected.keys())
    if strange:
        raise ValueError(
            f"the text decoder and the body do not have the same weights: {', '.join(strange[:6])} (of "
            f"{len(strange)}) stand in one of them; expected a {decoder.config.model_type} without options such as "
            "attention_bias, and not quantised"
        )
    decoder.load_state_dict(weights, strict=False)


def _settings(config: Any) -> dict[str, Any]:
    """The settings that have to agree, under their names in the configuration of the model."""
    values = {name: getattr(config, name, None) for name in _SETTINGS}
    if values["head_dim"] is None:
        values["head_dim"] = config.hidden_size // config.num_attention_heads
    rope = dict(config.rope_parameters)
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_parameters"] = {name: value for name, value in rope.items() if value is not None}
    return values
