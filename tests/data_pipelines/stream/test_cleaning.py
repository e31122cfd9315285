import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.cleaning import (
    CleaningSettings,
    anchor_returns,
    find_names,
    interest_mask,
    keep_sequences,
    richness,
)
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.settings import as_settings

NONE = np.zeros(0, dtype=np.int64)


def sequences_of(*places: list[int]) -> Sequences:
    flat = np.array([place for sequence in places for place in sequence], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in places])]).astype(np.int64)
    return Sequences({"poi_row": flat, "action": np.arange(len(flat)) % 2}, offsets, np.arange(len(places)))


def test_defaults_keep_and_supervise_everything() -> None:
    sequences = sequences_of([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [2], [-1, 3])
    keep, counts = keep_sequences(sequences, CleaningSettings())
    assert keep.all()
    assert not any(counts.values())
    assert interest_mask(sequences, CleaningSettings(), NONE, NONE, None)[0] is None


def test_richness_by_hand() -> None:
    ratio, entropy = richness(sequences_of([4, 4, 4, 4], [1, 2, 3, 4], [1, 1, 2, 2], [7], [-1, -1], [5, 5, -1, -1]))
    assert ratio.tolist() == [0.25, 1.0, 0.5, 1.0, 1.0, 0.5]
    np.testing.assert_allclose(entropy, [0.0, 1.0, 0.5, 1.0, 1.0, 0.0], atol=1e-12)


def test_dropped_sequences_count_once_under_the_first_reason() -> None:
    sequences = sequences_of([1] * 10, [1, 2], [], [1, 2] * 5, list(range(10)))
    rules = CleaningSettings(min_actions=3, min_distinct_ratio=0.2, min_entropy=0.5)
    keep, counts = keep_sequences(sequences, rules)
    assert keep.tolist() == [False, False, False, False, True]
    assert counts == {
        "sequences_too_short": 2,
        "actions_too_short": 2,
        "sequences_low_distinct_ratio": 1,
        "actions_low_distinct_ratio": 10,
        "sequences_low_entropy": 1,
        "actions_low_entropy": 10,
    }
    kept = sequences.keep(keep)
    assert kept.columns["poi_row"].tolist() == list(range(10))
    assert kept.offsets.tolist() == [0, 10]
    assert kept.user_hash.tolist() == [4]


def test_short_sequences_are_not_judged_by_richness() -> None:
    keep, _ = keep_sequences(sequences_of([1, 1, 1]), CleaningSettings(min_distinct_ratio=0.9))
    assert keep.all()


def test_functional_rules_mark_and_count() -> None:
    sequences = sequences_of([5, 6, 5, 5, 7, 6], [5, -1, 8, 5])
    rules = CleaningSettings(num_anchors=1, min_anchor_visits=3)
    categories = np.where(sequences.columns["poi_row"] == 7, 2, 0)
    interest, counts = interest_mask(sequences, rules, np.array([1]), np.array([2]), categories)
    assert interest is not None
    # actions alternate 0, 1; place 7 has the functional category; user 0 returns to its anchor 5, user 1 has none
    assert interest.tolist() == [True, False, False, False, False, False, True, False, True, False]
    assert counts == {
        "actions_functional_action_type": 5,
        "actions_functional_category": 1,
        "actions_functional_anchor": 1,
    }


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
    assert anchor_returns(sequences_of(*places), num_anchors, min_visits).tolist() == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_actoins": 2}, "cleaning.min_actoins.*did you mean 'min_actions'"),
        ({"min_actions": 0}, "min_actions must be at least 1, got 0"),
        ({"min_entropy": 2}, "min_entropy must lie between 0 and 1"),
        ({"functional_actions": "navigate"}, "must be a list of names"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_settings(CleaningSettings, values, "cleaning")


def test_settings_of_a_mapping_hold_tuples() -> None:
    made = as_settings(CleaningSettings, {"functional_actions": ["navigate"]}, "cleaning")
    assert made.functional_actions == ("navigate",)
    assert as_settings(CleaningSettings, made, "cleaning") is made


def test_unknown_names_suggest_the_nearest() -> None:
    assert find_names(["b", "a"], ["a", "b"], "s").tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"names 'navigat', .*did you mean 'navigate'"):
        find_names(["navigat"], ["browse", "navigate"], "cleaning.functional_actions")
