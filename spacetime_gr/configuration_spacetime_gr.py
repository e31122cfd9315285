"""Configuration of Spacetime-GR models."""

from numbers import Integral, Real
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.activations import ACT2FN

from spacetime_gr.vocabulary import BOS, EOS, PAD, Vocabulary

BACKBONES = ("qwen3", "llama")
INNER_HEADS = ("fused", "tied")
# Least value of the settings that are whole numbers; None stands for 'derived' where the default is None.
_WHOLE = {
    **dict.fromkeys(
        ("num_blocks", "num_inner", "num_actions", "num_pois", "num_gap_buckets", "num_distance_buckets"), 1
    ),
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"), 1),
    **dict.fromkeys(("num_key_value_heads", "head_dim", "max_position_embeddings", "pointer_size"), 1),
    **dict.fromkeys(("num_categories", "num_user_buckets", "spatial_features"), 0),
    **dict.fromkeys(("num_ancestors", "poi_embedding_size"), 0),
    **dict.fromkeys(("loss_chunk_size", "context_actions"), 1),
}
_POSITIVE = ("rope_theta", "rms_norm_eps", "initializer_range")
_SHARES = ("attention_dropout", "hidden_dropout")
# Side information that can be switched off, each by itself; see `SpacetimeGRConfig`.
SIDE_SWITCHES = (
    *("use_mode", "use_hour", "use_gap", "use_distance", "use_clock", "use_user_block"),
    *("use_category", "use_position", "use_fine_position"),
)
_FLAGS = ("use_cache", "tie_word_embeddings", "return_explore", "use_habits", "block_ancestors", *SIDE_SWITCHES)


