"""Curriculum: which rows hold multi-mode sequences and which single-mode sub-sequences, and from which corpus.

The share of multi-mode rows is a function of the tokens seen, the corpora have fixed weights; the choices for one row
are a pure function of (seed, lane, row number). So a resumed run needs no extra state and every rank knows the choices
of all the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from data_pipelines.stream.hashing import CORPUS_CHOICE, VIEW_CHOICE, uniform

SCHEDULES = ("constant", "linear", "cosine", "staged")


@dataclass(frozen=True)
class CurriculumSettings:
    """Share of multi-mode rows over the tokens seen (padding included, all lanes together).

    schedule: `constant` (always `final_share`); `linear` and `cosine` (`initial_share` until `ramp_start_tokens`, then
        a straight line or half a cosine to `final_share` at `ramp_end_tokens`); `staged` (steps, see `stages`).
    stages: for `staged`: (tokens, share) pairs, tokens rising from 0; a share holds from its tokens on.

    Raises ValueError for shares outside 0..1 and for schedules that lack what they need.
    """

    schedule: str = "constant"
    initial_share: float = 0.0
    final_share: float = 1.0
    ramp_start_tokens: int = 0
    ramp_end_tokens: int = 0
    stages: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"curriculum.schedule must be one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if any(len(stage) != 2 for stage in self.stages):
            raise ValueError(f"curriculum.stages must be (tokens, share) pairs, got {self.stages}")
        shares = {"initial_share": self.initial_share, "final_share": self.final_share}
        shares |= {f"stages[{i}]": share for i, (_, share) in enumerate(self.stages)}
        for name, share in shares.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"curriculum.{name} must lie between 0 and 1, got {share}")
        if self.schedule in ("linear", "cosine") and not 0 <= self.ramp_start_tokens < self.ramp_end_tokens:
            raise ValueError(
                f"curriculum.schedule={self.schedule!r} needs 0 <= ramp_start_tokens < ramp_end_tokens, "
                f"got {self.ramp_start_tokens} and {self.ramp_end_tokens}"
            )
        if self.schedule == "staged":
            tokens = [stage[0] for stage in self.stages]
            if not tokens or tokens[0] != 0 or any(b <= a for a, b in pairwise(tokens)):
                raise ValueError(f"curriculum.stages must start at 0 tokens and rise, got {self.stages}")

    def share(self, tokens_seen: int) -> float:
        """Share of multi-mode rows (0..1) for a row before which `tokens_seen` tokens were seen."""
        if self.schedule == "constant":
            return self.final_share
        if self.schedule == "staged":
            return [share for tokens, share in self.stages if tokens <= tokens_seen][-1]
        progress = (tokens_seen - self.ramp_start_tokens) / (self.ramp_end_tokens - self.ramp_start_tokens)
        progress = min(max(progress, 0.0), 1.0)
        if self.schedule == "cosine":
            progress = (1.0 - math.cos(math.pi * progress)) / 2.0
        return self.initial_share + (self.final_share - self.initial_share) * progress


def choose_multi_mode(
    settings: CurriculumSettings, seed: int, num_lanes: int, row_number: int, row_length: int
) -> np.ndarray:
    """For row `row_number` of all lanes: does it hold multi-mode sequences? Returns bool (num_lanes,)."""
    share = settings.share(row_number * row_length * num_lanes)
    if share in (0.0, 1.0):
        return np.full(num_lanes, share == 1.0)
    return uniform((seed, VIEW_CHOICE, row_number), np.arange(num_lanes)) < share


def choose_corpus(weights: Sequence[float], seed: int, num_lanes: int, row_number: int) -> np.ndarray:
    """For row `row_number` of all lanes: the number of the corpus it comes from, int64 (num_lanes,).

    weights: positive, one per corpus; their shares are the chances.
    """
    if len(weights) == 1:
        return np.zeros(num_lanes, dtype=np.int64)
    ends = np.cumsum(weights) / np.sum(weights)
    drawn = uniform((seed, CORPUS_CHOICE, row_number), np.arange(num_lanes))
    return np.minimum(np.searchsorted(ends, drawn, side="right"), len(ends) - 1)


def plan(
    settings: CurriculumSettings,
    weights: Sequence[float],
    seed: int,
    num_lanes: int,
    row_length: int,
    row_numbers: np.ndarray,
) -> dict[str, np.ndarray]:
    """What the rows of the given numbers will be, without reading any data.

    Returns `tokens` (seen before the row, int64), `scheduled` and `multi_mode` (shares asked for and realised), each
    (num_rows,), and `corpora` (realised shares, (num_rows, number of corpora)).
    """
    multi_mode, corpora = [], []
    for number in row_numbers.tolist():
        multi_mode.append(choose_multi_mode(settings, seed, num_lanes, number, row_length).mean())
        chosen = choose_corpus(weights, seed, num_lanes, number)
        corpora.append(np.bincount(chosen, minlength=len(weights)) / num_lanes)
    tokens = row_numbers.astype(np.int64) * row_length * num_lanes
    return {
        "tokens": tokens,
        "scheduled": np.array([settings.share(seen) for seen in tokens.tolist()]),
        "multi_mode": np.array(multi_mode),
        "corpora": np.array(corpora).reshape(len(row_numbers), len(weights)),
    }
