"""Bytes that a micro-batch keeps for backward, tensor by tensor."""

from dataclasses import dataclass

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.memory import NUM_RELATIONS, NUM_TIME_RELATIONS
from spacetime_gr.modules.places import NUM_LOYALTY_BUCKETS, NUM_POPULARITY_BUCKETS
from spacetime_gr.modules.return_explore import NUM_SHARES
from spacetime_gr.training.flops import decoder_widths
from spacetime_gr.vocabulary import TOKENS_PER_ACTION

_INDEX, _FULL, _MASK = 8, 4, 1  # bytes of an int64, a float32, a bool
# Of a pair of query and memory: five relations as indices, masks, log-softmax and the masses that match; the softmax,
# the sum by place and its logarithm of each share; what the gate's signs are made of.
_POINTER = 5 * _INDEX + 4 * _MASK + (3 + 3 * NUM_SHARES + 4) * _FULL
# Of such a pair in habits: three relations as indices, masks, the softmax.
_HABIT = 3 * _INDEX + 2 * _MASK + _FULL


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes at once.

    Args:
        rows, length: token rows.
        supervised_share: supervised actions / actions.
        width: bytes of a number: 2 in bf16, 4 in fp32.
        checkpointing: layers are computed again in backward.
        attention: `attn_implementation`.
    """

    rows: int
    length: int
    supervised_share: float
    width: int
    checkpointing: bool
    attention: str

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def slots(self) -> int:
        """Slots of a row for the tokens of one type."""
        return self.length // TOKENS_PER_ACTION + 1

    @property
    def supervised(self) -> float:
        """Rows of each typed head."""
        return self.tokens / TOKENS_PER_ACTION * self.supervised_share


@dataclass(frozen=True)
class Activations:
    """Bytes: of the decoder; of one layer that is computed again; of the heads until backward; and of a chunk's scores
    in forward and in backward."""

    body: float
    recomputed: float
    heads: float
    chunk_forward: float
    chunk_backward: float


def layer_bytes(config: SpacetimeGRConfig, batch: MicroBatch) -> float:
    """What one decoder layer keeps.

    Norms compute in float32 and keep their input in it; a linear layer keeps its input (shared by those that read the
    same), silu and the product of gate and up keep theirs; fused attention keeps query, key, value, output and a
    float32 normaliser a head. With a mask (`sdpa`), keys and values of grouped heads are repeated and the mask is kept
    as numbers.
    """
    width, hidden, heads = batch.width, config.hidden_size, config.num_attention_heads
    queries, keys, inner = decoder_widths(config)
    norm = _FULL + width  # a number before and after normalisation
    numbers = 2 * hidden * (norm + width) + 4 * inner * width
    if config.backbone == "qwen3":
        numbers += (queries + keys) * norm
    masked = batch.attention in ("sdpa", "eager")
    numbers += width * (2 * queries + 2 * (queries if masked else keys))
    if batch.attention == "eager":
        numbers += heads * batch.length * (_FULL + (width if width < _FULL else 0))  # softmax in float32, and its cast
    else:
        numbers += heads * _FULL + (batch.length * width if masked else 0)
    return batch.tokens * numbers


def activations(config: SpacetimeGRConfig, batch: MicroBatch) -> Activations:
    """Bytes of all activations of a micro-batch; `docs/plan.md` lists the tensors."""
    width, hidden, tokens = batch.width, config.hidden_size, batch.tokens
    layer = layer_bytes(config, batch)
    kept = width * tokens * hidden
    layers = config.num_hidden_layers
    body, recomputed = (layers * kept, layer) if batch.checkpointing else (layers * layer, 0.0)
    body += tokens * hidden * (_FULL + width)  # the last norm
    body += kept * (1 + config.use_user_block)  # hidden states, and the embedded place of the person
    body += kept * 2 * (config.hidden_dropout > 0)  # masks of the two dropouts

    slots, share = batch.rows * batch.slots, batch.supervised
    heads = 3 * width * hidden * (slots + share)  # states of each query type, and of the supervised among them
    if config.return_explore:
        heads += width * hidden * slots  # memories
        pairs = slots * batch.slots
        heads += 2 * pairs * _POINTER
        heads += 2 * slots * width * (NUM_RELATIONS + 2 * config.pointer_size)

    if config.has_habits:
        # The shares of the categories and their logarithms, and the scores of supervised queries.
        by_category = slots * (_FULL + width) + share * width
        heads += slots * batch.slots * _HABIT + by_category * (config.num_categories + 1)
        heads += slots * width * NUM_TIME_RELATIONS

    inner = _inner_bytes(config, batch)
    if slots <= config.loss_chunk_size:
        heads += inner
    # Scores of blocks are made in float32, from a product and into a residual of the model's width. Where all rows are
    # one chunk the residual is kept for backward; else each chunk is made again there.
    single = share <= config.loss_chunk_size
    blocks = min(share, config.loss_chunk_size) * config.num_blocks
    residual = width * blocks
    cast = residual if width < _FULL else 0.0
    if single:
        return Activations(body, recomputed, heads + residual, _FULL * blocks, 0.0)
    return Activations(body, recomputed, heads, _FULL * blocks + cast, _FULL * blocks + cast)


def _inner_bytes(config: SpacetimeGRConfig, batch: MicroBatch) -> float:
    """Of the inner head: an index of each candidate in each small head, the mask of ids that exist, log-softmax."""
    rows = min(batch.supervised, config.loss_chunk_size)
    per_candidate = _FULL + _MASK
    small = 0
    if config.inner_head == "fused":
        lookups = 2 + config.use_category + config.use_position + config.use_fine_position
        per_candidate += _INDEX * lookups
        per_candidate += _FULL  # log visitors
        small = NUM_POPULARITY_BUCKETS + NUM_LOYALTY_BUCKETS + config.num_categories + 1
    return rows * (config.num_inner * per_candidate + small * batch.width)
