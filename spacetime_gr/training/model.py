"""The model of a run, with the same initial weights on every rank."""

from typing import Any

import torch

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.distributed import World


def model_config(config: PretrainConfig, tokenizer: Any | None) -> SpacetimeGRConfig:
    """Model configuration: sizes of the vocabulary from the tokenizer, all else from section `model`.

    Args:
        config: the run.
        tokenizer: None takes the vocabulary's sizes from section `model` too (planning without data).

    Raises:
        ValueError: section `model` contradicts the tokenizer, or its sizes do not fit each other.
    """
    sizes = {} if tokenizer is None else tokenizer.config_kwargs()
    for name, size in sizes.items():
        if config.model.get(name, size) != size:
            raise ValueError(
                f"model.{name}={config.model[name]}, but the tokenizer in {config.data.corpora[0].path} has {size}; "
                f"remove model.{name}"
            )
    return SpacetimeGRConfig(**{**config.model, **sizes})


def build_model(config: PretrainConfig, tokenizer: Any, world: World) -> Any:
    """A new model; its weights depend on train.seed and the sizes only, not on the rank, world size or ZeRO stage
    (but for `deepspeed.sharded_init`).
    """
    from spacetime_gr import SpacetimeGRForCausalLM
    from spacetime_gr.training.engine import zero3_aware

    sizes = model_config(config, tokenizer)
    torch.manual_seed(config.train.seed)
    if config.deepspeed.sharded_init:
        with zero3_aware(config, world):
            model = SpacetimeGRForCausalLM._from_config(sizes)
        # Sharded construction makes every new tensor half precision: too coarse for coordinates.
        model.places.float()
    else:
        model = SpacetimeGRForCausalLM(sizes)
    model.load_places(tokenizer.index)
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # From here on the ranks may draw different numbers (dropout).
    torch.manual_seed(config.train.seed + 1 + world.rank)
    return model
