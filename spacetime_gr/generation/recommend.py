"""`recommend()`: from histories and requests to places, in one prefill and one candidate step.

The request's u token gives the distribution over blocks. The best blocks then stand beside each other as candidates
after the shared history: each sees the history and itself only, so one forward step gives the inner distributions of
all of them, and nothing of the history is copied. Masks and pointer weights do grow with candidates x history: beyond
`CANDIDATE_CHUNK` candidates a row the step is taken in parts, so that memory is bounded whatever the number of beams.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from spacetime_gr.generation.filters import Filters
from spacetime_gr.index import POIIndex
from spacetime_gr.modules.memory import typed_slots
from spacetime_gr.modules.return_explore import mix_into
from spacetime_gr.modules.token_rows import TokenRows, segments
from spacetime_gr.modules.typed_heads import NEVER, full_precision
from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer
from spacetime_gr.tokens.histories import History, unix_seconds
from spacetime_gr.vocabulary import DEFAULT_CONTEXT_ACTIONS

if TYPE_CHECKING:
    from spacetime_gr.modeling_spacetime_gr import SpacetimeGRForCausalLM

CANDIDATE_CHUNK = 256  # candidate tokens per row and forward step; bounds the memory


class RecommendMixin:
    """Place-level decoding for the language model."""

    @torch.inference_mode()
    def score_pois(
        self: Any,  # a SpacetimeGRForCausalLM: mixed into it
        batch: Mapping[str, Tensor],
        index: POIIndex,
        explore_odds: float = 1.0,
    ) -> Tensor:
        """Exact log-probabilities of every place as the next one.

        Args:
            batch: from `tokenizer.encode_requests`: left-padded rows that end with the request's u token.
            index: the index of the tokenizer.
            explore_odds: the discovery knob, see `recommend`.

        Returns:
            At least float32, shape (batch, num_pois), in the order of `poi_row`; each row's probabilities sum to one
            over all places, retired ones too: `recommend` leaves those out afterwards.

        Raises:
            ValueError: the index is not the model's.
        """
        return self.score_requests(*split_requests(batch), index, explore_odds)[:, 0]

    @torch.inference_mode()
    def score_requests(
        self: Any,  # a SpacetimeGRForCausalLM: mixed into it
        rows: Mapping[str, Tensor],
        requests: Mapping[str, Tensor],
        after: Tensor,
        index: POIIndex,
        explore_odds: float | Sequence[float] = 1.0,
    ) -> Tensor:
        """Exact log-probabilities of every place, for many requests that share a history.

        Args:
            rows: left-padded histories of whole actions, shape (batch, length).
            requests: u tokens, shape (batch, requests); each sees its own part of the history and itself.
            after: how many columns of its row each request sees, shape (batch, requests).
            index: as for `score_pois`.
            explore_odds: the discovery knob, see `recommend`; several settings share the forward passes.

        Returns:
            At least float32, shape (batch, requests, num_pois), with a dimension of settings before them if there are
            several.
        """
        self.places.check(index)
        odds: float | Tensor
        if isinstance(explore_odds, Sequence):
            odds = torch.tensor(explore_odds, device=after.device)[:, None, None]
        else:
            odds = explore_odds
        prefix = SharedHistory(self, rows, requests, after, odds)
        blocks = torch.arange(index.num_blocks, device=after.device)
        pieces = [
            prefix.place_log_probs(chunk.expand(*after.shape, -1)).flatten(-2)
            for chunk in blocks.split(max(1, CANDIDATE_CHUNK // after.shape[1]))
        ]
        block, inner = index.encode(np.arange(index.num_pois), rows=True)
        columns = block.astype(np.int64) * index.num_inner + inner
        scores = torch.cat(pieces, dim=-1)[..., torch.from_numpy(columns).to(after.device)]
        # Without the return-explore head there is no knob: all settings are the same.
        return scores.expand(len(explore_odds), *scores.shape[-3:]) if isinstance(explore_odds, Sequence) else scores

    @torch.inference_mode()
    def recommend(
        self: Any,  # a SpacetimeGRForCausalLM: mixed into it
        tokenizer: SpacetimeGRTokenizer,
        histories: History | Sequence[History],
        when: Any,
        where: ArrayLike | None = None,
        k: int = 10,
        num_beams: int = 50,
        tz_offset_minutes: ArrayLike | None = None,
        mode: ArrayLike | None = None,
        categories: Sequence[str] | None = None,
        within_km: float | None = None,
        within: Any = None,
        exclude_visited: bool = False,
        min_novelty_days: float | None = None,
        explore_odds: float = 1.0,
        max_actions: int | None = None,
    ) -> list[dict[str, Any]]:
        """The k most probable next places of each history.

        Opened are the `num_beams` most probable blocks that hold a place which the filters allow, more in their order
        while these hold fewer than k such places, and, with the return-explore head, the blocks of the history's own
        places. The result is exact over the places of the opened blocks: so over those of the history, and over all
        places once `num_beams` reaches the number of blocks.

        Args:
            tokenizer: the tokenizer that the model was trained with.
            histories: one history or a list of them, as the tokenizer takes them.
            when: time of each request (unix seconds, ISO strings or datetimes, UTC); one or one per history.
            where: (latitude, longitude) of each person at the request; default the place of the last action.
            k: places per history; fewer come back only when fewer are allowed.
            num_beams: blocks opened per history; all blocks make the result exact.
            tz_offset_minutes: local time zone of the requests; default that of each history's last action.
            mode: mode ids of the requests; default inferred.
            categories: only places of these categories.
            within_km: only places within this distance of `where` (which must then be given).
            within: only places inside a polygon, one for all or one per history: GeoJSON Polygon or MultiPolygon (dict;
                Features of these too) or a list of rings of (latitude, longitude), see `polygons.fences`.
            exclude_visited: leave out places that stand in the history, also beyond the part that the model reads.
            min_novelty_days: leave out places visited within so many days before the request, as D(k, m) counts them;
                `exclude_visited` is the case of all time.
            explore_odds: the discovery knob: factor on the odds of exploring against returning (1 = as learnt).
            max_actions: the last so many actions of each history are read; default as many as in training
                (`config.context_actions`, or 128 where the model does not say).

        Returns:
            Per history `{"poi_id": [...], "log_prob": [...], "coverage": float}`: places by falling log-probability,
            ties by the rank of their block (ties of blocks by block id), then by inner id. `log_prob` is that of the
            model, not renormalised over what the filters leave. `coverage`: of the probability mass of all blocks that
            hold an allowed place, the share in those that were opened; 1 where no block holds one.

        Raises:
            ValueError: the tokenizer is not the model's, a category is unknown, a polygon is none, a setting is out of
                range, a history goes on after its request, or `within_km` stands without `where`.
        """
        index = tokenizer.index
        if k < 1 or num_beams < 1 or not explore_odds > 0:
            raise ValueError(f"k={k}, num_beams={num_beams}, explore_odds={explore_odds}: all must be positive")
        self.places.check(index)
        if max_actions is None:
            max_actions = self.config.context_actions or DEFAULT_CONTEXT_ACTIONS
        columns, offsets = tokenizer.columns(histories)
        size = len(offsets) - 1
        points = None if where is None else np.broadcast_to(np.asarray(where, np.float64), (size, 2))
        if points is not None and (np.abs(points) > (90.0, 180.0)).any():
            raise ValueError(f"where is {where!r}; expected (latitude, longitude) within -90..90 and -180..180 degrees")
        request_time = np.broadcast_to(unix_seconds(when), (size,))
        _refuse_the_future(columns["timestamp"], offsets, request_time)
        filters = Filters(
            index, columns, offsets, request_time, points, categories, within_km, within, exclude_visited,
            min_novelty_days,
        )  # fmt: skip
        requests = tokenizer.encode_requests(
            columns,
            offsets,
            when=request_time,
            tz_offset_minutes=_last_zone(columns, offsets) if tz_offset_minutes is None else tz_offset_minutes,
            where=points,
            mode=mode,
            max_actions=max_actions,
        )
        on_device = {name: value.to(self.device) for name, value in requests.items()}
        prefix = SharedHistory(self, *split_requests(on_device), explore_odds)
        blocks, opened, coverage = choose_blocks(
            prefix.block_log_probs[:, 0, : index.num_blocks],
            torch.from_numpy(filters.counts()).to(self.device),
            # Without the return-explore head a place of the past is one like any other.
            torch.from_numpy(filters.past_blocks(max_actions if self.config.return_explore else 0)).to(self.device),
            num_beams,
            k,
        )
        log_probs, rows = best_places(prefix, index, filters, blocks, opened, k)
        poi_ids = index.ids(rows)
        return [
            {
                "poi_id": poi_ids[i][rows[i] >= 0].tolist(),
                "log_prob": log_probs[i][rows[i] >= 0].astype(float).tolist(),
                "coverage": float(coverage[i]),
            }
            for i in range(size)
        ]


def choose_blocks(
    log_probs: Tensor, counts: Tensor, joined: Tensor, num_beams: int, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The blocks to open for each history, best first.

    Args:
        log_probs: of the blocks, shape (histories, num_blocks).
        counts: places of each block that may be recommended, same shape.
        joined: blocks to open whatever their rank, same shape.
        num_beams, k: open the best `num_beams` blocks that hold a place, more while they hold fewer than k.

    Returns:
        Block ids in their order (ties by id), shape (histories, most opened); which of them are to be opened (the rest
        fills the rows up); and the share that these have in the mass of all blocks that hold a place, (histories,).
    """
    ranked, order = log_probs.masked_fill(counts == 0, -torch.inf).sort(dim=-1, descending=True, stable=True)
    held = counts.gather(1, order)
    rank = torch.arange(held.shape[1], device=held.device)
    before = held.cumsum(1) - held
    opened = (held > 0) & ((rank < num_beams) | (before < k) | joined.gather(1, order))
    share = ranked.masked_fill(~opened, -torch.inf).logsumexp(1) - ranked.logsumexp(1)
    coverage = share.exp().nan_to_num(1.0).clamp(max=1.0)
    width = max(1, int(opened.sum(1).max())) if len(opened) else 1
    first = (~opened).to(torch.int8).argsort(dim=1, stable=True)[:, :width]
    return order.gather(1, first), opened.gather(1, first), coverage


