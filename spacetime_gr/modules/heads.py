"""The typed heads of the language model at work: log-likelihoods of a loss, and the next token's distribution."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from spacetime_gr.modules.memory import Memory, relate, relate_times, typed_slots
from spacetime_gr.modules.return_explore import Pointer, ReturnExplore, mix_into, pointed_log_mass
from spacetime_gr.modules.token_rows import Queries, TokenRows
from spacetime_gr.modules.typed_heads import NEVER, RangeLinear, Tail, chunked_log_likelihood, full_precision


class TypedHeadsMixin:
    """Heads for the language model: each token type predicts within the range of the type that follows it."""

    # ---------------------------------------------------------------- loss

    def _log_likelihoods(
        self: Any,  # a SpacetimeGRForCausalLM: mixed into it
        rows: TokenRows,
        labels: Tensor,
        tile_sums: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Summed log-probabilities of the supervised block, inner and action tokens, and their numbers, both (3,)."""
        vocabulary = self.config.vocabulary
        memory = rows.memory(self.config)
        following = functional.pad(labels[:, 1:], (0, 1), value=-100)  # what each position has to predict

        block_query = rows.queries(vocabulary.context_start, vocabulary.block_start, following)
        block, head = self.block_scores.log_likelihood(
            self.lm_head,
            self.places,
            block_query.select(block_query.tokens.hidden),
            block_query.select(block_query.tokens.user_block),
            self._ancestors(tile_sums),
            block_query.classes(vocabulary.block_start),
            self.config.loss_chunk_size,
        )
        if self.config.return_explore:
            block = self._mix(self.block_pointer, memory, block_query, memory.block, None, block)

        inner_query = rows.queries(vocabulary.block_start, vocabulary.inner_start, following)
        # The queries' own blocks, not the memory's: an unknown place takes a slot of the memory and none here.
        current_block = inner_query.tokens.input_ids
        inner_inputs = [inner_query.select(inner_query.tokens.hidden), inner_query.select(current_block)]
        if self.habits is not None:
            habits = self._habits_before(rows, inner_query.position, memory)
            inner_inputs.append(inner_query.select(habits))
        inner = chunked_log_likelihood(
            partial(self._inner_scores, head),
            tuple(inner_inputs),
            inner_query.classes(vocabulary.inner_start),
            self.config.loss_chunk_size,
            inner_query.num_slots,
        )
        if self.config.return_explore:
            inner = self._mix(self.inner_pointer, memory, inner_query, memory.inner, current_block, inner)

        action_query = rows.queries(vocabulary.inner_start, vocabulary.action_start, following)
        action_start = vocabulary.action_start
        action = chunked_log_likelihood(
            lambda hidden: head(hidden, action_start, action_start + vocabulary.num_actions),
            (action_query.select(action_query.tokens.hidden),),
            action_query.classes(action_start),
            self.config.loss_chunk_size,
            action_query.num_slots,
        )
        parts = ((block_query, block), (inner_query, inner), (action_query, action))
        sums = torch.stack([query.total(values) for query, values in parts])
        return sums, torch.stack([query.supervised.sum() for query, _ in parts]).float()

    def _ancestors(self: Any, tile_sums: Tensor | None) -> Tensor | None:
        """What the tiles above add to the blocks' embeddings, (num_blocks, hidden_size); taken once for all chunks."""
        return None if tile_sums is None else self.model.ancestors.of_all_blocks(tile_sums)

    def _poi_vectors(self: Any, input_ids: Tensor, before: Tensor | None = None) -> Tensor | None:
        """Vectors of the places of inner tokens, zero elsewhere, (batch, length, poi_embedding_size); None if off.

        Args:
            before: token before the first column, shape (batch, 1); default none.
        """
        if self.places.vector is None:
            return None
        vocabulary = self.config.vocabulary
        before = torch.zeros_like(input_ids[:, :1]) if before is None else before
        block = torch.cat([before, input_ids[:, :-1]], dim=1)  # an inner token stands after its block
        at, exists = self.places.find(block - vocabulary.block_start, input_ids - vocabulary.inner_start)
        return self.places.vector[at] * exists.unsqueeze(-1)

    def _habits_before(self, rows: TokenRows, position: Tensor, memory: Memory) -> Tensor:
        """Scores of `_habits` for the u tokens that stand before block tokens at some positions (batch, queries)."""
        request = rows.at((position - 1).clamp(min=0))
        return self._habits(memory, request.hidden, position, request.segment, request.local_time)

    def _habits(
        self: Any, memory: Memory, hidden: Tensor, position: Tensor, segment: Tensor, local_time: Tensor
    ) -> Tensor:
        """What the categories of the past add to those of candidates, (batch, queries, num_categories + 1).

        Args:
            hidden, segment, local_time: of u tokens, shape (batch, queries[, hidden_size]).
            position: from which on the memory is not known, shape (batch, queries).
        """
        if not self.config.use_clock:
            local_time = torch.zeros_like(local_time)
        vocabulary = self.config.vocabulary
        at, exists = self.places.find(memory.block - vocabulary.block_start, memory.inner - vocabulary.inner_start)
        category = torch.where(exists, self.places.category[at], 0).long()
        visible = memory.before(position, segment)
        relations = relate_times(memory, local_time, visible)
        return self.habits(hidden, category, self.config.num_categories, visible, relations)

    def _inner_scores(
        self: Any, lm_head: RangeLinear | Tail, hidden: Tensor, tokens: Tensor, habits: Tensor | None = None
    ) -> Tensor:
        """Scores of the inner ids after block tokens (n,); what is no block token scores as one, to be left out."""
        blocks = (tokens - self.config.vocabulary.block_start).clamp(0, self.config.num_blocks - 1)
        return self.inner_scores(lm_head, self.places, hidden, blocks, habits)

    def _mix(
        self,
        head: ReturnExplore,
        memory: Memory,
        query: Queries,
        pointed: Tensor,
        current_block: Tensor | None,
        explore: Tensor,
    ) -> Tensor:
        """Log-likelihoods of the mixture, from those of the softmax part; shape (selected,)."""
        pointer = self._point_from(head, query.tokens, query.position, memory, pointed, current_block)
        mass = pointed_log_mass(pointer.log_weights, pointed.unsqueeze(1) == query.target.unsqueeze(2))
        return torch.logaddexp(
            query.select(pointer.log_explore) + explore, query.select(pointer.log_return) + query.select(mass)
        )

    def _point_from(
        self,
        head: ReturnExplore,
        tokens: TokenRows,
        position: Tensor,
        memory: Memory,
        pointed: Tensor,
        current_block: Tensor | None = None,
    ) -> Pointer:
        """Pointer and gate at tokens of the rows that the memory was collected from."""
        return self._point(
            head,
            memory,
            tokens.hidden,
            position,
            tokens.segment,
            tokens.local_time,
            tokens.user_block,
            pointed,
            current_block,
        )

    def _point(
        self: Any,  # a SpacetimeGRForCausalLM: mixed into it
        head: ReturnExplore,
        memory: Memory,
        hidden: Tensor,
        position: Tensor,
        segment: Tensor,
        local_time: Tensor,
        user_block: Tensor,
        pointed: Tensor,
        current_block: Tensor | None = None,
        explore_odds: float | Tensor = 1.0,
    ) -> Pointer:
        """Pointer and gate at a grid of queries.

        Args:
            hidden: of the queries, shape (batch, queries, hidden_size).
            position, segment, local_time, user_block: of the queries, shape (batch, queries).
            pointed: the tokens that the memories stand for, shape (batch, slots).
            current_block: block tokens of the queries, when only memories in that block count.
            explore_odds: factor on the gate's odds (the discovery knob); several have the shape (settings, 1, 1).
        """
        if not self.config.use_clock:
            local_time = torch.zeros_like(local_time)
        if not self.config.use_user_block:
            user_block = torch.zeros_like(user_block)
        visible = memory.before(position, segment)
        start = self.config.vocabulary.block_start
        distance_km = self.places.distance_km((user_block - start).unsqueeze(2), (memory.block - start).unsqueeze(1))
        relations = relate(memory, local_time, distance_km, visible)
        if current_block is not None:
            visible = visible & (memory.block.unsqueeze(1) == current_block.unsqueeze(2))
        return Pointer(pointed, *head(hidden, memory, pointed, visible, relations, explore_odds))

    # ---------------------------------------------------------------- next-token distribution

    def _next_log_probs(
        self: Any,  # a SpacetimeGRForCausalLM: mixed into it
        rows: TokenRows,
        columns: Tensor,
        tile_sums: Tensor | None,
    ) -> Tensor:
        """Log-probabilities over the vocabulary at some columns (kept,) of the rows, (batch, kept, vocab_size)."""
        vocabulary = self.config.vocabulary
        current = rows.input_ids[:, columns]
        memory = rows.memory(self.config)
        logits = full_precision(rows.hidden.new_empty(0)).new_full((*current.shape, vocabulary.size), NEVER)
        is_context = (current >= vocabulary.context_start) & (current < vocabulary.block_start)
        is_block = (current >= vocabulary.block_start) & (current < vocabulary.inner_start)
        is_inner = (current >= vocabulary.inner_start) & (current < vocabulary.action_start)
        block_log_probs = partial(self._block_log_probs, tile_sums=tile_sums)
        for is_type, first, stop, log_probs in (
            (is_context, vocabulary.block_start, vocabulary.inner_start, block_log_probs),
            (is_block, vocabulary.inner_start, vocabulary.action_start, self._inner_log_probs),
            (is_inner, vocabulary.action_start, vocabulary.size, self._range_log_probs),
            (~(is_context | is_block | is_inner), vocabulary.context_start, vocabulary.block_start,
             self._range_log_probs),
        ):  # fmt: skip
            # As many slots as the fullest row needs, none for a type that does not occur. A traced graph has to have
            # fixed shapes, so there every column has a slot.
            traced = torch.compiler.is_compiling()
            num_slots = current.shape[1] if traced else int(is_type.sum(-1).max())
            if num_slots == 0:
                continue
            slot, filled = typed_slots(is_type, num_slots)
            position = columns[slot]
            values = log_probs(rows, position, memory, first, stop).unflatten(0, slot.shape)
            logits[..., first:stop].scatter_(
                1, slot.unsqueeze(-1).expand_as(values), values.masked_fill(~filled.unsqueeze(-1), NEVER)
            )
        return logits

    def _block_log_probs(
        self: Any,
        rows: TokenRows,
        position: Tensor,
        memory: Memory,
        first: int,
        _: int,
        tile_sums: Tensor | None,
    ) -> Tensor:
        """Log-probabilities of the blocks after u tokens, shape (batch * slots, num_blocks)."""
        tokens = rows.at(position)
        hidden, user_block = tokens.hidden.flatten(0, 1), tokens.user_block.flatten()
        scores = self.block_scores(self.lm_head, self.places, hidden, user_block, self._ancestors(tile_sums))
        log_probs = functional.log_softmax(scores, dim=-1)
        if self.config.return_explore:
            pointer = self._point_from(self.block_pointer, tokens, position, memory, memory.block)
            log_probs = mix_into(log_probs, pointer, first)
        return log_probs

    def _inner_log_probs(self: Any, rows: TokenRows, position: Tensor, memory: Memory, first: int, _: int) -> Tensor:
        """Log-probabilities of the inner ids after block tokens, shape (batch * slots, num_inner)."""
        tokens = rows.at(position)
        habits = None if self.habits is None else self._habits_before(rows, position, memory).flatten(0, 1)
        scores = self._inner_scores(self.lm_head, tokens.hidden.flatten(0, 1), tokens.input_ids.flatten(), habits)
        log_probs = functional.log_softmax(scores, dim=-1)
        if self.config.return_explore:
            pointer = self._point_from(self.inner_pointer, tokens, position, memory, memory.inner, tokens.input_ids)
            log_probs = mix_into(log_probs, pointer, first)
        return log_probs

    def _range_log_probs(self: Any, rows: TokenRows, position: Tensor, _: Memory, first: int, stop: int) -> Tensor:
        """Log-probabilities of a range of tokens by the token head alone, shape (batch * slots, stop - first)."""
        scores = self.lm_head(rows.at(position).hidden.flatten(0, 1), first, stop)
        return functional.log_softmax(full_precision(scores), dim=-1)
