from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.behaviour import Behaviour, Rule, anchor_returns, find_names
from data_pipelines.stream.cleaning import CleaningSettings
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.settings import as_settings
from data_pipelines.stream.visits import Visits

from .folders import FakeIndex
from .test_cleaning import sequences_of

ACTIONS = ["browse", "navigate"]


def behaviour(*rules: dict[str, Any], **settings: Any) -> Behaviour:
    made = as_settings(CleaningSettings, {"rules": list(rules), **settings}, "cleaning")
    return Behaviour(made.rules, made.default_behaviour, made.classifier, ACTIONS, FakeIndex())


def even_places(columns: dict[str, np.ndarray], offsets: np.ndarray) -> np.ndarray:
    """A classifier: even places are of interest."""
    assert len(columns["user_hash"]) == len(offsets) - 1
    return columns["poi_row"] % 2 == 0


def wrong_shape(columns: dict[str, np.ndarray], offsets: np.ndarray) -> Any:
    return columns["poi_row"][:-1] > 0


def wrong_type(columns: dict[str, np.ndarray], offsets: np.ndarray) -> Any:
    return columns["poi_row"].tolist()


def test_without_rules_all_are_of_interest() -> None:
    assert behaviour().interest(sequences_of([1, 2]))[0] is None
    mask, counts = behaviour(default_behaviour="functional").interest(sequences_of([1, 2]))
    assert mask is not None
    assert not mask.any()
    assert counts == {"actions_rule_default": 2, "actions_functional": 2}


def test_the_first_rule_that_matches_decides() -> None:
    # actions alternate browse, navigate; place p has category p % 3: food, office, park
    sequences = sequences_of([5, 6, 5, 5, 7, 6], [5, -1, 8, 5])
    mask, counts = behaviour(
        {"name": "parks", "behaviour": "interest", "categories": ["park"], "actions": ["navigate"]},
        {"name": "ways", "behaviour": "functional", "actions": ["navigate"]},
        {"name": "returns", "behaviour": "functional", "anchors": 1},
        {"name": "never", "behaviour": "functional", "categories": ["park"], "max_km": 0, "anchors": 9},
    ).interest(sequences)
    assert mask is not None
    assert mask.tolist() == [True, False, False, True, True, False, True, False, True, True]
    assert counts == {
        "actions_rule_parks": 2,
        "actions_rule_ways": 3,
        "actions_rule_returns": 1,
        "actions_rule_never": 0,
        "actions_rule_default": 4,
        "actions_functional": 4,
    }


def test_distance_is_that_from_the_known_place_of_the_person() -> None:
    sequences = sequences_of([3, 3, 5, -1, 5], [9, 8])
    far = {"name": "far", "behaviour": "functional", "min_km": 200}
    near = {"name": "near", "behaviour": "functional", "max_km": 0.1}
    # the first action of a person, and one after an unknown place, have no distance: no rule matches them
    assert behaviour(far).interest(sequences)[0].tolist() == [True, True, False, True, True, True, True]
    assert behaviour(near).interest(sequences)[0].tolist() == [True, False, True, True, True, True, True]
    stated = {"user_latitude": np.zeros(7), "user_longitude": np.array([1, np.nan, 5, 0, 0, 9, np.nan])}
    stated_sequences = Sequences({**sequences.columns, **stated}, sequences.offsets, sequences.user_hash)
    assert behaviour(far).interest(stated_sequences)[0].tolist() == [False, True, True, True, False, True, True]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(-1, 5), max_size=15), min_size=1, max_size=5), st.integers(1, 3), st.integers(1, 4)
)
def test_anchors_agree_with_a_plain_count(places: list[list[int]], num_anchors: int, min_visits: int) -> None:
    expected: list[bool] = []
    for sequence in places:
        known = [place for place in sequence if place >= 0]
        ranked = sorted(set(known), key=lambda place: (-known.count(place), known.index(place)))
        anchors = {place for place in ranked[:num_anchors] if known.count(place) >= min_visits}
        expected += [place in anchors and place in sequence[:i] for i, place in enumerate(sequence)]
    sequences = sequences_of(*places)
    visits = Visits.of(sequences)
    found = anchor_returns(sequences, visits, visits.ranks(len(sequences)), num_anchors, min_visits)
    assert found.tolist() == expected


