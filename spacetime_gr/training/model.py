"""The model of a run, with the same initial weights on every rank."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.distributed import World
from spacetime_gr.training.engine import resolve_precision, zero3_aware
from spacetime_gr.vocabulary import TOKENS_PER_ACTION


def model_config(config: PretrainConfig, tokenizer: Any | None) -> SpacetimeGRConfig:
    """Model configuration: sizes of the vocabulary from the tokenizer, all else from section `model`.

    Args:
        config: the run.
        tokenizer: None takes the vocabulary's sizes from section `model` too (planning without data); tiles above the
            blocks are then as many as a quadtree of so many blocks can have.

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
    given = {name: value for name, value in config.model.items() if name != "attn_implementation"}
    if tokenizer is None and given.get("block_ancestors") and "num_ancestors" not in given:
        num_blocks = SpacetimeGRConfig(**given | {"block_ancestors": False}).num_blocks
        sizes = {"num_ancestors": max(1, num_blocks - 1)}
    # The last action of a row has all others of it before it.
    context = {"context_actions": max(1, config.data.row_length // TOKENS_PER_ACTION - 1)}
    return SpacetimeGRConfig(**{**context, **given, **sizes})


def attention_implementation(config: PretrainConfig, sizes: SpacetimeGRConfig, device: torch.device) -> str:
    """`model.attn_implementation`; by default `varlen` where torch has a kernel for the model, else `sdpa`.

    The kernel wants bf16, a GPU of compute capability 8 (Ampere) or newer, heads of at most 256 in steps of 8 and no
    dropout; and where sequences begin depends on the data, which `train.compile` cannot hold in one graph.
    """
    asked = config.model.get("attn_implementation")
    if asked is not None:
        return asked
    able = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "varlen" if able and varlen_serves(config, sizes, resolve_precision(config, device)) else "sdpa"


def varlen_serves(config: PretrainConfig, sizes: SpacetimeGRConfig, precision: str) -> bool:
    """Whether torch's variable-length kernel takes such a model, on a GPU that has it."""
    return (
        precision == "bf16"
        and sizes.head_dim is not None
        and sizes.head_dim <= 256
        and sizes.head_dim % 8 == 0
        and not sizes.attention_dropout
        and not config.train.compile
    )


def poi_embeddings(config: PretrainConfig, sizes: SpacetimeGRConfig) -> NDArray[np.floating] | None:
    """Vectors of the places in the prepared folder, memory-mapped; None for a model without.

    Raises:
        ValueError: the file is missing, is no array of floats or has another shape.
    """
    if not sizes.poi_embedding_size:
        return None
    file = Path(config.data.corpora[0].path) / "poi_embeddings.npy"  # corpora of one run share their POIs
    remedy = "prepare the folder with embeddings of this size, or set model.poi_embedding_size=0"
    if not file.is_file():
        raise ValueError(f"{file} is missing, but model.poi_embedding_size={sizes.poi_embedding_size}; {remedy}")
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{file} is no NumPy array ({error}); {remedy}") from error
    expected = (sizes.num_pois, sizes.poi_embedding_size)
    if vectors.shape != expected or vectors.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"{file} holds {vectors.dtype} of shape {vectors.shape}, expected float16 or float32 of shape {expected} "
            f"(places, model.poi_embedding_size); {remedy}"
        )
    return vectors


def build_model(config: PretrainConfig, tokenizer: Any, world: World) -> Any:
    """A new model; its weights depend on train.seed and the sizes only, not on the rank, world size or ZeRO stage
    (but for `deepspeed.sharded_init`).
    """
    from spacetime_gr import SpacetimeGRForCausalLM

    sizes = model_config(config, tokenizer)
    sizes._attn_implementation = attention_implementation(config, sizes, world.device)
    torch.manual_seed(config.train.seed)
    if config.deepspeed.sharded_init:
        with zero3_aware(config, world):
            model = SpacetimeGRForCausalLM._from_config(sizes)
        # Sharded construction makes every new tensor half precision: too coarse for coordinates.
        model.places.float()
    else:
        model = SpacetimeGRForCausalLM(sizes)
    model.load_places(tokenizer.index, poi_embeddings(config, sizes))
    if config.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # From here on the ranks may draw different numbers (dropout).
    torch.manual_seed(config.train.seed + 1 + world.rank)
    return model
