from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.stream.cleaning import CleaningSettings, drop_duplicates, exceeds_rate, keep_sequences, richness
from data_pipelines.stream.sequences import Sequences
from data_pipelines.stream.settings import as_settings

from .folders import FakeIndex


def sequences_of(*places: list[int], **columns: list[float]) -> Sequences:
    """Sequences of visits to the given places; actions alternate 0, 1; other columns are given flat."""
    flat = np.array([place for sequence in places for place in sequence], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in places])]).astype(np.int64)
    given = {name: np.array(values) for name, values in columns.items()}
    plain = {"poi_row": flat, "action": np.arange(len(flat)) % 2, "timestamp": np.arange(len(flat)) * 7_200}
    return Sequences({**plain, **given}, offsets, np.arange(len(places)))


def kept(sequences: Sequences, epoch: int = 0, **settings: Any) -> tuple[list[bool], Counter[str]]:
    keep, counts = keep_sequences(sequences, CleaningSettings(**settings), FakeIndex(), epoch=epoch)
    return keep.tolist(), counts


def test_defaults_keep_everything() -> None:
    sequences = sequences_of([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [2], [-1, 3])
    keep, counts = kept(sequences)
    assert all(keep)
    assert not any(counts.values())
    assert drop_duplicates(sequences, CleaningSettings().duplicate_seconds)[0] is sequences


def test_richness_by_hand() -> None:
    ratio, entropy = richness(sequences_of([4, 4, 4, 4], [1, 2, 3, 4], [1, 1, 2, 2], [7], [-1, -1], [5, 5, -1, -1]))
    assert ratio.tolist() == [0.25, 1.0, 0.5, 1.0, 1.0, 0.5]
    np.testing.assert_allclose(entropy, [0.0, 1.0, 0.5, 1.0, 1.0, 0.0], atol=1e-12)


def test_dropped_sequences_count_once_under_the_first_reason() -> None:
    sequences = sequences_of([1] * 10, [1, 2], [], [1, 2] * 5, list(range(10)))
    keep, counts = kept(sequences, min_actions=3, min_distinct_ratio=0.2, min_entropy=0.5)
    assert keep == [False, False, False, False, True]
    assert counts == {
        "sequences_too_short": 2,
        "actions_too_short": 2,
        "sequences_low_distinct_ratio": 1,
        "actions_low_distinct_ratio": 10,
        "sequences_low_entropy": 1,
        "actions_low_entropy": 10,
    }
    left = sequences.keep(np.array(keep))
    assert left.columns["poi_row"].tolist() == list(range(10))
    assert left.offsets.tolist() == [0, 10]
    assert left.user_hash.tolist() == [4]


def test_short_sequences_are_not_judged_by_richness() -> None:
    assert kept(sequences_of([1, 1, 1]), min_distinct_ratio=0.9)[0] == [True]


def test_soft_richness_keeps_by_probability_and_draws_anew_each_epoch() -> None:
    sequences = sequences_of(*[[1, 2, 3] + [1] * 7] * 2_000, list(range(10)))  # ratio 0.3
    rule = {"min_distinct_ratio": 0.6, "soft_richness": True}
    first, counts = kept(sequences, **rule)
    assert np.mean(first[:-1]) == pytest.approx(0.5, abs=0.04)
    assert first[-1]
    assert counts["sequences_low_distinct_ratio"] == 2_001 - sum(first)
    assert first == kept(sequences, **rule)[0]
    again = kept(sequences, epoch=1, **rule)[0]
    assert np.mean(np.array(first)[:-1] & np.array(again)[:-1]) == pytest.approx(0.25, abs=0.04)
    # a user's draw does not depend on who else is read
    alone = sequences.keep(np.arange(2_001) % 2 == 0)
    assert kept(alone, **rule)[0] == first[::2]
    # of two thresholds the one that is missed further decides
    entropy = richness(sequences)[1][0]
    both = kept(sequences, **rule, min_entropy=float(4 * entropy) if 4 * entropy <= 1 else 1.0)[0]
    assert np.mean(both[:-1]) == pytest.approx(min(0.5, max(0.25, entropy)), abs=0.04)


def test_duplicates_within_seconds() -> None:
    sequences = sequences_of(
        [1, 1, 1, 2, 1, 1, -1, -1],
        [1, 1],
        action=[0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
        timestamp=[0, 5, 10, 11, 14, 15, 16, 16, 16, 22],
    )
    left, counts = drop_duplicates(sequences, 5)
    # 5, 10 and 14 follow on an equal action; 15 is another action, unknown places and other people repeat nothing
    assert left.columns["timestamp"].tolist() == [0, 11, 15, 16, 16, 16, 22]
    assert left.offsets.tolist() == [0, 5, 7]
    assert counts == {"actions_duplicate": 3}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), max_size=9), min_size=1, max_size=3),
    st.integers(1, 3),
)
def test_duplicates_agree_with_a_plain_loop(users: list[list[tuple[int, int]]], seconds: int) -> None:
    times: list[int] = []
    expected = 0
    for user in users:
        now, last = 0, dict[int, int]()
        for place, elapsed in user:
            now += elapsed
            times.append(now)
            expected += place in last and now - last[place] <= seconds
            last[place] = now
    places = [[place for place, _ in user] for user in users]
    sequences = sequences_of(*places, timestamp=times, action=[0] * len(times))
    assert drop_duplicates(sequences, seconds)[1]["actions_duplicate"] == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 900), max_size=12), min_size=1, max_size=4), st.integers(1, 5))
