"""`recommend()`: from histories and requests to places, in one prefill and one candidate step.

The request's u token gives the distribution over blocks. The best blocks then stand beside each other as candidates
after the shared history: each sees the history and itself only, so one forward step gives the inner distributions of
all of them, whatever their number, and nothing of the history is copied.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import haversine_km
from spacetime_gr.modules.typed_heads import NEVER, full_precision
from spacetime_gr.tokenization_spacetime_gr import History, SpacetimeGRTokenizer, unix_seconds

if TYPE_CHECKING:
    from spacetime_gr.modeling_spacetime_gr import SpacetimeGRForCausalLM

CANDIDATE_CHUNK = 512  # candidate blocks per forward step of the exact scorer; bounds its memory


class RecommendMixin:
    """Place-level decoding for the language model."""

    @torch.inference_mode()
    def score_pois(
        self: "SpacetimeGRForCausalLM",  # type: ignore[misc]
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
            float32, shape (batch, num_pois), in the order of `poi_row`; each row's probabilities sum to one.
        """
        prefix = _Prefix(self, batch, explore_odds)
        blocks = torch.arange(index.num_blocks, device=prefix.block_log_probs.device)
        pieces = [
            prefix.place_log_probs(chunk.expand(prefix.size, -1)).flatten(1) for chunk in blocks.split(CANDIDATE_CHUNK)
        ]
        flat = torch.cat(pieces, dim=1)
        columns = index.block.astype(np.int64) * index.num_inner + index.inner
        return flat[:, torch.from_numpy(columns).to(flat.device)]

    @torch.inference_mode()
    def recommend(
        self: "SpacetimeGRForCausalLM",  # type: ignore[misc]
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
        exclude_visited: bool = False,
        explore_odds: float = 1.0,
        max_actions: int | None = 512,
    ) -> list[dict[str, Any]]:
        """The k most probable next places of each history.

        Args:
            tokenizer: the tokenizer that the model was trained with.
            histories: dicts of columns, as the tokenizer takes them.
            when: time of each request (unix seconds, ISO strings or datetimes, UTC); one or one per history.
            where: (latitude, longitude) of each person at the request; default the place of the last action.
            k: places per history; fewer come back when fewer can be had.
            num_beams: blocks opened per history; all blocks make the result exact.
            tz_offset_minutes: local time zone of the requests; default that of each history's last action.
            mode: mode ids of the requests; default inferred.
            categories: only places of these categories.
            within_km: only places within this distance of `where` (which must then be given).
            exclude_visited: leave out places that stand in the history.
            explore_odds: the discovery knob: factor on the odds of exploring against returning (1 = as learnt).
            max_actions: the last so many actions of each history are read.

        Returns:
            Per history `{"poi_id": [...], "log_prob": [...], "coverage": float}`: places by falling log-probability
            (ties by the rank of their block, then inner id) and the probability mass of the blocks that were opened.

        Raises:
            ValueError: a category is unknown, a setting is out of range, or `within_km` stands without `where`.
        """
        index = tokenizer.index
        batch_of_histories = [histories] if isinstance(histories, Mapping) else list(histories)
        if k < 1 or num_beams < 1 or explore_odds <= 0:
            raise ValueError(f"k={k}, num_beams={num_beams}, explore_odds={explore_odds}: all must be positive")
        columns, offsets = tokenizer.columns(batch_of_histories)
        size = len(batch_of_histories)
        points = None if where is None else np.broadcast_to(np.asarray(where, np.float64), (size, 2))
        requests = tokenizer.encode_requests(
            columns,
            offsets,
            when=unix_seconds(when),
            tz_offset_minutes=_last_zone(columns, offsets) if tz_offset_minutes is None else tz_offset_minutes,
            where=points,
            mode=mode,
            max_actions=max_actions,
        )
        prefix = _Prefix(self, {name: value.to(self.device) for name, value in requests.items()}, explore_odds)
        beams = min(num_beams, index.num_blocks)
        block_log_probs, blocks = prefix.block_log_probs.sort(dim=-1, descending=True, stable=True)
        block_log_probs, blocks = block_log_probs[:, :beams], blocks[:, :beams]
        scores = prefix.place_log_probs(blocks)  # (histories, beams, inner ids)
        rows = index.decode_rows(blocks.cpu().numpy()[:, :, None], np.arange(index.num_inner))
        allowed = (rows >= 0) & _allowed_places(index, points, categories, within_km, size)[
            np.arange(size)[:, None, None], np.maximum(rows, 0)
        ]
        if exclude_visited:
            visited = np.zeros((size, index.num_pois), bool)
            known = columns["poi_row"] >= 0
            visited[np.repeat(np.arange(size), np.diff(offsets))[known], columns["poi_row"][known]] = True
            allowed &= ~visited[np.arange(size)[:, None, None], np.maximum(rows, 0)]
        scores = scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), NEVER).flatten(1)
        best, order = scores.sort(dim=-1, descending=True, stable=True)
        best, chosen = best[:, :k].cpu().numpy(), order[:, :k].cpu().numpy()
        chosen_rows = np.take_along_axis(rows.reshape(size, -1), chosen, axis=1)
        coverage = block_log_probs.exp().sum(-1).clamp(max=1.0).cpu().numpy()
        poi_ids = index.poi_ids.take(np.maximum(chosen_rows, 0).ravel()).to_numpy(zero_copy_only=False)
        poi_ids = poi_ids.reshape(chosen.shape)
        real = best > NEVER / 2
        return [
            {
                "poi_id": poi_ids[i][real[i]].tolist(),
                "log_prob": best[i][real[i]].astype(float).tolist(),
                "coverage": float(coverage[i]),
            }
            for i in range(size)
        ]


