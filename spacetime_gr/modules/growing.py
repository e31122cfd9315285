"""A model after its index has grown: more places, blocks taken from the spare ones, perhaps new categories."""

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spacetime_gr.index import POIIndex
from spacetime_gr.modules.places import PlaceTable

if TYPE_CHECKING:
    from spacetime_gr.modeling_spacetime_gr import SpacetimeGRForCausalLM
    from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer


@torch.no_grad()
def grow(
    model: "SpacetimeGRForCausalLM",
    tokenizer: "SpacetimeGRTokenizer",
    embeddings: NDArray[np.floating] | None = None,
) -> None:
    """Fit a model to the grown index of its tokenizer, in place; before an optimizer or DeepSpeed holds its parameters.

    The vocabulary stays as it is: growth uses spare ids, of which the rows were there, but never trained. So every old
    token keeps its embedding. A block that was added starts from the embedding of its parent (the block that was full,
    or the nearest one), an inner id that no place had starts from the mean of those in use, a new category from the
    mean of the old ones. Places that were there keep their order in each block; a block that got places, and the map as
    a whole, share the same probability among more.

    Args:
        embeddings: vectors of all places, old and new, for a model with `poi_embedding_size`; see `PlaceTable.load`.

    Raises:
        ValueError: the tokenizer has other action types, its index did not grow out of the model's, or the embeddings
            are missing; the model is then as it was.
    """
    config, index, known = model.config, tokenizer.index, model.places
    if config.vocabulary != tokenizer.vocabulary:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocabulary}, the model {config.vocabulary}; an index that grows with "
            "POIIndex.add keeps its sizes: grow the model's own, with the model's action types"
        )
    sizes = tokenizer.config_kwargs()
    grown = copy.deepcopy(config)
    grown.num_pois, grown.num_categories = sizes["num_pois"], sizes["num_categories"]
    places = PlaceTable(grown).to(known.block_sizes.device)
    places.load(index, embeddings)
    _check_grown(known, places, config.num_categories <= grown.num_categories)

    fresh, source = _added_blocks(index, known)
    num_inner, num_inner_now = int(known.block_sizes.max()), int(places.block_sizes.max())
    blocks, inner = config.vocabulary.block_start, config.vocabulary.inner_start
    tables = {id(layer.weight): layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())}
    for table in tables.values():  # one where they are tied
        table[blocks + fresh] = table[blocks + source]
        table[inner + num_inner : inner + num_inner_now] = table[inner : inner + num_inner].mean(dim=0)
    by_category = [model.model.side.category, model.inner_scores.category if model.inner_scores.fused else None]
    for layer in by_category:
        if layer is not None:
            _widen(layer, grown.num_categories + 1)
    config.num_pois, config.num_categories = grown.num_pois, grown.num_categories
    model.places = places
    if model.model.ancestors is not None:
        model.model.ancestors.load(index)  # an added block has those of the block that it grew out of


def _check_grown(old: PlaceTable, new: PlaceTable, categories_kept: bool) -> None:
    """Refuse tables that do not hold every old place, by block and inner id, as it was."""
    sizes = old.block_sizes
    if int(sizes.sum()) != len(old.category):
        raise ValueError("the model holds no places yet; call model.load_places(tokenizer.index) in place of grow")
    kept = categories_kept and bool((new.block_sizes >= sizes).all())
    if kept:
        shift = torch.repeat_interleave(new.block_starts - old.block_starts, sizes)
        still = torch.arange(len(old.category), device=sizes.device) + shift
        kept = all(
            torch.equal(getattr(old, name), getattr(new, name)[still])
            for name in ("category", "fine_cell", "popularity", "loyalty")
        )
    if not kept:
        raise ValueError(
            "the tokenizer's index did not grow out of the one that the model was trained with: places of that are "
            "missing or stand elsewhere; use the model's own index with POIIndex.add"
        )


def _added_blocks(index: POIIndex, places: PlaceTable) -> tuple[Tensor, Tensor]:
    """Blocks that the model does not know, and for each the known block that it descends from."""
    known = places.block_sizes.cpu().numpy()[: index.num_blocks] > 0
    fresh = np.flatnonzero(~known)
    source = index.blocks.parents[fresh].astype(np.int64)
    # A parent may have been added since, too; parents come before their children, so this ends.
    while not known[source].all():
        source = np.where(known[source], source, index.blocks.parents[source])
    device = places.block_sizes.device
    return torch.from_numpy(fresh).to(device), torch.from_numpy(source).to(device)


def _widen(layer: nn.Embedding | nn.Linear, size: int) -> None:
    """Rows for new categories, each the mean of the old ones (row 0, 'none', aside)."""
    for name, values in list(layer.named_parameters()):
        missing = size - len(values)
        mean = values[1:].mean(dim=0, keepdim=True) if len(values) > 1 else torch.zeros_like(values[:1])
        wider = torch.cat([values, mean.expand(missing, *mean.shape[1:])])
        setattr(layer, name, nn.Parameter(wider, requires_grad=values.requires_grad))
    if isinstance(layer, nn.Embedding):
        layer.num_embeddings = size
    else:
        layer.out_features = size
