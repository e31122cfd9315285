"""Parameters by group, and the floating-point work of a batch: what it needs, and what is executed.

A multiplication and an addition are two operations (FLOPs). Matrix products are counted, and nothing else: norms,
softmax, masks and look-ups are bound by memory. A product of (m, k) with (k, n) is 2mkn in forward and as much again in
backward for each factor that has a gradient. `docs/plan.md` states the formulae.
"""

from dataclasses import dataclass

from torch import nn

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.memory import NUM_RELATIONS, NUM_TIME_RELATIONS
from spacetime_gr.modules.places import NUM_LOYALTY_BUCKETS, NUM_POPULARITY_BUCKETS
from spacetime_gr.modules.return_explore import NUM_SHARES, NUM_SIGNS
from spacetime_gr.training.distributed import full_numel
from spacetime_gr.vocabulary import CELL_BITS, FINE_CELL_BITS, TOKENS_PER_ACTION

# Back ends that compute the scores of a whole row and mask them; the others skip what a sequence does not see.
_MASKED = ("sdpa", "eager")


@dataclass(frozen=True)
class ParameterCounts:
    """Number of parameters: lookup tables, decoder layers, and what reads the hidden states out."""

    embedding: int
    body: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.body + self.head


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count by group; a table that is tied to a head counts once, as embedding. Meta tensors and shards will do."""
    prefix = getattr(model, "base_model_prefix", "model") + "."
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    counts = {"embedding": 0, "body": 0, "head": 0}
    for name, parameter in model.named_parameters():
        group = "embedding" if id(parameter) in tables else "body" if name.startswith(prefix) else "head"
        counts[group] += full_numel(parameter)
    return ParameterCounts(**counts)


@dataclass(frozen=True)
class BatchCounts:
    """What the work of packed token rows depends on; may be sums over many batches.

    Args:
        tokens: tokens without padding.
        pairs: pairs of a token with itself and the earlier tokens of its sequence: the sum of s (s + 1) / 2 over the
            sequences' lengths s, which is the sum of 1 + position over the tokens.
        supervised: supervised block, inner and action tokens.
    """

    tokens: float
    pairs: float
    supervised: tuple[float, float, float]

    @classmethod
    def expected(cls, tokens: float, sequence_length: float, supervised_share: float) -> "BatchCounts":
        """Counts of full rows: sequences of one length, this share of the actions supervised."""
        share = tokens / TOKENS_PER_ACTION * supervised_share
        return cls(tokens, tokens * (sequence_length + 1) / 2, (share, share, share))


@dataclass(frozen=True)
class RowShape:
    """How micro-batches are computed.

    Args:
        rows, length: of all micro-batches together.
        rows_at_once: of one micro-batch, which decides whether the heads go in chunks.
        checkpointing: layers are computed again in backward.
        attention: `attn_implementation`.
    """

    rows: int
    length: int
    rows_at_once: int
    checkpointing: bool
    attention: str

    @property
    def slots(self) -> int:
        """Fixed slots of a row for the tokens of one type (`TokenRows.queries`)."""
        return self.length // TOKENS_PER_ACTION + 1


@dataclass(frozen=True)
class Work:
    """FLOPs: forward, backward, and forward work that is done again in backward."""

    forward: float = 0.0
    backward: float = 0.0
    repeated: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.backward + self.repeated


@dataclass(frozen=True)
class _Sizes:
    """Numbers of rows that enter each kind of product.

    `body`: tokens in the decoder; `users`, `places`: tokens whose side inputs are projected (a u token's block, an
    inner token's vector); `attended`: pairs of query and key; `supervised`: rows of the heads by type; `queries`,
    `pointed`: queries and pairs of the block and inner pointers; `memories`: what they point to; `summed`: memories of
    those pairs times all memories, where sums by place are a product.
    """

    body: float
    users: float
    places: float
    attended: float
    supervised: tuple[float, float, float]
    queries: tuple[float, float]
    memories: float
    pointed: tuple[float, float]
    summed: float


def model_flops(config: SpacetimeGRConfig, counts: BatchCounts) -> dict[str, Work]:
    """The work that the model needs, by part: what MFU is measured against.

    Only real tokens count, pairs of tokens that see each other, supervised positions in the heads with the classes of
    their type, memories that a supervised query may see; nothing is computed twice.
    """
    actions = counts.tokens / TOKENS_PER_ACTION
    # An action has as many memories as actions before it: over a sequence of s = 4a tokens these are a (a - 1) / 2
    # pairs, with s (s + 1) / 2 = 8 a^2 + 2 a. Supervised actions are taken to have as many as others.
    memories = max(0.0, counts.pairs / 16 - 5 * counts.tokens / 32) / actions if actions else 0.0
    queries = counts.supervised[:2]
    sizes = _Sizes(
        body=counts.tokens,
        users=actions,
        places=actions,
        attended=counts.pairs,
        supervised=counts.supervised,
        queries=queries,
        memories=actions,
        pointed=(queries[0] * memories, queries[1] * memories),
        summed=0.0,  # additions would do
    )
    return _products(config, sizes)


def executed_flops(config: SpacetimeGRConfig, counts: BatchCounts, shape: RowShape) -> dict[str, Work]:
    """The work that is executed, by part: with padding, masked pairs, unsupervised slots and recomputation."""
    tokens, slots = float(shape.rows * shape.length), float(shape.rows * shape.slots)
    masked = shape.attention in _MASKED
    pointed = slots * shape.slots
    sizes = _Sizes(
        body=tokens,
        users=tokens,
        places=tokens,
        attended=tokens * shape.length if masked else counts.pairs,
        supervised=counts.supervised,
        queries=(slots, slots),
        memories=slots,
        pointed=(pointed, pointed),
        summed=2 * pointed * shape.slots,
    )
    parts = _products(config, sizes)
    repeated = dict.fromkeys(parts, 0.0)
    if shape.attention != "eager":  # fused kernels keep no scores: one of the two products is made again
        repeated["attention"] += parts["attention"].forward / 2
    if shape.checkpointing:
        # A layer is computed again up to the input of its last product, which is all that backward asks for.
        last = 2 * tokens * decoder_widths(config)[2] * config.hidden_size * config.num_hidden_layers
        repeated["layers"] += parts["layers"].forward - last
        repeated["attention"] += parts["attention"].forward
    if counts.supervised[0] * shape.rows_at_once > config.loss_chunk_size * shape.rows:
        repeated["block head"] += parts["block head"].forward
        repeated["spatial kernel"] += parts["spatial kernel"].forward
    if shape.rows_at_once * shape.slots > config.loss_chunk_size:
        for name in ("inner head", "place vectors", "action head"):
            repeated[name] += parts[name].forward
    return {name: Work(work.forward, work.backward, repeated[name]) for name, work in parts.items()}


def decoder_widths(config: SpacetimeGRConfig) -> tuple[int, int, int]:
    """Widths of a decoder layer: all query heads, all key-value heads, between the linear maps of the MLP."""
    assert config.head_dim is not None  # filled by the configuration, as the other two
    assert config.num_key_value_heads is not None
    assert config.intermediate_size is not None
    heads, grouped = config.num_attention_heads, config.num_key_value_heads
    return heads * config.head_dim, grouped * config.head_dim, config.intermediate_size


def total_work(parts: dict[str, Work]) -> Work:
    """Sum of the parts."""
    works = parts.values()
    return Work(sum(w.forward for w in works), sum(w.backward for w in works), sum(w.repeated for w in works))


def _products(config: SpacetimeGRConfig, sizes: _Sizes) -> dict[str, Work]:
    """Work of so many rows, by part, without repetitions."""
    width, inner = config.hidden_size, config.num_inner
    queries, keys, between = decoder_widths(config)
    layer = width * (2 * queries + 2 * keys + 3 * between)  # weights
    block_rows, inner_rows, action_rows = sizes.supervised
    vectors = config.poi_embedding_size
    side = sizes.users * width * width * config.use_user_block
    spatial = config.spatial_features * config.use_user_block

    def both(products: float) -> Work:  # both factors have a gradient
        return Work(2 * products, 4 * products)

    def one(products: float) -> Work:
        return Work(2 * products, 2 * products)

    parts = {
        "layers": both(sizes.body * layer * config.num_hidden_layers),
        "attention": both(2 * sizes.attended * queries * config.num_hidden_layers),
        "side inputs": both(side),
        "place projection": one(sizes.places * vectors * width),
        "block head": both(block_rows * width * config.num_blocks),
        "spatial weights": both(block_rows * width * spatial / 2),
        "spatial kernel": one(block_rows * spatial * config.num_blocks),
        "inner head": both(inner_rows * width * (inner + _fused_outputs(config))),
        "place vectors": one(0.0),
        "action head": both(action_rows * width * config.num_actions),
        "habits": both(sizes.queries[1] * width * (NUM_TIME_RELATIONS + 1) * config.has_habits),
        "pointers": both(0.0),
        "sums by place": both(0.0),
    }
    if config.inner_head == "fused":
        parts["place vectors"] = one(inner_rows * inner * vectors)
    if config.return_explore:
        by_query = width * (config.pointer_size + NUM_RELATIONS + NUM_SHARES + 2) + NUM_SIGNS
        keyed = 2 * sizes.memories * width * config.pointer_size  # each pointer has keys of its own
        parts["pointers"] = both(sum(sizes.queries) * by_query + keyed + sum(sizes.pointed) * config.pointer_size)
        # The visits of a place have no gradient, its shares have one.
        parts["sums by place"] = Work(2 * (NUM_SHARES + 1) * sizes.summed, 2 * NUM_SHARES * sizes.summed)
    return parts


def _fused_outputs(config: SpacetimeGRConfig) -> int:
    """Outputs of the small linear heads beside the inner ids; see `InnerScores`."""
    if config.inner_head != "fused":
        return 0
    outputs = 1 + NUM_POPULARITY_BUCKETS + NUM_LOYALTY_BUCKETS + config.poi_embedding_size
    outputs += (config.num_categories + 1) * config.use_category
    outputs += ((1 << CELL_BITS) + 1) * config.use_position
    return outputs + ((1 << FINE_CELL_BITS) + 1) * config.use_fine_position