def test_a_classifier_decides_what_no_rule_does() -> None:
    rule = {"name": "ways", "behaviour": "functional", "actions": ["navigate"]}
    mask, counts = behaviour(rule, classifier=f"{__name__}:even_places").interest(sequences_of([2, 2, 3, 3, 4]))
    assert mask is not None
    assert mask.tolist() == [True, False, False, False, True]
    assert counts == {"actions_rule_ways": 2, "actions_rule_classifier": 3, "actions_functional": 3}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_colon", r"form package.module:name, got 'no_colon'"),
        ("no_such_package.x:f", r"cleaning.classifier=no_such_package.x:f: cannot import no_such_package.x"),
        ("math:sinn", r"cleaning.classifier=math:sinn: sinn does not exist in math \(did you mean 'sin'\?\)"),
        ("math:pi", "is no function but a float"),
        (f"{__name__}:wrong_shape", r"must return a bool array \(2,\), one per action, got bool \(1,\)"),
        (f"{__name__}:wrong_type", r"must return a bool array \(2,\), one per action, got list"),
    ],
)
def test_unfit_classifiers_are_named(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        behaviour(classifier=path).interest(sequences_of([1, 2]))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"behaviour": "functional", "anchors": 1}, r"cleaning.rules\[0\] needs a name"),
        ({"name": "a", "behaviour": "boring", "anchors": 1}, r"rules\[0\] \(a\): behaviour must be one of"),
        ({"name": "a", "behaviour": "interest"}, r"rules\[0\] \(a\) has no condition"),
        ({"name": "a", "behaviour": "interest", "actions": "browse"}, "actions must be a list of names, got 'browse'"),
        ({"name": "a", "behaviour": "interest", "min_km": 5, "max_km": 1}, "min_km 5 is above max_km 1"),
        ({"name": "a", "behaviour": "interest", "actions": 5}, "actions must be a list of names, got 5"),
        (
            {"name": "a", "behaviour": "interest", "actions": None, "anchors": 2},
            r"\(a\): actions must be a list of names, got None; leave it out",
        ),
        ({"name": "a", "behaviour": "interest", "categories": [3]}, r"categories must be a list of names, got \(3,\)"),
        ({"name": "a", "behaviour": "interest", "anchors": 1.5}, "anchors must be a whole number, at least 0, got 1.5"),
        (
            {"name": "a", "behaviour": "interest", "min_km": float("nan")},
            "min_km must be a number, at least 0",
        ),
        ({"name": "a", "behaviour": "interest", "category": ["x"]}, r"rules\[0\].category.*did you mean 'categories'"),
        (
            {"name": "a", "behaviour": "interest", "anchors": "two"},
            r"rules\[0\] \(a\): anchors must be a whole number, .* got 'two'",
        ),
        ("commuting", r"cleaning.rules\[0\] must be a mapping of a rule's settings, got 'commuting'"),
        ({"name": "a", "behaviour": "interest", "actions": ["browze"]}, r"\(a\): actions names 'browze'.*'browse'"),
        ({"name": "a", "behaviour": "interest", "categories": ["offce"]}, r"\(a\): categories names 'offce'.*'office'"),
    ],
)
def test_wrong_rules_are_named(rule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        behaviour(rule)


def test_rules_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("- name: ways\n  behaviour: functional\n  actions: [navigate]\n")
    made = as_settings(CleaningSettings, {"rules": str(file)}, "cleaning")
    assert made.rules == (Rule("ways", "functional", ("navigate",)),)
    file.write_text("name: ways")
    with pytest.raises(ValueError, match=r"rules.yaml must hold a list of behaviour rules"):
        as_settings(CleaningSettings, {"rules": str(file)}, "cleaning")
    with pytest.raises(ValueError, match=r"cannot read the behaviour rules in .*absent.yaml"):
        as_settings(CleaningSettings, {"rules": str(tmp_path / "absent.yaml")}, "cleaning")
    file.write_text("- name: ways\n  behaviour: functional\n  anchors: 1\n" * 2)
    with pytest.raises(ValueError, match=r"rules.yaml has two rules named 'ways'"):
        as_settings(CleaningSettings, {"rules": str(file)}, "cleaning")


def test_unknown_names_suggest_the_nearest() -> None:
    assert find_names(["b", "a"], ["a", "b"], "s").tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"s names 'navigat', .*did you mean 'navigate'"):
        find_names(["navigat"], ["browse", "navigate"], "s")