def best_places(
    prefix: "SharedHistory", index: POIIndex, filters: Filters, blocks: Tensor, opened: Tensor, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best k allowed places in the opened blocks of each history.

    Args:
        blocks, opened: from `choose_blocks`, shape (histories, most opened).

    Returns:
        Log-probabilities, falling, and POI rows, -1 where there are fewer; both (histories, at most k).
    """
    size = len(blocks)
    history = np.arange(size)
    best = prefix.block_log_probs.new_empty(size, 0)
    best_rows = np.empty((size, 0), np.int64)
    for chunk, real in zip(blocks.split(CANDIDATE_CHUNK, 1), opened.split(CANDIDATE_CHUNK, 1), strict=True):
        scores = prefix.place_log_probs(chunk.unsqueeze(1))[:, 0]  # (histories, candidates, inner ids)
        rows = index.decode_rows(chunk.cpu().numpy()[:, :, None], np.arange(index.num_inner))
        allowed = filters.allowed(history.repeat(chunk.shape[1]), rows.reshape(-1, index.num_inner))
        allowed = allowed.reshape(rows.shape) & real.cpu().numpy()[:, :, None]
        scores = scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -torch.inf)
        # What was found before stands first: a stable sort leaves ties in the order of the blocks.
        best, order = torch.cat([best, scores.flatten(1)], 1).sort(dim=-1, descending=True, stable=True)
        best, order = best[:, :k], order[:, :k]
        best_rows = np.take_along_axis(
            np.concatenate([best_rows, np.where(allowed, rows, -1).reshape(size, -1)], axis=1),
            order.cpu().numpy(),
            axis=1,
        )
    return best.cpu().numpy(), best_rows


def split_requests(batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Take the last token of each row off as its request: histories, requests (batch, 1), and what these see."""
    if batch["input_ids"].shape[1] == 1:  # nothing but requests: one column of padding stands for the empty history
        batch = {name: functional.pad(values, (1, 0)) for name, values in batch.items()}
    rows = {name: values[:, :-1] for name, values in batch.items() if name != "labels"}
    requests = {name: values[:, -1:] for name, values in batch.items() if name != "labels"}
    return rows, requests, torch.full_like(requests["input_ids"], rows["input_ids"].shape[1])


class SharedHistory:
    """Histories read once, requests beside each other after them, and candidate blocks beside each other after those.

    A request sees the part of the history that it is given and itself; a candidate block sees what its request sees,
    the request and itself. `block_log_probs` has the shape (batch, requests, num_blocks), with a dimension of settings
    before them if `explore_odds` has the shape (settings, 1, 1).
    """

    def __init__(
        self,
        model: "SpacetimeGRForCausalLM",
        rows: Mapping[str, Tensor],
        requests: Mapping[str, Tensor],
        after: Tensor,
        explore_odds: float | Tensor,
    ) -> None:
        self.model, self.explore_odds = model, explore_odds
        # Log of the probability that the person explores, (batch, requests); None without the return-explore head.
        self.log_explore: Tensor | None = None
        self.requests, self.after = requests, after
        side = ("user_hash", "user_block", "gap", "distance", "category", "cell")
        self.tile_sums = model.model.tile_sums()
        output = model.model(
            input_ids=rows["input_ids"],
            position_ids=rows["position_ids"],
            use_cache=True,
            poi_vector=model._poi_vectors(rows["input_ids"]),
            tile_sums=self.tile_sums,
            **{name: rows[name] for name in side},
        )
        self.cache = output.past_key_values
        segment = segments(rows["position_ids"])
        token_rows = TokenRows(
            rows["input_ids"], output.last_hidden_state, segment, rows["local_time"], rows["user_block"]
        )
        self.memory = token_rows.memory(model.config)
        self.segment = segment[:, -1:].expand_as(after)
        column = torch.arange(segment.shape[1], device=segment.device)
        # (batch, requests, length): which tokens of the history each request sees
        self.sees = (column < after.unsqueeze(-1)) & rows["attention_mask"].bool().unsqueeze(1)
        count = after.shape[1]
        itself = torch.eye(count, dtype=torch.bool, device=after.device).expand(len(after), -1, -1)
        hidden = model.model(
            input_ids=requests["input_ids"],
            attention_mask=torch.cat([self.sees, itself], dim=-1).unsqueeze(1),
            position_ids=requests["position_ids"],
            past_key_values=self.cache,
            use_cache=True,
            tile_sums=self.tile_sums,
            **{name: requests[name] for name in side},
        ).last_hidden_state
        standing = requests["user_block"].flatten()
        ancestors = model._ancestors(self.tile_sums)
        scores = model.block_scores(model.lm_head, model.places, hidden.flatten(0, 1), standing, ancestors)
        log_probs = functional.log_softmax(full_precision(scores), dim=-1)
        if model.config.return_explore:
            pointer = model._point(
                model.block_pointer, self.memory, hidden, after, self.segment, requests["local_time"],
                requests["user_block"], self.memory.block, None, explore_odds,
            )  # fmt: skip
            self.log_explore = pointer.log_explore
            log_probs = mix_into(log_probs, pointer, model.config.vocabulary.block_start)
        self.block_log_probs = log_probs.unflatten(-2, after.shape)
        self.habits: Tensor | None = None
        if model.habits is not None:
            self.habits = model._habits(self.memory, hidden, after, self.segment, requests["local_time"])

    def place_log_probs(self, blocks: Tensor) -> Tensor:
        """Log-probabilities of the places of candidate blocks.

        Args:
            blocks: block ids from 0, shape (batch, requests, candidates).

        Returns:
            At least float32, ([settings,] batch, requests, candidates, num_inner); about -1e30 where a block has no
            such inner id.
        """
        model, config = self.model, self.model.config
        batch, count, candidates = blocks.shape
        tokens = (blocks + config.vocabulary.block_start).flatten(1)

        def repeat(values: Tensor) -> Tensor:
            return values.repeat_interleave(candidates, dim=1)

        own = torch.eye(count, dtype=torch.bool, device=blocks.device).expand(batch, -1, -1)
        itself = torch.eye(count * candidates, dtype=torch.bool, device=blocks.device).expand(batch, -1, -1)
        hidden = model.model(
            input_ids=tokens,
            attention_mask=torch.cat([repeat(self.sees), repeat(own), itself], dim=-1).unsqueeze(1),
            position_ids=repeat(self.requests["position_ids"] + 1),
            past_key_values=self.cache,
            use_cache=True,
            tile_sums=self.tile_sums,
        ).last_hidden_state
        self.cache.crop(-tokens.shape[1])
        habits = None if self.habits is None else repeat(self.habits).flatten(0, 1)
        scores = model.inner_scores(model.lm_head, model.places, hidden.flatten(0, 1), blocks.flatten(), habits)
        log_probs = functional.log_softmax(full_precision(scores), dim=-1)
        if config.return_explore:
            log_probs = self._with_returns(log_probs, hidden, tokens, candidates)
        log_probs = log_probs.masked_fill(scores <= NEVER, NEVER).unflatten(-2, (batch, count, candidates))
        chosen = blocks.expand(*self.block_log_probs.shape[:-3], *blocks.shape)
        return self.block_log_probs.gather(-1, chosen).unsqueeze(-1) + log_probs

    def _with_returns(self, log_probs: Tensor, hidden: Tensor, tokens: Tensor, candidates: int) -> Tensor:
        """Mix the pointer into the candidate blocks where the person has been before; in others there is none to mix.

        Those are few of all blocks, and the pointer weighs every memory at every candidate it is asked for.

        Args:
            log_probs: softmax part, shape (batch * requests * candidates, num_inner).
            hidden, tokens: of the candidates, shape (batch, requests * candidates[, hidden_size]).

        Returns:
            Mixture, shape ([settings,] batch * requests * candidates, num_inner).
        """
        visible = self.memory.before(self.after, self.segment).repeat_interleave(candidates, dim=1)
        known = (visible & (self.memory.block.unsqueeze(1) == tokens.unsqueeze(2))).any(-1)
        most = int(known.sum(-1).max()) if len(known) else 0
        if most == 0:
            return log_probs
        # As many slots as the fullest row needs; what fills them up in others has nothing to point to and stays itself.
        slot, _ = typed_slots(known, most)

        def of_request(values: Tensor) -> Tensor:
            return values.gather(1, slot // candidates)

        def of_candidate(values: Tensor) -> Tensor:
            return values.gather(1, slot.unsqueeze(-1).expand(-1, -1, values.shape[-1]))

        after, segment, chosen = of_request(self.after), of_request(self.segment), tokens.gather(1, slot)
        pointer = self.model._point(
            self.model.inner_pointer, self.memory, of_candidate(hidden), after, segment,
            of_request(self.requests["local_time"]), torch.zeros_like(slot), self.memory.inner, chosen,
            self.explore_odds,
        )  # fmt: skip
        whole = log_probs.unflatten(0, tokens.shape)
        mixed = mix_into(of_candidate(whole).flatten(0, 1), pointer, self.model.config.vocabulary.inner_start)
        mixed = mixed.unflatten(-2, slot.shape)
        settings = mixed.shape[:-3]
        at = slot.unsqueeze(-1).expand_as(mixed)
        return whole.expand(*settings, *whole.shape).scatter(-2, at, mixed).flatten(-3, -2)


def _refuse_the_future(timestamp: np.ndarray, offsets: np.ndarray, request_time: np.ndarray) -> None:
    """Raise if an action of a history lies after its request; actions and requests in unix seconds."""
    late = timestamp > np.repeat(request_time, np.diff(offsets))
    if late.any():
        number = int(np.searchsorted(offsets, late.argmax(), side="right")) - 1
        count = int(late[offsets[number] : offsets[number + 1]].sum())
        raise ValueError(
            f"history {number}: {count} actions lie after the request at {request_time[number]}; remove them, or ask "
            "for a later time"
        )


def _last_zone(columns: Mapping[str, np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """Time zone of each history's last action, 0 for an empty history."""
    lengths = np.diff(offsets)
    if len(columns["tz_offset_minutes"]) == 0:
        return np.zeros(len(lengths), np.int64)
    return np.where(lengths > 0, columns["tz_offset_minutes"][np.maximum(offsets[1:] - 1, 0)], 0)