def test_rates_agree_with_a_plain_count(users: list[list[int]], limit: int) -> None:
    clocks = [np.cumsum(user) for user in users]
    expected = [any(((clock >= t) & (clock < t + 3_600)).sum() > limit for t in clock) for clock in clocks]
    sequences = sequences_of(*[[1] * len(user) for user in users], timestamp=np.concatenate(clocks).tolist())
    assert exceeds_rate(sequences, limit, 3_600).tolist() == expected


def test_bots_are_dropped_and_counted() -> None:
    # a degree is 111.2 km: the first person takes 30 minutes for one, the second two hours, the third stays
    sequences = sequences_of(
        [1, 2, 2, 2, 2], [1, 2, 3], [5, 5, 5], timestamp=[0, 1_800, 9_000, 90_000, 99_000, 0, 7_200, 14_400, 0, 1, 2]
    )
    assert kept(sequences, max_speed_kmh=200)[0] == [False, True, True]
    assert kept(sequences, max_speed_kmh=50)[0] == [False, False, True]
    assert kept(sequences, max_speed_kmh=50, min_move_km=112)[0] == [True, True, True]
    keep, counts = kept(sequences, max_speed_kmh=50, max_actions_per_hour=2)
    assert keep == [False, False, False]
    assert (counts["sequences_impossible_speed"], counts["sequences_impossible_rate"]) == (2, 1)
    assert (counts["actions_impossible_speed"], counts["actions_impossible_rate"]) == (8, 3)
    assert kept(sequences, max_actions_per_day=2)[0] == [False, False, False]


def test_a_share_of_fast_moves_may_be_allowed() -> None:
    walk = [1, 2, 3, 4, 5, 5, 5]
    sequences = sequences_of(walk, timestamp=[0, 60, 9_000, 18_000, 27_000, 27_001, 27_002])
    assert kept(sequences, max_speed_kmh=100, max_fast_moves=0.25)[0] == [True]
    assert kept(sequences, max_speed_kmh=100, max_fast_moves=0.24)[0] == [False]


def test_speed_is_that_of_the_person_where_the_data_says_where_that_is() -> None:
    nowhere, still = [np.nan] * 3, [4.0, np.nan, 4.0]
    for longitude in (nowhere, still):
        stated = {"user_latitude": [0.0] * 3, "user_longitude": longitude}
        assert kept(sequences_of([1, 50, 1], timestamp=[0, 9, 18], **stated), max_speed_kmh=100)[0] == [True]
    moving = {"user_latitude": [0.0] * 3, "user_longitude": [4.0, np.nan, 5.0]}
    assert kept(sequences_of([1, 1, 1], timestamp=[0, 9, 18], **moving), max_speed_kmh=100)[0] == [False]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_actoins": 2}, "cleaning.min_actoins.*did you mean 'min_actions'"),
        ({"min_actions": 0}, "min_actions must be a whole number, at least 1, got 0"),
        ({"max_actions_per_hour": 2.5}, "max_actions_per_hour must be a whole number, at least 0, got 2.5"),
        ({"duplicate_seconds": None}, "duplicate_seconds must be a whole number, at least 0, got None"),
        ({"min_actions": True}, "min_actions must be a whole number, at least 1, got True"),
        ({"min_move_km": "1 km"}, "min_move_km must be a number, at least 0, got '1 km'"),
        ({"min_entropy": 2}, "min_entropy must be a number, between 0 and 1, got 2"),
        ({"max_speed_kmh": float("nan")}, "max_speed_kmh must be a number, at least 0, got nan"),
        ({"soft_richness": "no"}, "soft_richness must be true or false, got 'no'"),
        ({"default_behaviour": "boring"}, "default_behaviour must be one of functional, interest"),
        ({"default_behaviour": "functional", "classifier": "a:b"}, "set one of the two"),
        ({"rules": 3}, "cleaning.rules must be a list of rules or the path of a YAML file, got 3"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_settings(CleaningSettings, values, "cleaning")


def test_settings_of_a_mapping_hold_tuples() -> None:
    rules = [{"name": "ways", "behaviour": "functional", "actions": ["navigate"]}]
    made = as_settings(CleaningSettings, {"rules": rules}, "cleaning")
    assert made.rules[0].actions == ("navigate",)
    assert as_settings(CleaningSettings, made, "cleaning") is made


def test_no_sequences_at_all() -> None:
    empty = sequences_of(timestamp=[], action=[])
    strict = CleaningSettings(max_speed_kmh=1, max_actions_per_hour=1, min_entropy=0.5, duplicate_seconds=1)
    left, _ = drop_duplicates(empty, 1)
    assert keep_sequences(left, strict, FakeIndex())[0].tolist() == []
    assert [b - a for a, b in pairwise(left.offsets.tolist())] == []
