"""Behaviour cleaning, richness filter and minimum length: pure functions over flat arrays and offsets.

Behaviour cleaning marks *functional* actions (done out of need or habit: they stay as context, no loss flows through
them) against *interest* actions. The richness filter drops whole sequences dominated by repeated places. Which rules
mark an action as functional, and the two measures of richness, are choices of this project.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.settings import nearest


@dataclass(frozen=True)
class CleaningSettings:
    """The defaults drop nothing and supervise every action, as plain check-in data needs.

    functional_actions: names of action types that are functional.
    functional_categories: names of POI categories whose visits are functional.
    num_anchors: how many of a user's own most visited places are anchors (home, work); 0 switches the rule off. Visits
        to an anchor after the first one are functional.
    min_anchor_visits: a place visited less often than this by the user is no anchor.
    min_actions: shorter sequences are dropped.
    min_distinct_ratio: sequences whose (distinct places / actions) is lower are dropped; 0..1.
    min_entropy: sequences whose place entropy / log(actions) is lower are dropped; 0..1 (1: every place differs).
    min_actions_for_richness: the two measures fall with length and say little on short sequences: those shorter than
        this are not judged.

    Raises ValueError for a value out of its range.
    """

    functional_actions: tuple[str, ...] = ()
    functional_categories: tuple[str, ...] = ()
    num_anchors: int = 0
    min_anchor_visits: int = 3
    min_actions: int = 1
    min_distinct_ratio: float = 0.0
    min_entropy: float = 0.0
    min_actions_for_richness: int = 8

    def __post_init__(self) -> None:
        for name in ("functional_actions", "functional_categories"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"cleaning.{name} must be a list of names, got the string {getattr(self, name)!r}")
        least = {"num_anchors": 0, "min_anchor_visits": 1, "min_actions": 1, "min_actions_for_richness": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"cleaning.{name} must be at least {low}, got {getattr(self, name)}")
        for name in ("min_distinct_ratio", "min_entropy"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"cleaning.{name} must lie between 0 and 1, got {getattr(self, name)}")


def find_names(names: Sequence[str], known: Sequence[str], setting: str) -> np.ndarray:
    """Indices (int64) of `names` in `known`; ValueError naming the setting and the nearest known name."""
    position = {name: index for index, name in enumerate(known)}
    for name in names:
        if name not in position:
            raise ValueError(f"{setting} names {name!r}, which the data does not have{nearest(name, known)}")
    return np.array([position[name] for name in names], dtype=np.int64)


def keep_sequences(sequences: Sequences, settings: CleaningSettings) -> tuple[np.ndarray, Counter[str]]:
    """Which sequences are long and rich enough.

    Returns bool (num_sequences,) and counts of dropped sequences and actions by reason. A sequence that fails several
    rules counts under the first of: too_short, low_distinct_ratio, low_entropy.
    """
    lengths = sequences.lengths
    failed = {"too_short": lengths < settings.min_actions}
    if settings.min_distinct_ratio > 0.0 or settings.min_entropy > 0.0:
        distinct_ratio, entropy = richness(sequences)
        judged = lengths >= settings.min_actions_for_richness
        failed["low_distinct_ratio"] = judged & (distinct_ratio < settings.min_distinct_ratio)
        failed["low_entropy"] = judged & (entropy < settings.min_entropy)
    keep = np.ones(len(sequences), dtype=bool)
    counts: Counter[str] = Counter()
    for reason, mask in failed.items():
        dropped = keep & mask
        counts[f"sequences_{reason}"] = int(dropped.sum())
        counts[f"actions_{reason}"] = int(lengths[dropped].sum())
        keep &= ~mask
    return keep, counts


def richness(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Two measures of how varied each sequence is, both 0..1, float64 (num_sequences,).

    distinct ratio = distinct places / n; normalised entropy = -sum p log p / log n with p the share of visits to each
    place and n the number of visits to known places. Unknown places (poi_row < 0) do not count; with n <= 1 both are 1.
    """
    known = sequences.columns["poi_row"] >= 0
    sequence, _, visits = _visits(sequences, known)
    num_sequences = len(sequences)
    total = np.bincount(sequence, weights=visits, minlength=num_sequences)
    distinct = np.bincount(sequence, minlength=num_sequences)
    varied = total > 1
    safe_total = np.where(varied, total, 2.0)
    # H = log n - (1/n) sum v log v, with v the visits to each place
    weighted = np.bincount(sequence, weights=visits * np.log(visits), minlength=num_sequences)
    entropy = 1.0 - weighted / (safe_total * np.log(safe_total))
    return np.where(varied, distinct / safe_total, 1.0), np.where(varied, np.clip(entropy, 0.0, 1.0), 1.0)


