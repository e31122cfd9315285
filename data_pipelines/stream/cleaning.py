"""Sequence cleaning: repeated actions, minimum length, bots and the richness filter, and the settings of all cleaning.

Pure functions over flat arrays and offsets. The measures of richness, the signs of bots and their order are choices of
this project.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data_pipelines.stream.behaviour import BEHAVIOURS, Rule, read_rules
from data_pipelines.stream.hashing import RICHNESS, uniform
from data_pipelines.stream.modes import TRIP_KM
from data_pipelines.stream.places import distance_km, poi_points, stated_points
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.settings import as_settings, check_number

HOUR, DAY = 3_600, 86_400


@dataclass(frozen=True)
class CleaningSettings:
    """The defaults drop nothing and supervise every action, as plain check-in data needs.

    rules: of behaviour, see `Rule`: a list, or the path of a YAML file with one; the first that matches decides.
    default_behaviour: `interest` or `functional`, for actions that no rule decides.
    classifier: `package.module:name` of a function that decides these actions in place of the default.
    duplicate_seconds: an action is dropped if the same one on the same place came at most so long before; 0: off.
    min_actions: shorter sequences are dropped.
    max_actions_per_hour, max_actions_per_day: a sequence with more actions than this in any span of an hour (24 hours)
        is dropped as a bot's; 0: off.
    max_speed_kmh: moves faster than this are impossible; 0: off. A move leads from one place of the person to the next:
        the stated ones, if the data has such columns, else those of the actions.
    min_move_km: shorter moves are not judged by their speed (places are not points, and clocks are coarse).
    max_fast_moves: sequences in which a larger share of the moves is impossible are dropped; 0: one is too many.
    min_distinct_ratio: sequences whose (distinct places / actions) is lower are dropped; 0..1, 0: off.
    min_entropy: the same for place entropy / log(actions), which is 1 if every place differs; 0..1, 0: off.
    min_actions_for_richness: the two measures fall with length and say little on short sequences: those shorter than
        this are not judged.
    soft_richness: a sequence below a threshold is kept with probability measure / threshold (the smaller one of two),
        drawn anew in each epoch, in place of never.
    trip_km: where the data states no mode, single-mode rows are cut by this distance, see `segment_modes`.

    Raises ValueError for a value out of its range.
    """

    rules: tuple[Rule, ...] = ()
    default_behaviour: str = "interest"
    classifier: str | None = None
    duplicate_seconds: int = 0
    min_actions: int = 1
    max_actions_per_hour: int = 0
    max_actions_per_day: int = 0
    max_speed_kmh: float = 0.0
    min_move_km: float = 1.0
    max_fast_moves: float = 0.0
    min_distinct_ratio: float = 0.0
    min_entropy: float = 0.0
    min_actions_for_richness: int = 8
    soft_richness: bool = False
    trip_km: float = TRIP_KM

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", _rules(self.rules))
        if self.default_behaviour not in BEHAVIOURS:
            raise ValueError(
                f"cleaning.default_behaviour must be one of {', '.join(BEHAVIOURS)}, got {self.default_behaviour!r}"
            )
        if self.classifier is not None and self.default_behaviour != "interest":
            raise ValueError(
                "cleaning.classifier decides what cleaning.default_behaviour would: set one of the two, or add a rule"
            )
        least = {"min_actions": 1, "min_actions_for_richness": 1}
        least |= dict.fromkeys(("duplicate_seconds", "max_actions_per_hour", "max_actions_per_day"), 0)
        for name, low in least.items():
            check_number(getattr(self, name), f"cleaning.{name}", low, whole=True)
        for name in ("max_speed_kmh", "min_move_km", "trip_km"):
            check_number(getattr(self, name), f"cleaning.{name}", 0)
        for name in ("max_fast_moves", "min_distinct_ratio", "min_entropy"):
            check_number(getattr(self, name), f"cleaning.{name}", 0, 1)
        if not isinstance(self.soft_richness, bool):
            raise ValueError(f"cleaning.soft_richness must be true or false, got {self.soft_richness!r}")


def _rules(given: Any) -> tuple[Rule, ...]:
    """Rules of rules, mappings, or the path of a file of them; ValueError naming the rule that is wrong."""
    where = "cleaning.rules" if not isinstance(given, str) else given
    entries = read_rules(given) if isinstance(given, str) else given
    if not isinstance(entries, list | tuple):
        raise ValueError(f"cleaning.rules must be a list of rules or the path of a YAML file, got {entries!r}")
    rules = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Rule | Mapping):
            raise ValueError(f"{where}[{number}] must be a mapping of a rule's settings, got {entry!r}")
        try:
            rules.append(as_settings(Rule, entry, f"{where}[{number}]"))
        except ValueError as error:
            raise ValueError(str(error) if where in str(error) else f"{where}[{number}] {error}") from error
    names = [rule.name for rule in rules]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"{where} has two rules named {twice[0]!r}; names appear in the counts and must differ")
    return tuple(rules)


def drop_duplicates(sequences: Sequences, seconds: int) -> tuple[Sequences, Counter[str]]:
    """Drops actions that repeat the same action on the same place at most `seconds` after it.

    In a burst each action is held against the one before it, dropped or not: the first remains. Unknown places repeat
    nothing. Returns the count of dropped actions too.
    """
    if not seconds:
        return sequences, Counter()
    columns = sequences.columns
    sequence = sequences.sequence_of_action()
    order = np.lexsort((columns["action"], columns["poi_row"], sequence))  # stable: in time order where all are equal
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for values in (sequence, columns["poi_row"], columns["action"]):
        same &= values[order[1:]] == values[order[:-1]]
    time = columns["timestamp"][order]
    repeated = same & (np.diff(time) <= seconds) & (columns["poi_row"][order[1:]] >= 0)
    keep = np.ones(len(order), dtype=bool)
    keep[order[1:][repeated]] = False
    return sequences.keep_actions(keep), Counter(actions_duplicate=int(repeated.sum()))


def keep_sequences(
    sequences: Sequences, settings: CleaningSettings, index: Any, seed: int = 0, epoch: int = 0
) -> tuple[np.ndarray, Counter[str]]:
    """Which sequences are long, human and rich enough.

    index: gives `coordinates(poi_rows)`; seed, epoch: of the draw of `soft_richness`, which depends on the user too.

    Returns bool (num_sequences,) and counts of dropped sequences and actions by reason. A sequence that fails several
    rules counts under the first of: too_short, impossible_rate, impossible_speed, low_distinct_ratio, low_entropy.
    """
    lengths = sequences.lengths
    failed = {"too_short": lengths < settings.min_actions}
    limits = ((settings.max_actions_per_hour, HOUR), (settings.max_actions_per_day, DAY))
    if any(limit for limit, _ in limits):
        failed["impossible_rate"] = np.logical_or.reduce(
            [exceeds_rate(sequences, limit, span) for limit, span in limits if limit]
        )
    if settings.max_speed_kmh:
        failed["impossible_speed"] = exceeds_speed(sequences, settings, index)
    if settings.min_distinct_ratio or settings.min_entropy:
        judged = lengths >= settings.min_actions_for_richness
        # One draw for both measures, so that the smaller of the two probabilities decides.
        draw = uniform((seed, RICHNESS, epoch), sequences.user_hash) if settings.soft_richness else 1.0
        ratio, entropy = richness(sequences)
        failed["low_distinct_ratio"] = judged & (ratio < settings.min_distinct_ratio * draw)
        failed["low_entropy"] = judged & (entropy < settings.min_entropy * draw)
    keep = np.ones(len(sequences), dtype=bool)
    counts: Counter[str] = Counter()
    for reason, mask in failed.items():
        dropped = keep & mask
        counts[f"sequences_{reason}"] = int(dropped.sum())
        counts[f"actions_{reason}"] = int(lengths[dropped].sum())
        keep &= ~mask
    return keep, counts


def exceeds_rate(sequences: Sequences, limit: int, span: int) -> np.ndarray:
    """Which sequences have more than `limit` actions within less than `span` seconds: bool (num_sequences,)."""
    time, sequence = sequences.columns["timestamp"], sequences.sequence_of_action()
    early, late = slice(0, max(0, len(time) - limit)), slice(limit, None)
    crowded = (sequence[early] == sequence[late]) & (time[late] - time[early] < span)
    return np.bincount(sequence[early][crowded], minlength=len(sequences)) > 0


def exceeds_speed(sequences: Sequences, settings: CleaningSettings, index: Any) -> np.ndarray:
    """Which sequences have too large a share of moves of impossible speed: bool (num_sequences,)."""
    latitude, longitude = stated_points(sequences) or poi_points(sequences, index)
    known = np.flatnonzero(np.isfinite(latitude) & np.isfinite(longitude))
    sequence, time = sequences.sequence_of_action()[known], sequences.columns["timestamp"][known]
    points = latitude[known], longitude[known]
    km = distance_km((points[0][:-1], points[1][:-1]), (points[0][1:], points[1][1:]))
    move = (sequence[1:] == sequence[:-1]) & (km >= settings.min_move_km) & (km > 0)
    fast = move & (km * HOUR > settings.max_speed_kmh * np.diff(time))
    moves, fast_moves = (np.bincount(sequence[1:][which], minlength=len(sequences)) for which in (move, fast))
    return fast_moves > settings.max_fast_moves * moves


def richness(sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Two measures of how varied each sequence is, both 0..1, float64 (num_sequences,).

    distinct ratio = distinct places / n; normalised entropy = -sum p log p / log n with p the share of visits to each
    place and n the number of visits to known places. Unknown places (poi_row < 0) do not count; with n <= 1 both are 1.
    """
    visits = sequences.visits
    num_sequences = len(sequences)
    total = np.bincount(visits.sequence, weights=visits.count, minlength=num_sequences)
    distinct = np.bincount(visits.sequence, minlength=num_sequences)
    varied = total > 1
    safe_total = np.where(varied, total, 2.0)
    # H = log n - (1/n) sum v log v, with v the visits to each place
    weighted = np.bincount(visits.sequence, weights=visits.count * np.log(visits.count), minlength=num_sequences)
    entropy = 1.0 - weighted / (safe_total * np.log(safe_total))
    return np.where(varied, distinct / safe_total, 1.0), np.where(varied, np.clip(entropy, 0.0, 1.0), 1.0)
