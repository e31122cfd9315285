"""Behaviour cleaning: which actions are of interest (the loss flows through them) and which are functional (context).

Rules are looked at from first to last, and the first one that matches an action decides; a rule matches where all its
conditions hold. What no rule decides goes to the classifier if there is one, else gets the default. Which rules say
what is a choice of this project's users: the defaults hold every action to be of interest.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_pipelines.stream.places import distance_km, poi_points, points_before
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.settings import check_number, import_name, nearest
from data_pipelines.stream.visits import Visits

BEHAVIOURS = ("functional", "interest")

Classifier = Callable[[dict[str, np.ndarray], np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rule:
    """A rule of behaviour; it matches an action for which every condition that is set holds.

    name: appears in the counts (`actions_rule_NAME`).
    behaviour: `functional` or `interest`, what the actions are that it matches.
    actions: names of action types; the action has one of them.
    categories: names of POI categories; the place has one of them.
    min_km, max_km: least and largest distance from the person to the place. The person stands where the data says,
        else at the place of the previous action; a distance that is not known matches neither.
    anchors: the place is one of so many of the person's own most visited ones (home, work), and was visited before in
        the sequence; of equally visited places the one visited first counts. 0: no condition.
    min_anchor_visits: a place visited less often than this in the sequence is no anchor.

    Raises ValueError for values out of range and for a rule without any condition.
    """

    name: str = ""
    behaviour: str = ""
    actions: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    min_km: float | None = None
    max_km: float | None = None
    anchors: int = 0
    min_anchor_visits: int = 3

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or self.name in ("default", "classifier"):
            raise ValueError(f"needs a name of its own (not 'default' or 'classifier'), got {self.name!r}")
        if self.behaviour not in BEHAVIOURS:
            raise ValueError(f"({self.name}): behaviour must be one of {', '.join(BEHAVIOURS)}, got {self.behaviour!r}")
        for key in ("actions", "categories"):
            names = getattr(self, key)
            if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"({self.name}): {key} must be a list of names, got {names!r}; leave it out for any")
        for key, low in (("anchors", 0), ("min_anchor_visits", 1)):
            check_number(getattr(self, key), f"({self.name}): {key}", low, whole=True)
        for key in ("min_km", "max_km"):
            if getattr(self, key) is not None:
                check_number(getattr(self, key), f"({self.name}): {key}", 0)
        if self.min_km is not None and self.max_km is not None and self.min_km > self.max_km:
            raise ValueError(f"({self.name}): min_km {self.min_km} is above max_km {self.max_km}: it never matches")
        bounds = self.min_km is not None or self.max_km is not None
        if not (self.actions or self.categories or self.anchors or bounds):
            raise ValueError(
                f"({self.name}) has no condition (actions, categories, min_km, max_km, anchors); "
                "cleaning.default_behaviour is for what no rule decides"
            )


def read_rules(path: str | Path) -> list[Any]:
    """The list of rules in a YAML file. Raises ValueError naming the file if it is missing or holds no list."""
    file = Path(path)
    try:
        rules = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read the behaviour rules in {file}: {' '.join(str(error).split())}") from error
    if not isinstance(rules, list):
        raise ValueError(f"{file} must hold a list of behaviour rules (`- name: …`), got {type(rules).__name__}")
    return rules


def load_classifier(path: str) -> Classifier:
    """The callable at `package.module:name`. Raises ValueError naming what is not found, or is no function."""
    found = import_name(path, "cleaning.classifier")
    if not callable(found):
        raise ValueError(f"cleaning.classifier={path} is no function but a {type(found).__name__}")
    classifier: Classifier = found
    return classifier


class Behaviour:
    """Rules and classifier, bound to the names of one data set.

    Args:
        rules: first match decides.
        default: behaviour of what no rule decides, where there is no classifier.
        classifier: import path, or None. Called with the columns, name -> (num_actions,) and `user_hash` per sequence,
            and the offsets; returns bool (num_actions,), true for interest. It must be a pure function, and threads
            may call it at once.
        actions: names of the action types.
        index: gives `category_names`, `categories(poi_rows)` and `coordinates(poi_rows)`.

    Raises:
        ValueError: for names that the data does not have, and for a classifier that cannot be imported.
    """

    def __init__(
        self, rules: Sequence[Rule], default: str, classifier: str | None, actions: Sequence[str], index: Any
    ) -> None:
        self._default_interest = default == "interest"
        self._classifier_path = classifier
        self._classifier = load_classifier(classifier) if classifier is not None else None
        self._index = index
        self._rules = [
            (
                rule,
                find_names(rule.actions, actions, f"cleaning.rules ({rule.name}): actions"),
                find_names(rule.categories, index.category_names, f"cleaning.rules ({rule.name}): categories")
                if rule.categories
                else None,
            )
            for rule in rules
        ]
        self._trivial = not rules and self._classifier is None and self._default_interest

    def interest(self, sequences: Sequences) -> tuple[np.ndarray | None, Counter[str]]:
        """Which actions are of interest: bool (num_actions,), or None where nothing is set (all are).

        Returns the number of actions decided by each rule, by the classifier and by default too
        (`actions_rule_NAME`), and that of functional ones (`actions_functional`).

        Raises:
            ValueError: if the classifier returns anything but a bool per action.
        """
        if self._trivial:
            return None, Counter()
        counts: Counter[str] = Counter()
        facts = _Facts(sequences, self._index)
        interest = np.full(sequences.num_actions, self._default_interest)
        open_actions = np.ones(sequences.num_actions, dtype=bool)
        for rule, actions, categories in self._rules:
            matched = open_actions & _matches(rule, actions, categories, facts)
            interest[matched] = rule.behaviour == "interest"
            open_actions &= ~matched
            counts[f"actions_rule_{rule.name}"] = int(matched.sum())
        if self._classifier is not None:
            interest[open_actions] = self._classified(sequences)[open_actions]
        counts["actions_rule_default" if self._classifier is None else "actions_rule_classifier"] = int(
            open_actions.sum()
        )
        counts["actions_functional"] = int((~interest).sum())
        return interest, counts

    def _classified(self, sequences: Sequences) -> np.ndarray:
        assert self._classifier is not None
        columns = {**sequences.columns, "user_hash": sequences.user_hash}
        found = self._classifier(columns, sequences.offsets)
        expected = (sequences.num_actions,)
        if not isinstance(found, np.ndarray) or found.dtype != np.bool_ or found.shape != expected:
            got = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise ValueError(
                f"cleaning.classifier={self._classifier_path} must return a bool array {expected}, one per action, "
                f"got {got}"
            )
        return found


class _Facts:
    """What conditions are made of, each computed when a rule first asks for it."""

    def __init__(self, sequences: Sequences, index: Any) -> None:
        self.sequences = sequences
        self._index = index

    @cached_property
    def categories(self) -> np.ndarray:
        return self._index.categories(self.sequences.columns["poi_row"])

    @cached_property
    def distance_km(self) -> np.ndarray:
        return distance_km(points_before(self.sequences, self._index), poi_points(self.sequences, self._index))

    @cached_property
    def visits(self) -> tuple[Visits, np.ndarray]:
        visits = self.sequences.visits
        return visits, visits.ranks(len(self.sequences))


def _matches(rule: Rule, actions: np.ndarray, categories: np.ndarray | None, facts: _Facts) -> np.ndarray:
    matched = np.ones(facts.sequences.num_actions, dtype=bool)
    if rule.actions:
        matched &= np.isin(facts.sequences.columns["action"], actions)
    if categories is not None:
        matched &= np.isin(facts.categories, categories)
    if rule.min_km is not None:
        matched &= facts.distance_km >= rule.min_km
    if rule.max_km is not None:
        matched &= facts.distance_km <= rule.max_km
    if rule.anchors:
        matched &= anchor_returns(facts.sequences, *facts.visits, rule.anchors, rule.min_anchor_visits)
    return matched


def anchor_returns(
    sequences: Sequences, visits: Visits, ranks: np.ndarray, num_anchors: int, min_visits: int
) -> np.ndarray:
    """Visits after the first to one of the person's `num_anchors` most visited places: bool (num_actions,).

    ranks: of `visits`. Places with fewer than `min_visits` visits are no anchors.
    """
    anchor = (ranks < num_anchors) & (visits.count >= min_visits)
    returns = np.zeros(sequences.num_actions, dtype=bool)
    returns[visits.actions] = anchor[visits.pair]
    returns[visits.first] = False
    return returns


def find_names(names: Sequence[str], known: Sequence[str], setting: str) -> np.ndarray:
    """Indices (int64) of `names` in `known`; ValueError naming the setting and the nearest known name."""
    position = {name: index for index, name in enumerate(known)}
    for name in names:
        if name not in position:
            raise ValueError(f"{setting} names {name!r}, which the data does not have{nearest(str(name), known)}")
    return np.array([position[name] for name in names], dtype=np.int64)