def interest_mask(
    sequences: Sequences,
    settings: CleaningSettings,
    functional_actions: np.ndarray,
    functional_categories: np.ndarray,
    categories: np.ndarray | None,
) -> tuple[np.ndarray | None, Counter[str]]:
    """Which actions are of interest: bool (num_actions,), or None where no rule is set (all are).

    functional_actions, functional_categories: indices of the settings' names; categories: int (num_actions,) category
    of each action's place, needed only when functional_categories is not empty. Returns counts of functional actions
    too, each under the first rule that marks it: action type, category, anchor.
    """
    marked: dict[str, np.ndarray] = {}
    if len(functional_actions):
        marked["action_type"] = np.isin(sequences.columns["action"], functional_actions)
    if len(functional_categories):
        assert categories is not None
        marked["category"] = np.isin(categories, functional_categories)
    if settings.num_anchors:
        marked["anchor"] = anchor_returns(sequences, settings.num_anchors, settings.min_anchor_visits)
    if not marked:
        return None, Counter()
    interest = np.ones(sequences.num_actions, dtype=bool)
    counts: Counter[str] = Counter()
    for rule, mask in marked.items():
        counts[f"actions_functional_{rule}"] = int((interest & mask).sum())
        interest &= ~mask
    return interest, counts


def anchor_returns(sequences: Sequences, num_anchors: int, min_visits: int) -> np.ndarray:
    """Visits after the first to one of the user's `num_anchors` most visited places: bool (num_actions,).

    Places with fewer than `min_visits` visits are no anchors; of equally visited places the one visited first wins.
    """
    known = np.flatnonzero(sequences.columns["poi_row"] >= 0)
    returns = np.zeros(sequences.num_actions, dtype=bool)
    sequence, first, visits = _visits(sequences, sequences.columns["poi_row"] >= 0)
    order = np.lexsort((first, -visits, sequence))
    starts = np.searchsorted(sequence[order], np.arange(len(sequences)))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order)) - starts[sequence[order]]
    anchor = (rank < num_anchors) & (visits >= min_visits)
    place = _place_of_action(sequences, known)
    returns[known] = anchor[place]
    returns[first] = False
    return returns


def _place_keys(sequences: Sequences, actions: np.ndarray) -> np.ndarray:
    """One int64 per action that is equal for visits of one sequence to one place."""
    poi_row = sequences.columns["poi_row"][actions].astype(np.int64)
    return sequences.sequence_of_action()[actions] << 32 | poi_row


def _visits(sequences: Sequences, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each (sequence, place) pair, in rising order: sequence, first action there, number of visits."""
    actions = np.flatnonzero(known)
    keys, first, visits = np.unique(_place_keys(sequences, actions), return_index=True, return_counts=True)
    return keys >> 32, actions[first], visits


def _place_of_action(sequences: Sequences, actions: np.ndarray) -> np.ndarray:
    """Index of each action's (sequence, place) pair in the order of `_visits`."""
    return np.unique(_place_keys(sequences, actions), return_inverse=True)[1]