class SpacetimeGRConfig(PreTrainedConfig):
    """Sizes and options of a Spacetime-GR model.

    Vocabulary (give `**tokenizer.config_kwargs()`): `num_blocks`, `num_inner`, `num_actions`, and the side inputs'
    `num_pois`, `num_categories`, `num_gap_buckets`, `num_distance_buckets`, `num_ancestors`.

    Body (a transformers decoder named by `backbone`): `hidden_size`, `intermediate_size` (default 8/3 of the hidden
    size, rounded up to 64), `num_hidden_layers`, `num_attention_heads`, `num_key_value_heads` (default: all),
    `head_dim`, `rope_theta`, `max_position_embeddings`, `attention_dropout`.

    Side information of u (true or false each; what is off is not read, whatever the rows hold): `use_mode`, `use_hour`
    (local hour of the week), `use_gap` (time since the last action), `use_distance` (from the last place), `use_clock`
    (the times by which the return-explore head and habits relate a request to past actions), `use_user_block` (where
    the person stands: in the embedding of u, in the spatial kernel and in the distances of the return-explore head). Of
    places, in the embedding of the inner token and in the fused inner head: `use_category`, `use_position` (cell of 8 x
    8 in the block), `use_fine_position` (of 32 x 32), `poi_embedding_size` (size of a vector given for each place, see
    `load_places`; 0: none). `block_ancestors`: blocks share what is learnt of the map tiles around them.

    Method: `num_user_buckets` (hashed users; 0 switches them off), `inner_head` (`fused`: candidates of a block are
    scored with category, position, popularity and loyalty as well; `tied`: by the inner id alone), `spatial_features`
    (width of the spatial kernel between the person's place and candidate blocks; 0 switches it off), `return_explore`
    (mixture of the softmax with a pointer over the person's own history), `pointer_size`, `use_habits` (candidates are
    scored with the share of their category in the person's own history as well; only with the fused inner head and
    `use_category`), `hidden_dropout` (on embeddings and on the last hidden state), `loss_chunk_size` (supervised
    positions per chunk of the typed loss), `context_actions` (as many known actions as stood before a request in
    training: what `recommend` and evaluations read unless told otherwise; None: not known).
    """

    model_type = "spacetime_gr"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012

    num_blocks: int = 1
    num_inner: int = 1
    num_actions: int = 1
    num_pois: int = 1
    num_categories: int = 0
    num_gap_buckets: int = 25
    num_distance_buckets: int = 21
    num_ancestors: int = 0
    vocab_size: int | None = None

    backbone: str = "qwen3"
    hidden_size: int = 256
    intermediate_size: int | None = None
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    attention_dropout: float = 0.0
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = PAD
    bos_token_id: int | None = BOS
    eos_token_id: int | None = EOS

    use_mode: bool = True
    use_hour: bool = True
    use_gap: bool = True
    use_distance: bool = True
    use_clock: bool = True
    use_user_block: bool = True
    use_category: bool = True
    use_position: bool = True
    use_fine_position: bool = False
    poi_embedding_size: int = 0
    block_ancestors: bool = False

    num_user_buckets: int = 4096
    inner_head: str = "fused"
    spatial_features: int = 64
    return_explore: bool = True
    use_habits: bool = True
    pointer_size: int = 64
    hidden_dropout: float = 0.0
    loss_chunk_size: int = 2048
    context_actions: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill derived sizes and check the options.

        Raises:
            ValueError: an option is unknown, of another type or out of range, or sizes do not fit each other; names the
                settings to change.
        """
        self._check_values()
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone is {self.backbone!r}; expected one of {', '.join(BACKBONES)}")
        if self.inner_head not in INNER_HEADS:
            raise ValueError(f"inner_head is {self.inner_head!r}; expected one of {', '.join(INNER_HEADS)}")
        if self.head_dim is None:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                    f"{self.num_attention_heads}; change one of them or give head_dim"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}; change one of them"
            )
        if self.spatial_features % 2:
            raise ValueError(f"spatial_features is {self.spatial_features}; expected an even number (sine and cosine)")
        if self.block_ancestors and not self.num_ancestors:
            raise ValueError(
                "block_ancestors is true, but num_ancestors is 0: only a quadtree index of several blocks has tiles "
                "above them; set block_ancestors to false or prepare with --scheme quadtree"
            )
        if self.intermediate_size is None:
            self.intermediate_size = -(-self.hidden_size * 8 // 3 // 64) * 64
        if self.vocab_size is None:
            self.vocab_size = self.vocabulary.size
        super().__post_init__(**kwargs)

    def _check_values(self) -> None:
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            derived = value is None and getattr(type(self), name) is None
            if not derived and (not _is_number(value, Integral) or value < least):
                raise ValueError(f"{name} is {value!r}; expected a whole number, at least {least}")
        for name in _POSITIVE:
            if not _is_number(value := getattr(self, name), Real) or not value > 0:
                raise ValueError(f"{name} is {value!r}; expected a number above 0")
        for name in _SHARES:
            if not _is_number(value := getattr(self, name), Real) or not 0 <= value < 1:
                raise ValueError(f"{name} is {value!r}; expected a number from 0 to below 1")
        for name in _FLAGS:
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name} is {value!r}; expected true or false")
        if self.hidden_act not in (known := sorted(ACT2FN)):
            raise ValueError(f"hidden_act is {self.hidden_act!r}; expected one of {', '.join(known)}")

    @property
    def vocabulary(self) -> Vocabulary:
        """Named ranges of the token ids."""
        return Vocabulary(self.num_blocks, self.num_inner, self.num_actions)

    @property
    def has_habits(self) -> bool:
        """Whether candidates are scored with the share of their category in the person's history."""
        return self.use_habits and self.use_category and self.inner_head == "fused"

    def decoder_config(self) -> PreTrainedConfig:
        """Configuration of the transformers decoder that is the body."""
        return AutoConfig.for_model(
            self.backbone,
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            head_dim=self.head_dim,
            hidden_act=self.hidden_act,
            max_position_embeddings=self.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            rms_norm_eps=self.rms_norm_eps,
            attention_dropout=self.attention_dropout,
            initializer_range=self.initializer_range,
            use_cache=self.use_cache,
            tie_word_embeddings=self.tie_word_embeddings,
            pad_token_id=self.pad_token_id,
            attn_implementation=self._attn_implementation,
        )


def _is_number(value: Any, kind: type) -> bool:
    """Whether `value` is a number of a kind; True and False, numbers to Python, are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


__all__ = ["SpacetimeGRConfig"]