class _Prefix:
    """A batch of histories read once: block distributions, and inner distributions of candidate blocks on demand."""

    def __init__(self, model: "SpacetimeGRForCausalLM", batch: Mapping[str, Tensor], explore_odds: float) -> None:
        from spacetime_gr.modeling_spacetime_gr import TokenRows, mix_into, segments

        self.model, self.explore_odds, self.mix_into = model, explore_odds, mix_into
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "local_time")}
        output = model.model(**inputs, use_cache=True)
        self.cache = output.past_key_values
        self.length = batch["input_ids"].shape[1]
        self.size = len(batch["input_ids"])
        self.segment = segments(batch["position_ids"])
        self.position_ids = batch["position_ids"][:, -1:]
        self.local_time = batch["local_time"][:, -1:]
        rows = TokenRows(
            batch["input_ids"], output.last_hidden_state, self.segment, batch["local_time"], batch["user_block"]
        )
        self.memory = rows.memory(model.config)
        hidden = output.last_hidden_state[:, -1]
        scores = model.block_scores(model.lm_head, model.places, hidden, batch["user_block"][:, -1])
        log_probs = functional.log_softmax(full_precision(scores), dim=-1)
        if model.config.return_explore:
            at_end = torch.full_like(self.position_ids, self.length - 1)
            pointer = model._point(
                model.block_pointer, self.memory, hidden.unsqueeze(1), at_end, self.segment[:, -1:], self.local_time,
                self.memory.block, None, explore_odds,
            )  # fmt: skip
            log_probs = mix_into(log_probs, pointer, model.config.vocabulary.block_start)
        self.block_log_probs = log_probs  # (batch, num_blocks)

    def place_log_probs(self, blocks: Tensor) -> Tensor:
        """Log-probabilities of the places of candidate blocks.

        Args:
            blocks: block ids from 0, shape (batch, candidates).

        Returns:
            float32 (batch, candidates, num_inner); about -1e30 where a block has no such inner id.
        """
        model, config = self.model, self.model.config
        count = blocks.shape[1]
        tokens = blocks + config.vocabulary.block_start
        sees_prefix = (self.segment == self.segment[:, -1:]).unsqueeze(1).expand(-1, count, -1)
        itself = torch.eye(count, dtype=torch.bool, device=blocks.device).expand(self.size, -1, -1)
        output = model.model(
            input_ids=tokens,
            attention_mask=torch.cat([sees_prefix, itself], dim=-1).unsqueeze(1),
            position_ids=(self.position_ids + 1).expand(-1, count),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache.crop(-count)
        hidden = output.last_hidden_state
        scores = model.inner_scores(model.lm_head, model.places, hidden.flatten(0, 1), blocks.flatten())
        log_probs = functional.log_softmax(full_precision(scores), dim=-1)
        if config.return_explore:
            pointer = model._point(
                model.inner_pointer, self.memory, hidden, torch.full_like(tokens, self.length),
                self.segment[:, -1:].expand(-1, count), self.local_time.expand(-1, count), self.memory.inner, tokens,
                self.explore_odds,
            )  # fmt: skip
            log_probs = self.mix_into(log_probs, pointer, config.vocabulary.inner_start)
        log_probs = log_probs.unflatten(0, (self.size, count)).masked_fill(
            (scores <= NEVER).unflatten(0, (self.size, count)), NEVER
        )
        return self.block_log_probs.gather(1, blocks).unsqueeze(-1) + log_probs


def _allowed_places(
    index: POIIndex,
    points: np.ndarray | None,
    categories: Sequence[str] | None,
    within_km: float | None,
    size: int,
) -> np.ndarray:
    """Which places the filters leave, shape (histories, num_pois)."""
    allowed = np.ones((size, index.num_pois), bool)
    if categories is not None:
        unknown = [name for name in categories if name not in index.category_names]
        if unknown:
            raise ValueError(f"unknown categories {unknown}; the index knows {', '.join(index.category_names[:20])} …")
        allowed &= np.isin(index.category, [index.category_names.index(name) for name in categories])
    if within_km is not None:
        if points is None:
            raise ValueError("within_km needs where=(latitude, longitude)")
        distance = haversine_km(points[:, :1], points[:, 1:], index.latitude, index.longitude)
        allowed &= distance <= within_km
    return allowed


def _last_zone(columns: Mapping[str, np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """Time zone of each history's last action, 0 for an empty history."""
    lengths = np.diff(offsets)
    if len(columns["tz_offset_minutes"]) == 0:
        return np.zeros(len(lengths), np.int64)
    return np.where(lengths > 0, columns["tz_offset_minutes"][np.maximum(offsets[1:] - 1, 0)], 0)
