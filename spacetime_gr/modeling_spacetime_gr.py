"""Spacetime-GR models: a transformers decoder with side inputs, typed heads and the return-explore head."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.generation.recommend import RecommendMixin
from spacetime_gr.generation.side_inputs import SideInputsMixin
from spacetime_gr.index import POIIndex
from spacetime_gr.modules.ancestors import BlockAncestors
from spacetime_gr.modules.attention import attention_inputs, check_attention, decoder_attention, mask_inputs
from spacetime_gr.modules.embeddings import SideEmbeddings, contexts_read
from spacetime_gr.modules.growing import grow
from spacetime_gr.modules.habits import Habits
from spacetime_gr.modules.heads import TypedHeadsMixin
from spacetime_gr.modules.places import PlaceTable
from spacetime_gr.modules.return_explore import ReturnExplore
from spacetime_gr.modules.text_decoder import copy_body
from spacetime_gr.modules.token_cache import past_tokens, remember
from spacetime_gr.modules.token_rows import TokenRows, default_positions, segments
from spacetime_gr.modules.typed_heads import BlockScores, InnerScores, RangeLinear
from spacetime_gr.modules.zero_start import ZeroEmbedding, ZeroLinear
from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer


class SpacetimeGRPreTrainedModel(PreTrainedModel):
    """Shared ground of the models: configuration class, initialisation, capabilities."""

    config: SpacetimeGRConfig
    config_class = SpacetimeGRConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ("past_key_values",)
    _keep_in_fp32_modules_strict = ("block_centers", "longest_km")  # half precision would move the blocks

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ZeroEmbedding | ZeroLinear):
            for parameter in module.parameters():
                init.zeros_(parameter)
        else:
            super()._init_weights(module)

    def _check_and_adjust_attn_implementation(self, attn_implementation: str | None, *args: Any, **kwargs: Any) -> str:
        check_attention(attn_implementation, self.config.attention_dropout)
        try:
            return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)
        except ImportError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"attn_implementation is {attn_implementation!r}, which cannot run here ({reason}); 'varlen' needs no "
                "further package"
            ) from None

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """Change the attention back end of the live model; see `modules.attention`.

        Raises:
            ValueError: there is no such back end, or it cannot run here.
        """
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        self.base_model.decoder.config._attn_implementation = decoder_attention(self.config._attn_implementation)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Embedding:
        """The token table; its size cannot be changed, since the ids are those of the index.

        Raises:
            ValueError: another size than the present one is asked for.
        """
        if new_num_tokens not in (None, self.config.vocab_size):
            raise ValueError(
                f"new_num_tokens is {new_num_tokens}, the vocabulary has {self.config.vocab_size} ids: ranges of "
                "blocks, inner ids and actions that the index gives, so rows cannot be added or taken away; for new "
                "places call POIIndex.add and model.grow(tokenizer), for another index build a new model"
            )
        return self.get_input_embeddings()


class SpacetimeGRModel(SpacetimeGRPreTrainedModel):
    """Token and side embeddings, then the decoder; gives the last hidden states."""

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__(config)
        attention = decoder_attention(self.config._attn_implementation)
        self.decoder = AutoModel.from_config(config.decoder_config(), attn_implementation=attention)
        self.side = SideEmbeddings(config)
        self.ancestors = BlockAncestors(config) if config.block_ancestors else None
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token table."""
        return self.decoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the token table."""
        self.decoder.embed_tokens = value

    def tile_sums(self) -> Tensor | None:
        """What `BlockAncestors` gives, to be taken once and handed to body and heads; None for a model without."""
        return None if self.ancestors is None else self.ancestors()

    @can_return_tuple
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
        distance: Tensor | None = None,
        category: Tensor | None = None,
        cell: Tensor | None = None,
        poi_vector: Tensor | None = None,
        segment: Tensor | None = None,
        tile_sums: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Hidden states of token rows.

        Args:
            input_ids: tokens, shape (batch, length); or `inputs_embeds` in their place.
            attention_mask: 1 for real tokens (batch, length), or a ready boolean mask (batch, 1, length, keys).
            position_ids: positions that restart at 0 with each packed sequence; default counted from the mask.
            past_key_values: cache of earlier tokens.
            user_hash, user_block, gap, distance, category, cell: side inputs, shape (batch, length); each may be left
                out.
            poi_vector: vectors of the places of inner tokens, zero elsewhere, (batch, length, poi_embedding_size).
            segment: number of the packed sequence of cached tokens and these, 0 for padding, (batch, keys); default
                read off the positions, or with a cache off the attention mask: one sequence a row.
            tile_sums: from the method of that name, where the heads need them as well; default taken here.
        """
        # The decoder has a configuration of its own: what is set on the model's has to be handed on.
        use_cache = self.config.use_cache if use_cache is None else use_cache
        for name in ("output_attentions", "output_hidden_states"):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(self.config, name)
        ancestors = self.ancestors
        sums = self.tile_sums() if tile_sums is None else tile_sums

        def embed(tokens: Tensor) -> Tensor:
            own: Tensor = self.decoder.embed_tokens(tokens)
            return own if ancestors is None or sums is None else own + ancestors.at(tokens, sums)

        if inputs_embeds is None:
            assert input_ids is not None  # the one or the other
            inputs_embeds = embed(contexts_read(input_ids, self.config))
        inputs_embeds = inputs_embeds + self.side(
            embed, user_hash, user_block, gap, distance, category, cell, poi_vector
        )
        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = default_positions(inputs_embeds, attention_mask, past_length)
        backend, (batch, length, _) = self.config._attn_implementation, inputs_embeds.shape
        if attention_mask is None or attention_mask.dim() == 2:
            if segment is None and past_length:
                real = attention_mask is None or attention_mask != 0
                segment = torch.ones(batch, past_length + length, dtype=torch.long, device=inputs_embeds.device) * real
            elif segment is None:
                segment = segments(position_ids.expand(batch, length), attention_mask)
            attention = attention_inputs(backend, segment, length, inputs_embeds.dtype)
        else:
            attention = mask_inputs(backend, attention_mask, inputs_embeds.dtype)
        output = self.decoder(
            inputs_embeds=self.dropout(inputs_embeds),
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **attention,
            **kwargs,
        )
        output.last_hidden_state = self.dropout(output.last_hidden_state)
        return output


