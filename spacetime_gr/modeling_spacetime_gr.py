"""Spacetime-GR models: a transformers decoder with side inputs, typed heads and the return-explore head."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.generation.recommend import RecommendMixin
from spacetime_gr.index import POIIndex
from spacetime_gr.modules.embeddings import SideEmbeddings
from spacetime_gr.modules.growing import grow
from spacetime_gr.modules.places import PlaceTable
from spacetime_gr.modules.return_explore import Memory, Pointer, ReturnExplore, mix_into, pointed_log_mass, relations
from spacetime_gr.modules.token_rows import Queries, TokenRows, default_positions, segments
from spacetime_gr.modules.typed_heads import (
    NEVER,
    BlockScores,
    InnerScores,
    RangeLinear,
    chunked_log_likelihood,
    full_precision,
)
from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer

ATTENTION = ("sdpa", "eager")  # implementations that take the mask of packed rows


class SpacetimeGRPreTrainedModel(PreTrainedModel):
    """Shared ground of the models: configuration class, initialisation, capabilities."""

    config: SpacetimeGRConfig
    config_class = SpacetimeGRConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values",)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        # Flash attention, be it the package or a kernel of the hub, reads packed sequences off the positions for a
        # single row only, so users of several rows would see each other: refused until the boundaries are handed to it.
        if attn_implementation not in (None, *ATTENTION):
            raise ValueError(
                f"attn_implementation is {attn_implementation!r}, which would let the users of packed rows see each "
                f"other; expected one of {', '.join(ATTENTION)}"
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)


class SpacetimeGRModel(SpacetimeGRPreTrainedModel):
    """Token and side embeddings, then the decoder; gives the last hidden states."""

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__(config)
        self.decoder = AutoModel.from_config(config.decoder_config())
        self.side = SideEmbeddings(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table."""
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token table."""
        self.decoder.embed_tokens = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        user_hash: Tensor | None = None,
        user_block: Tensor | None = None,
        gap: Tensor | None = None,
        category: Tensor | None = None,
        cell: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of token rows.

        Args:
            input_ids: tokens, shape (batch, length); or `inputs_embeds` in their place.
            attention_mask: 1 for real tokens (batch, length), or a ready boolean mask (batch, 1, length, keys).
            position_ids: positions that restart at 0 with each packed sequence; default counted from the mask.
            past_key_values: cache of earlier tokens.
            user_hash, user_block, gap, category, cell: side inputs, shape (batch, length); each may be left out.
        """
        if inputs_embeds is None:
            inputs_embeds = self.decoder.embed_tokens(input_ids)
        inputs_embeds = inputs_embeds + self.side(self.decoder.embed_tokens, user_hash, user_block, gap, category, cell)
        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = default_positions(inputs_embeds, attention_mask, past_length)
        if attention_mask is None or attention_mask.dim() == 2:
            mask = attention_mask if past_length else self._packed_mask(position_ids, inputs_embeds.dtype)
        else:
            mask = self._backend_mask(attention_mask, inputs_embeds.dtype)
        output = self.decoder(
            inputs_embeds=self.dropout(inputs_embeds),
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        output.last_hidden_state = self.dropout(output.last_hidden_state)
        return output

    def _packed_mask(self, position_ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Causal mask that stays inside each packed sequence."""
        segment = segments(position_ids)
        length = position_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=position_ids.device).tril()
        return self._backend_mask(((segment.unsqueeze(1) == segment.unsqueeze(2)) & causal).unsqueeze(1), dtype)

    def _backend_mask(self, allowed: Tensor, dtype: torch.dtype) -> Tensor:
        """A boolean mask in the form the attention implementation takes: eager attention adds it to the scores."""
        if self.config._attn_implementation != "eager" or allowed.dtype != torch.bool:
            return allowed
        return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
            ~allowed, torch.finfo(dtype).min
        )


@dataclass
class SpacetimeGROutput(CausalLMOutputWithPast):
    """Output of the language model.

    `logits`: log-probabilities of the next token over the whole vocabulary, -1e30 outside the type that comes next;
    None when `labels` are given (the loss needs no logits). `loss_sums` and `loss_counts`: summed negative
    log-likelihood and number of supervised tokens of the types block, inner, action, shape (3,), detached.
    """

    loss_sums: Tensor | None = None
    loss_counts: Tensor | None = None


class SpacetimeGRForCausalLM(SpacetimeGRPreTrainedModel, RecommendMixin, GenerationMixin):
    """Next-token model over actions: `u -> block -> inner -> a`, each predicted within its own type's range."""

    _tied_weights_keys = {"lm_head.weight": "model.decoder.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__(config)
        self.model = SpacetimeGRModel(config)
        assert config.vocab_size is not None  # filled by the configuration
        self.lm_head = RangeLinear(config.hidden_size, config.vocab_size, bias=False)
        self.places = PlaceTable(config)
        self.block_scores = BlockScores(config)
        self.inner_scores = InnerScores(config)
        if config.return_explore:
            self.block_pointer = ReturnExplore(config)
            self.inner_pointer = ReturnExplore(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token table."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        """The token head."""
        return self.lm_head

    def load_places(self, index: POIIndex) -> None:
        """Copy the place tables of an index into the model (they are saved with the weights)."""
        self.places.load(index)

    def grow(self, tokenizer: SpacetimeGRTokenizer) -> None:
        """Fit the model to its tokenizer's grown index, in place; see `modules.growing.grow`."""
        grow(self, tokenizer)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        num_items_in_batch: Tensor | float | None = None,
        user_hash: Tensor | None = None,
        user_block: Tensor | None = None,
        gap: Tensor | None = None,
        category: Tensor | None = None,
        cell: Tensor | None = None,
        local_time: Tensor | None = None,
        **kwargs: Any,
    ) -> SpacetimeGROutput:
        """Loss over supervised tokens, or log-probabilities of the next token.

        Args:
            input_ids: tokens, shape (batch, length).
            labels: like `input_ids`, -100 where nothing is supervised.
            logits_to_keep: compute logits of the last so many positions only (0: all).
            num_items_in_batch: what the summed loss is divided by; default the supervised tokens of this batch.
            local_time: local seconds of each token's action, 0 unknown; read by the return-explore head.
            Others: as `SpacetimeGRModel.forward`.

        Raises:
            ValueError: a cache of earlier tokens is given with the return-explore head on, whose memory of the history
                the cache does not hold: decode with `recommend`, or pass the whole history.
        """
        if self.config.return_explore and past_key_values is not None and past_key_values.get_seq_length() > 0:
            raise ValueError(
                "the return-explore head points into the whole history, which a key-value cache does not hold: "
                "call recommend(), or forward() on the whole history with use_cache=False"
            )
        side = {"user_hash": user_hash, "user_block": user_block, "gap": gap, "category": category, "cell": cell}
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **side,
            **kwargs,
        )
        if position_ids is None:
            position_ids = default_positions(output.last_hidden_state, attention_mask, 0)
        rows = TokenRows(
            input_ids=input_ids,
            hidden=output.last_hidden_state,
            segment=segments(position_ids),
            local_time=torch.zeros_like(input_ids) if local_time is None else local_time,
            user_block=torch.zeros_like(input_ids) if user_block is None else user_block,
        )
        result = SpacetimeGROutput(
            past_key_values=output.past_key_values, hidden_states=output.hidden_states, attentions=output.attentions
        )
        if labels is None:
            result.logits = self._next_log_probs(rows, logits_to_keep)
            return result
        likelihoods = self._log_likelihoods(rows, labels)
        sums = torch.stack([-values.sum() for values in likelihoods])
        counts = torch.tensor([len(values) for values in likelihoods], dtype=torch.float32, device=sums.device)
        total = counts.sum() if num_items_in_batch is None else num_items_in_batch
        result.loss = sums.sum() / torch.clamp(torch.as_tensor(total, device=sums.device), min=1.0)
        result.loss_sums, result.loss_counts = sums.detach(), counts
        return result

    # ---------------------------------------------------------------- loss

    def _log_likelihoods(self, rows: TokenRows, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the supervised block, inner and action tokens, one flat float32 tensor each."""
        vocabulary = self.config.vocabulary
        memory = rows.memory(self.config)
        following = functional.pad(labels[:, 1:], (0, 1), value=-100)  # what each position has to predict

        block_query = rows.queries(vocabulary.context_start, vocabulary.block_start, following)
        block_start = vocabulary.block_start
        block = chunked_log_likelihood(
            lambda hidden, standing: self.block_scores(self.lm_head, self.places, hidden, standing),
            (block_query.hidden_n, block_query.pick(rows.user_block)),
            block_query.target_n - block_start,
            self.config.loss_chunk_size,
            block_query.num_slots,
        )
        if self.config.return_explore:
            block = self._mix(self.block_pointer, rows, memory, block_query, memory.block, None, block)

        inner_query = rows.queries(vocabulary.block_start, vocabulary.inner_start, following)
        inner = chunked_log_likelihood(
            lambda hidden, blocks: self.inner_scores(self.lm_head, self.places, hidden, blocks),
            (inner_query.hidden_n, inner_query.pick(rows.input_ids) - block_start),
            inner_query.target_n - vocabulary.inner_start,
            self.config.loss_chunk_size,
            inner_query.num_slots,
        )
        if self.config.return_explore:
            # The queries' own blocks, not the memory's: an unknown place takes a slot of the memory and none here.
            current_block = rows.input_ids.gather(1, inner_query.position)
            inner = self._mix(self.inner_pointer, rows, memory, inner_query, memory.inner, current_block, inner)

        action_query = rows.queries(vocabulary.inner_start, vocabulary.action_start, following)
        action_start = vocabulary.action_start
        action = chunked_log_likelihood(
            lambda hidden: self.lm_head(hidden, action_start, action_start + vocabulary.num_actions),
            (action_query.hidden_n,),
            action_query.target_n - action_start,
            self.config.loss_chunk_size,
            action_query.num_slots,
        )
        return block, inner, action

    def _mix(
        self,
        head: ReturnExplore,
        rows: TokenRows,
        memory: Memory,
        query: Queries,
        pointed: Tensor,
        current_block: Tensor | None,
        explore: Tensor,
    ) -> Tensor:
        """Log-likelihoods of the mixture, from those of the softmax part; shape (supervised,)."""
        segment, local_time, user_block = (
            values.gather(1, query.position) for values in (rows.segment, rows.local_time, rows.user_block)
        )
        pointer = self._point(
            head, memory, query.hidden, query.position, segment, local_time, user_block, pointed, current_block
        )
        mass = pointed_log_mass(pointer.log_weights, pointed.unsqueeze(1) == query.target.unsqueeze(2))
        supervised = query.supervised
        return torch.logaddexp(
            pointer.log_explore[supervised] + explore, pointer.log_return[supervised] + mass[supervised]
        )

    def _point(
        self,
        head: ReturnExplore,
        memory: Memory,
        hidden: Tensor,
        position: Tensor,
        segment: Tensor,
        local_time: Tensor,
        user_block: Tensor,
        pointed: Tensor,
        current_block: Tensor | None = None,
        explore_odds: float = 1.0,
        candidates: int = 1,
    ) -> Pointer:
        """Pointer and gate at a grid of queries.

        Args:
            hidden: of the queries, shape (batch, queries * candidates, hidden_size).
            position, segment, local_time, user_block: of the queries, shape (batch, queries).
            pointed: the tokens that the memories stand for, shape (batch, slots).
            current_block: block tokens of the queries, when only memories in that block count.
            explore_odds: factor on the gate's odds (the discovery knob).
            candidates: how many states in a row share one query's place in the sequence.
        """
        visible = memory.before(position, segment)
        start = self.config.vocabulary.block_start
        distance_km = self.places.distance_km((user_block - start).unsqueeze(2), (memory.block - start).unsqueeze(1))
        relation = relations(memory, local_time, distance_km, visible)
        if candidates > 1:
            visible = visible.repeat_interleave(candidates, dim=1)
            relation = tuple(kind.repeat_interleave(candidates, dim=1) for kind in relation)
        if current_block is not None:
            visible = visible & (memory.block.unsqueeze(1) == current_block.unsqueeze(2))
        return Pointer(pointed, *head(hidden, memory, visible, relation, explore_odds))

    # ---------------------------------------------------------------- next-token distribution

    def _next_log_probs(self, rows: TokenRows, logits_to_keep: int) -> Tensor:
        """Log-probabilities over the vocabulary at the last positions, shape (batch, kept, vocab_size)."""
        vocabulary = self.config.vocabulary
        batch, length = rows.input_ids.shape
        kept = length if logits_to_keep == 0 else min(logits_to_keep, length)
        position = torch.arange(length - kept, length, device=rows.input_ids.device).expand(batch, -1)
        current = rows.input_ids[:, -kept:]
        hidden = rows.hidden[:, -kept:]
        logits = torch.full_like(full_precision(hidden[..., :1]), NEVER).repeat(1, 1, vocabulary.size)
        memory = rows.memory(self.config)
        where = (position, rows.segment[:, -kept:], rows.local_time[:, -kept:], rows.user_block[:, -kept:])

        at_context = (current >= vocabulary.context_start) & (current < vocabulary.block_start)
        if at_context.any():
            scores = self.block_scores(
                self.lm_head, self.places, hidden[at_context], rows.user_block[:, -kept:][at_context]
            )
            log_probs = functional.log_softmax(full_precision(scores), dim=-1)
            if self.config.return_explore:
                pointer = self._point(self.block_pointer, memory, hidden, *where, memory.block)
                log_probs = mix_into(log_probs, pointer, vocabulary.block_start, at_context)
            logits[..., vocabulary.block_start : vocabulary.inner_start][at_context] = log_probs
        at_block = (current >= vocabulary.block_start) & (current < vocabulary.inner_start)
        if at_block.any():
            blocks = current[at_block] - vocabulary.block_start
            scores = self.inner_scores(self.lm_head, self.places, hidden[at_block], blocks)
            log_probs = functional.log_softmax(full_precision(scores), dim=-1)
            if self.config.return_explore:
                pointer = self._point(self.inner_pointer, memory, hidden, *where, memory.inner, current)
                log_probs = mix_into(log_probs, pointer, vocabulary.inner_start, at_block)
            logits[..., vocabulary.inner_start : vocabulary.action_start][at_block] = log_probs
        at_inner = (current >= vocabulary.inner_start) & (current < vocabulary.action_start)
        if at_inner.any():
            scores = self.lm_head(hidden[at_inner], vocabulary.action_start, vocabulary.size)
            logits[..., vocabulary.action_start :][at_inner] = functional.log_softmax(full_precision(scores), dim=-1)
        at_action = (current >= vocabulary.action_start) | (current < vocabulary.context_start)
        if at_action.any():
            scores = self.lm_head(hidden[at_action], vocabulary.context_start, vocabulary.block_start)
            logits[..., vocabulary.context_start : vocabulary.block_start][at_action] = functional.log_softmax(
                full_precision(scores), dim=-1
            )
        return logits


__all__ = ["SpacetimeGRForCausalLM", "SpacetimeGRModel", "SpacetimeGROutput", "SpacetimeGRPreTrainedModel"]
