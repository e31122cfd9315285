"""A model after its index has grown: more places, blocks taken from the spare ones, perhaps new categories."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from spacetime_gr.index import POIIndex
from spacetime_gr.modules.places import PlaceTable
from spacetime_gr.vocabulary import Vocabulary

if TYPE_CHECKING:
    from spacetime_gr.modeling_spacetime_gr import SpacetimeGRForCausalLM
    from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer


@torch.no_grad()
def grow(model: "SpacetimeGRForCausalLM", tokenizer: "SpacetimeGRTokenizer") -> None:
    """Fit a model to the grown index of its tokenizer, in place; before an optimizer or DeepSpeed holds its parameters.

    Every old token keeps its embedding, also where its id moves because a range before it became longer. A block that
    was added starts from the embedding of its parent (the block that was full, or the nearest one); inner ids and
    categories that are new start from the mean of the old ones.

    Raises:
        ValueError: the tokenizer has other action types, or its index did not grow out of the model's.
    """
    config, index = model.config, tokenizer.index
    _check(model, tokenizer)
    old, new = config.vocabulary, tokenizer.vocabulary
    fresh_blocks, source_blocks = _added_blocks(index, model.places)
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight]
    if head.weight is not tables[0]:
        tables.append(head.weight)
    grown = [_moved(table, old, new, fresh_blocks, source_blocks) for table in tables]
    for name, value in tokenizer.config_kwargs().items():
        setattr(config, name, value)
    if new.size != old.size:
        model.resize_token_embeddings(new.size, mean_resizing=False)
        tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight][: len(grown)]
    for table, values in zip(tables, grown, strict=True):
        table.copy_(values)
    _widen_categories(model)
    places = PlaceTable(config).to(head.weight.device)
    places.load(index)
    model.places = places


def _check(model: "SpacetimeGRForCausalLM", tokenizer: "SpacetimeGRTokenizer") -> None:
    index, sizes = tokenizer.index, model.places.block_sizes.cpu().numpy()
    if len(tokenizer.actions) != model.config.num_actions:
        raise ValueError(
            f"the tokenizer has {len(tokenizer.actions)} action types, the model {model.config.num_actions}; "
            "a grown index keeps them"
        )
    now = np.zeros(max(len(sizes), index.block_capacity), np.int64)
    now[: index.num_blocks] = index.block_sizes
    if (
        len(sizes) > index.block_capacity
        or index.num_inner < model.config.num_inner
        or (now[: len(sizes)] < sizes).any()
    ):
        raise ValueError(
            "the index did not grow out of the one that the model was trained with: a block holds fewer places than "
            "before; use the model's own index and POIIndex.add"
        )


def _added_blocks(index: POIIndex, places: PlaceTable) -> tuple[Tensor, Tensor]:
    """Blocks that the model does not know, and for each the known block that it descends from."""
    known = np.zeros(index.num_blocks, bool)
    sizes = places.block_sizes.cpu().numpy()[: index.num_blocks]
    known[: len(sizes)] = sizes > 0
    fresh = np.flatnonzero(~known)
    source = index.blocks.parents[fresh].astype(np.int64)
    # A parent may have been added since, too; parents come before their children, so this ends.
    while not known[source].all():
        source = np.where(known[source], source, index.blocks.parents[source])
    return torch.from_numpy(fresh), torch.from_numpy(source)


def _moved(table: Tensor, old: Vocabulary, new: Vocabulary, fresh: Tensor, source: Tensor) -> Tensor:
    """Rows of an embedding table at the places that the new vocabulary gives them."""
    result = table.new_empty(new.size, table.shape[1])
    result[: new.block_start] = table[: old.block_start]
    for start, old_start, count, total in (
        (new.block_start, old.block_start, old.num_blocks, new.num_blocks),
        (new.inner_start, old.inner_start, old.num_inner, new.num_inner),
        (new.action_start, old.action_start, old.num_actions, new.num_actions),
    ):
        kept = table[old_start : old_start + count]
        result[start : start + count] = kept
        result[start + count : start + total] = kept.mean(dim=0)
    result[new.block_start + fresh.to(table.device)] = table[old.block_start + source.to(table.device)]
    return result


def _widen_categories(model: "SpacetimeGRForCausalLM") -> None:
    """Rows for new categories, each the mean of the old ones (row 0, 'none', aside)."""
    size = model.config.num_categories + 1
    layers: list[nn.Embedding | nn.Linear] = [model.model.side.category]
    if model.inner_scores.fused:
        layers.append(model.inner_scores.category)
    for layer in layers:
        for name, values in list(layer.named_parameters()):
            missing = size - len(values)
            if missing:
                mean = values[1:].mean(dim=0, keepdim=True) if len(values) > 1 else torch.zeros_like(values[:1])
                wider = torch.cat([values, mean.expand(missing, *mean.shape[1:])])
                setattr(layer, name, nn.Parameter(wider, requires_grad=values.requires_grad))
        if isinstance(layer, nn.Embedding):
            layer.num_embeddings = size
        else:
            layer.out_features = size