@dataclass
class SpacetimeGROutput(CausalLMOutputWithPast):
    """Output of the language model.

    `logits`: log-probabilities of the next token over the whole vocabulary, -1e30 outside the type that comes next;
    None when `labels` are given (the loss needs no logits). `loss_sums` and `loss_counts`: summed negative
    log-likelihood and number of supervised tokens of the types block, inner, action, shape (3,), detached.
    """

    loss_sums: Tensor | None = None
    loss_counts: Tensor | None = None


class SpacetimeGRForCausalLM(
    SpacetimeGRPreTrainedModel, TypedHeadsMixin, RecommendMixin, SideInputsMixin, GenerationMixin
):
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
        self.habits = Habits(config) if config.has_habits else None
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

    @classmethod
    def from_text_decoder(cls, source: str | Path | PreTrainedModel, config: SpacetimeGRConfig) -> Self:
        """A new model whose body starts from a text decoder's weights; embeddings and heads start at random.

        Args:
            source: a folder or hub name of a Qwen3 or Llama checkpoint, or such a model.
            config: of the new model; its body has the sizes of the text decoder.

        Raises:
            ValueError: the body and the text decoder do not fit; names each setting with both values.
        """
        model = cls(config)
        copy_body(source, model.model.decoder)
        return model

    def load_places(self, index: POIIndex, embeddings: NDArray[np.floating] | None = None) -> None:
        """Copy the tables of an index into the model (they are saved with the weights); see `PlaceTable.load`."""
        self.places.load(index, embeddings)
        if self.model.ancestors is not None:
            self.model.ancestors.load(index)

    def renew_visitors(self, index: POIIndex, visitors: NDArray[np.integer]) -> None:
        """Let the popularity of places follow counts of people of today; see `PlaceTable.renew_visitors`."""
        self.places.renew_visitors(index, visitors)

    def grow(self, tokenizer: SpacetimeGRTokenizer, embeddings: NDArray[np.floating] | None = None) -> None:
        """Fit the model to its tokenizer's grown index, in place; see `modules.growing.grow`."""
        grow(self, tokenizer, embeddings)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | float | None = None,
        user_hash: Tensor | None = None,
        user_block: Tensor | None = None,
        gap: Tensor | None = None,
        distance: Tensor | None = None,
        category: Tensor | None = None,
        cell: Tensor | None = None,
        local_time: Tensor | None = None,
        **kwargs: Any,
    ) -> SpacetimeGROutput:
        """Loss over supervised tokens, or log-probabilities of the next token.

        Args:
            input_ids: tokens, shape (batch, length).
            past_key_values: cache of earlier tokens, filled by this method; it holds them for the pointer, too.
            inputs_embeds: in place of the tokens' embeddings (and what the tiles add to them), shape (batch, length,
                hidden_size). The tokens are needed all the same: they tell what type comes next.
            labels: like `input_ids`, -100 where nothing is supervised.
            logits_to_keep: compute logits of the last so many positions only (0: all), or of these columns.
            num_items_in_batch: what the summed loss is divided by; default the supervised tokens of this batch.
            local_time: local seconds of each token's action, 0 unknown; read by the return-explore head and by habits.
            Others: as `SpacetimeGRModel.forward`.

        Raises:
            ValueError: there are no tokens, the cache holds tokens but not for the heads, or labels stand with a cache.
        """
        if input_ids is None:
            raise ValueError(
                "input_ids is missing; expected it with inputs_embeds, too: the tokens tell what type comes next"
            )
        past = past_tokens(past_key_values)
        if past is not None and labels is not None:
            raise ValueError("labels with a cache of earlier tokens; train on whole rows, without past_key_values")
        if labels is not None:
            use_cache = False  # the heads' part of a cache is not filled then, so it would be of no use
        if position_ids is None:
            past_length = 0 if past is None else past.input_ids.shape[1]
            position_ids = default_positions(input_ids, attention_mask, past_length)
        past_segment = None if past is None else past.segment
        segment = segments(position_ids.expand_as(input_ids), attention_mask, past_segment)
        tile_sums = self.model.tile_sums()
        output = self.model(
            input_ids=None if inputs_embeds is not None else input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            user_hash=user_hash,
            user_block=user_block,
            gap=gap,
            distance=distance,
            category=category,
            cell=cell,
            poi_vector=self._poi_vectors(input_ids, None if past is None else past.input_ids[:, -1:]),
            segment=segment if past_segment is None else torch.cat([past_segment, segment], dim=1),
            tile_sums=tile_sums,
            **kwargs,
        )
        rows = TokenRows(
            input_ids=input_ids,
            hidden=output.last_hidden_state,
            segment=segment,
            local_time=torch.zeros_like(input_ids) if local_time is None else local_time,
            user_block=torch.zeros_like(input_ids) if user_block is None else user_block,
        )
        others = {name: output[name] for name in ("past_key_values", "hidden_states", "attentions") if name in output}
        if labels is None:
            if output.past_key_values is not None:
                rows = remember(output.past_key_values, rows)
            columns = torch.arange(input_ids.shape[1], device=input_ids.device)
            columns = columns[-logits_to_keep:] if isinstance(logits_to_keep, int) else columns[logits_to_keep]
            columns = columns + (rows.input_ids.shape[1] - input_ids.shape[1])
            return SpacetimeGROutput(logits=self._next_log_probs(rows, columns, tile_sums), **others)
        sums, counts = self._log_likelihoods(rows, labels, tile_sums)
        total = counts.sum() if num_items_in_batch is None else num_items_in_batch
        loss = -sums.sum() / torch.clamp(torch.as_tensor(total, device=sums.device), min=1.0)
        return SpacetimeGROutput(loss=loss, loss_sums=-sums.detach(), loss_counts=counts, **others)


__all__ = ["SpacetimeGRForCausalLM", "SpacetimeGRModel", "SpacetimeGROutput", "SpacetimeGRPreTrainedModel"]
