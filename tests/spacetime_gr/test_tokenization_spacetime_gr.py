"""The tokenizer: layout of an action, side inputs, what may be known at a request, storage, errors."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetime_gr import SpacetimeGRTokenizer
from spacetime_gr.tokens.histories import unix_seconds
from spacetime_gr.vocabulary import HOURS, HOURS_PER_WEEK, MODES
from tests.spacetime_gr.conftest import make_histories


def test_tokens_decode_back_to_actions(tokenizer: SpacetimeGRTokenizer) -> None:
    history = make_histories(0, [20])[0]
    batch = tokenizer(history, return_tensors="np")
    actions = tokenizer.decode(batch["input_ids"][0])
    assert [action["poi_id"] for action in actions] == tokenizer.index.poi_ids.take(history["poi_row"]).to_pylist()
    assert [action["action"] for action in actions] == list(history["action"])
    hours = ((history["timestamp"] - 240 * 60) // 3600 + 72) % HOURS_PER_WEEK
    assert [action["hour_of_week"] for action in actions] == hours.tolist()


def test_seconds_milliseconds_and_text_are_one_time() -> None:
    expected = [1_340_186_400]
    for value in (1_340_186_400, 1_340_186_400_000, 1_340_186_400.0, "2012-06-20T10:00:00Z", "2012-06-20 10:00:00"):
        assert unix_seconds(value).tolist() == expected


def test_hour_of_week_starts_on_monday(tokenizer: SpacetimeGRTokenizer) -> None:
    history = {"poi_row": [0, 0], "timestamp": ["2026-11-22T23:30:00", "2026-11-23T00:30:00Z"]}  # Sunday, Monday
    hours = [
        action["hour_of_week"] for action in tokenizer.decode(tokenizer(history, return_tensors="np")["input_ids"][0])
    ]
    assert hours == [167, 0]


def test_labels_stand_on_supervised_tokens_only(tokenizer: SpacetimeGRTokenizer) -> None:
    columns, offsets = tokenizer.columns(make_histories(1, [6]))
    columns["poi_row"][2] = -1
    tokens = tokenizer.encode_actions(columns, offsets, interest=np.array([True, False, True, True, True, True]))
    supervised = tokens["labels"] != -100
    assert not supervised[:, 0].any()
    assert supervised[:, 1:].all(1).tolist() == [True, False, False, True, True, True]
    np.testing.assert_array_equal(tokens["labels"][supervised], tokens["input_ids"][supervised])


def test_place_of_the_person_is_never_the_target(tokenizer: SpacetimeGRTokenizer) -> None:
    columns, offsets = tokenizer.columns(make_histories(2, [9, 5]))
    tokens = tokenizer.encode_actions(columns, offsets)
    previous = np.roll(tokens["input_ids"][:, 1], 1)
    previous[[0, 9]] = 0
    np.testing.assert_array_equal(tokens["user_block"][:, 0], previous)
    assert tokens["gap"][[0, 9], 0].tolist() == [0, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 12), st.booleans())
def test_nothing_before_a_target_depends_on_it(
    tokenizer: SpacetimeGRTokenizer, seed: int, length: int, given_place: bool
) -> None:
    """Changing the place of an action changes none of the inputs up to and including its own u token."""
    columns, offsets = tokenizer.columns(make_histories(seed, [length]))
    if given_place:
        columns["user_latitude"], columns["user_longitude"] = np.full(length, 40.7), np.full(length, -74.0)
    rng = np.random.default_rng(seed)
    at = int(rng.integers(length))
    other = {name: values.copy() for name, values in columns.items()}
    other["poi_row"][at] = (other["poi_row"][at] + 1 + rng.integers(50)) % tokenizer.index.num_pois
    one, two = tokenizer.encode_actions(columns, offsets), tokenizer.encode_actions(other, offsets)
    for name in one:
        if name != "labels":
            np.testing.assert_array_equal(one[name].reshape(-1)[: 4 * at + 1], two[name].reshape(-1)[: 4 * at + 1])


def test_an_unknown_person_has_no_hash(tokenizer: SpacetimeGRTokenizer) -> None:
    history = make_histories(9, [4])[0]
    known = tokenizer(history, return_tensors="np")["user_hash"]
    del history["user_hash"]
    assert (known[0, ::4] > 0).all()
    assert not tokenizer(history, return_tensors="np")["user_hash"].any()


def test_a_mode_elsewhere_in_the_batch_changes_nothing(tokenizer: SpacetimeGRTokenizer) -> None:
    latitude, _ = tokenizer.index.coordinates(np.arange(tokenizer.index.num_pois))
    here, there = int(np.argmin(latitude)), int(np.argmax(latitude))
    plain = {"poi_row": [here] * 5 + [there] * 2, "timestamp": np.arange(7) * 3600}
    stated = {"poi_row": [here] * 7, "timestamp": np.arange(7) * 3600, "mode": ["pre_trip"] * 7}
    alone, together = tokenizer(plain, return_tensors="np"), tokenizer([plain, stated], return_tensors="np")
    np.testing.assert_array_equal(alone["input_ids"][0], together["input_ids"][0])


def test_sequences_do_not_touch_each_other(tokenizer: SpacetimeGRTokenizer) -> None:
    histories = make_histories(3, [7, 1, 12])
    together = tokenizer.encode_actions(*tokenizer.columns(histories))
    alone = [tokenizer.encode_actions(*tokenizer.columns([history])) for history in histories]
    for name, values in together.items():
        np.testing.assert_array_equal(values, np.concatenate([tokens[name] for tokens in alone]))


def test_given_place_of_the_person_counts(tokenizer: SpacetimeGRTokenizer) -> None:
    latitude, longitude = (float(axis[0]) for axis in tokenizer.index.coordinates([5]))
    history = {
        "poi_row": [1, 2],
        "timestamp": [0, 60],
        "user_latitude": [latitude, np.nan],
        "user_longitude": longitude,
    }
    tokens = tokenizer.encode_actions(*tokenizer.columns([history]))
    start = tokenizer.vocabulary.block_start
    blocks, _ = tokenizer.index.encode([5, 1], rows=True)
    assert tokens["user_block"][:, 0].tolist() == (blocks + start).tolist()


def test_modes_are_inferred_from_the_past(tokenizer: SpacetimeGRTokenizer) -> None:
    latitude, _ = tokenizer.index.coordinates(np.arange(tokenizer.index.num_pois))
    here, there = int(np.argmin(latitude)), int(np.argmax(latitude))
    columns, offsets = tokenizer.columns([{"poi_row": [here] * 5 + [there] * 2, "timestamp": np.arange(7) * 3600}])
    modes = [MODES[mode] for mode in tokenizer.modes(columns, offsets)]
    assert modes == ["local"] * 6 + ["in_trip"]  # the first far action is made from home; the second from afar


def test_a_missing_mode_is_inferred(tokenizer: SpacetimeGRTokenizer) -> None:
    """-1 stands for 'not stated': the tokens are those of the inferred mode, never an id outside the context range."""
    columns, offsets = tokenizer.columns(make_histories(8, [30]))
    inferred = tokenizer.modes(columns, offsets)
    plain = tokenizer.encode_actions(columns, offsets)
    columns["mode"] = np.full(30, -1)
    np.testing.assert_array_equal(tokenizer.encode_actions(columns, offsets)["input_ids"], plain["input_ids"])
    columns["mode"][4] = 1
    modes = (
        tokenizer.encode_actions(columns, offsets)["input_ids"][:, 0] - tokenizer.vocabulary.context_start
    ) // HOURS
    assert modes[4] == 1
    np.testing.assert_array_equal(np.delete(modes, 4), np.delete(inferred, 4))
    request = tokenizer.encode_requests(columns, offsets, when=1_360_000_000, mode=[2], return_tensors="np")
    assert (request["input_ids"][0, -1] - tokenizer.vocabulary.context_start) // HOURS == 2


def test_request_equals_the_history_that_goes_on(tokenizer: SpacetimeGRTokenizer) -> None:
    """A request's tokens are those of the same history with one more action, up to that action's u."""
    history = make_histories(4, [10])[0]
    whole = tokenizer(history, return_tensors="np")
    past = {name: values if np.isscalar(values) else values[:9] for name, values in history.items()}
    request = tokenizer.encode_requests(
        *tokenizer.columns([past]), when=history["timestamp"][9], tz_offset_minutes=-240, return_tensors="np"
    )
    for name in tokenizer.model_input_names:
        np.testing.assert_array_equal(request[name], whole[name][:, : 9 * 4 + 1])


def test_blind_request_hides_the_time(tokenizer: SpacetimeGRTokenizer) -> None:
    columns, offsets = tokenizer.columns(make_histories(5, [4, 2]))
    requests = [
        tokenizer.encode_requests(columns, offsets, when=when, blind=True, return_tensors="np")
        for when in (1_500_000_000, 1_500_040_000)
    ]
    for name in requests[0]:
        np.testing.assert_array_equal(requests[0][name], requests[1][name])
    hour = (requests[0]["input_ids"][:, -1] - tokenizer.vocabulary.context_start) % HOURS
    assert (hour == HOURS_PER_WEEK).all()


def test_padding_sides_and_truncation(tokenizer: SpacetimeGRTokenizer) -> None:
    histories = make_histories(6, [3, 8])
    left = tokenizer(histories, return_tensors="np")
    right = SpacetimeGRTokenizer(tokenizer.index, tokenizer.actions, "right")(histories, return_tensors="np")
    np.testing.assert_array_equal(left["input_ids"][0, -12:], right["input_ids"][0, :12])
    assert left["attention_mask"].sum(1).tolist() == right["attention_mask"].sum(1).tolist() == [12, 32]
    assert (left["labels"][left["attention_mask"] == 0] == -100).all()
    last = tokenizer(histories, return_tensors="np", max_actions=2)
    np.testing.assert_array_equal(last["input_ids"], left["input_ids"][:, -8:])
    assert tokenizer([{"poi_row": [], "timestamp": []}], return_tensors="np")["input_ids"].shape == (1, 0)


def test_saved_tokenizer_makes_the_same_tokens(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = SpacetimeGRTokenizer.from_pretrained(tmp_path)
    histories = make_histories(7, [5, 6])
    for name, values in tokenizer(histories, return_tensors="np").items():
        np.testing.assert_array_equal(values, loaded(histories, return_tensors="np")[name])
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is missing"):
        SpacetimeGRTokenizer.from_pretrained(tmp_path / "poi_index")


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({"timestamp": [1]}, "history 0 has no column 'poi_id'"),
        ({"poi_id": ["p0001"], "timestamp": [1, 2]}, "'timestamp' has 2 values"),
        ({"poi_id": ["p0001"], "timestamp": [1], "action": ["teleport"]}, "unknown action 'teleport'"),
        ({"poi_id": ["p0001"], "timestamp": [1], "action": [None]}, "unknown action None"),
        ({"poi_id": ["p0001"], "timestamp": [1], "mode": ["flying"]}, "unknown mode 'flying'"),
    ],
)
def test_bad_histories_are_refused(tokenizer: SpacetimeGRTokenizer, history: dict[str, list], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer(history)


def test_unknown_places_become_the_unknown_token(tokenizer: SpacetimeGRTokenizer) -> None:
    batch = tokenizer({"poi_id": ["nowhere"], "timestamp": [5]}, return_tensors="np")
    assert batch["input_ids"][0, 1:3].tolist() == [tokenizer.unk_token_id] * 2
    assert (batch["labels"] == -100).all()
