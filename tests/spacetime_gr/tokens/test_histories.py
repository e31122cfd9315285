"""Histories in every form people have them: one meaning, and clear words where there is none."""

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spacetime_gr import POIIndex, SpacetimeGRTokenizer
from spacetime_gr.tokens.histories import unix_seconds

TIMES = [1_700_000_000, 1_700_003_600, 1_700_090_000]


def same(one: Any, two: Any) -> bool:
    """Whether two encodings hold the same fields and values."""
    return set(one) == set(two) and all(np.array_equal(np.asarray(one[name]), np.asarray(two[name])) for name in one)


@st.composite
def actions(draw: st.DrawFn, tokenizer: SpacetimeGRTokenizer) -> list[dict[str, Any]]:
    """A history as a list of actions; each optional value is stated or not, unknown places among them."""
    known = tokenizer.index.poi_ids.to_pylist()
    times = sorted(draw(st.lists(st.integers(1_600_000_000, 1_700_000_000), min_size=1, max_size=8)))
    point = st.tuples(st.floats(40.5, 41.5), st.floats(-74.1, -73.9))
    rows = []
    for time in times:
        row: dict[str, Any] = {"poi_id": draw(st.sampled_from([*known[:9], "nowhere", None])), "timestamp": time}
        if draw(st.booleans()):
            row["action"] = draw(st.sampled_from(tokenizer.actions))
        if draw(st.booleans()):
            row["tz_offset_minutes"] = draw(st.sampled_from([-570, -240, 0, 330, 840]))
        if draw(st.booleans()):
            row["user_latitude"], row["user_longitude"] = draw(point)
        if draw(st.booleans()):
            row["mode"] = draw(st.sampled_from(["local", "pre_trip", "in_trip", None]))
        rows.append(row)
    return rows


def as_columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same history as columns, written out."""
    return {
        "poi_id": [row["poi_id"] for row in rows],
        "timestamp": [row["timestamp"] for row in rows],
        "action": [row.get("action", "click") for row in rows],
        "tz_offset_minutes": [row.get("tz_offset_minutes", 0) for row in rows],
        "user_latitude": [row.get("user_latitude", np.nan) for row in rows],
        "user_longitude": [row.get("user_longitude", np.nan) for row in rows],
        "mode": [row.get("mode") for row in rows],
    }


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_list_of_actions_is_the_same_as_columns(tokenizer: SpacetimeGRTokenizer, data: st.DataObject) -> None:
    one, two = data.draw(actions(tokenizer)), data.draw(actions(tokenizer))
    assert same(tokenizer(one), tokenizer(as_columns(one)))
    batch = tokenizer([as_columns(one), as_columns(two)])
    assert same(tokenizer([one, two]), batch)
    assert same(tokenizer([one, as_columns(two)]), batch)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_neither_the_batch_nor_the_padding_changes_a_history(
    tokenizer: SpacetimeGRTokenizer, data: st.DataObject
) -> None:
    histories = data.draw(st.lists(actions(tokenizer), min_size=1, max_size=5))
    for side in ("left", "right"):
        padded = SpacetimeGRTokenizer(tokenizer.index, tokenizer.actions, side)(histories, return_tensors="np")
        if len(histories) == 1:
            assert padded["input_ids"].shape[0] == 1
        for number, history in enumerate(histories):
            alone = tokenizer(history)
            real = padded["attention_mask"][number].astype(bool)
            assert all(padded[name][number][real].tolist() == alone[name] for name in alone)
            padding = {name: np.unique(padded[name][number][~real]).tolist() for name in alone}
            assert all(values in ([], [tokenizer.pad_values[name]]) for name, values in padding.items())


def test_one_history_as_lists_has_no_batch_dimension(tokenizer: SpacetimeGRTokenizer) -> None:
    history = {"poi_row": [1, 2, 3], "timestamp": TIMES}
    assert np.shape(tokenizer(history)["input_ids"]) == (12,)
    assert np.shape(tokenizer([history])["input_ids"]) == (1, 12)
    assert tokenizer(history, return_tensors="pt")["input_ids"].shape == (1, 12)
    assert tokenizer([]) == {name: [] for name in tokenizer.pad_values}
    assert tokenizer([[]])["input_ids"] == [[]]
    ragged = tokenizer([history, {"poi_row": [1], "timestamp": TIMES[:1]}], padding=False)
    assert [len(ids) for ids in ragged["input_ids"]] == [len(ids) for ids in ragged["labels"]] == [12, 4]


def test_ids_and_times_of_many_kinds(pois: pa.Table) -> None:
    """Integer ids, Arrow and pandas columns, ISO text, datetimes and pandas times mean the same."""
    numbered = pois.set_column(0, "poi_id", pa.array(range(100, 100 + len(pois))))
    tokenizer = SpacetimeGRTokenizer(POIIndex.build(numbered, max_pois_per_block=8), ["click"])
    expected = tokenizer({"poi_row": [0, 5, -1], "timestamp": TIMES})
    utc = datetime.UTC
    times = [datetime.datetime.fromtimestamp(time, utc) for time in TIMES]
    for ids in ([100, 105, 1], np.array([100, 105, 1]), pa.array([100, 105, 1]), ["100", "105", "x"], [100, 105, -7]):
        assert same(tokenizer({"poi_id": ids, "timestamp": TIMES}), expected)
    assert same(tokenizer({"poi_id": pa.array([100, 105, None]), "timestamp": TIMES}), expected)
    for stamps in (
        times,
        [time.isoformat() for time in times],
        pd.Series(pd.to_datetime(times)),
        np.array([time.replace(tzinfo=None) for time in times], "datetime64[ms]"),
        [time.astimezone(datetime.timezone(datetime.timedelta(hours=9))) for time in times],
        pa.array(TIMES),
        [1000 * time for time in TIMES],
    ):
        assert same(tokenizer({"poi_id": [100, 105, 1], "timestamp": stamps}), expected)
    frame = pd.DataFrame({"poi_id": [100, 105, 1], "timestamp": TIMES})
    assert same(tokenizer(frame.to_dict("list")), expected)
    assert same(tokenizer(frame.to_dict("records")), expected)


def test_unknown_places_are_marked_or_refused(tokenizer: SpacetimeGRTokenizer) -> None:
    known = tokenizer.index.poi_ids[3].as_py()
    histories = [
        {"poi_id": [known], "timestamp": [0]},
        {"poi_id": [known, "nowhere", "gone"], "timestamp": TIMES},
        {"poi_row": [4, -1], "timestamp": TIMES[:2]},
    ]
    batch = tokenizer(histories, return_tensors="np")
    unknown = batch["input_ids"] == tokenizer.unk_token_id
    assert unknown.sum(1).tolist() == [0, 4, 2]
    assert (batch["labels"][unknown] == -100).all()
    with pytest.raises(ValueError, match=r"3 places are not .*\(1, 'nowhere'\), \(1, 'gone'\), \(2, -1\)"):
        tokenizer(histories, unknown="error")
    assert same(tokenizer(histories[0], unknown="error"), tokenizer(histories[0]))
    with pytest.raises(ValueError, match="'mark' or 'error'"):
        tokenizer(histories, unknown="drop")


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ("p0001", "histories are a str; expected a dict of columns"),
        (pd.DataFrame({"poi_id": ["a"]}), r"frame\.to_dict"),
        (["p0001"], "history 0 is a str; expected"),
        ([[{"poi_id": "a", "timestamp": 1}], "b"], "history 1 is a str"),
        ([{"poi_id": "a", "timestamp": 1}, {"poi_id": "a"}], "history 0, action 1 has no 'timestamp'; it has poi_id"),
        ([{"timestamp": 1}], "history 0, action 0 has no 'poi_id'"),
        ([{"poi_row": 1, "timestamp": 1, "user_hash": i} for i in (1, 2)], "2 user_hash values; expected one person"),
        ({"poi_id": "a", "timestamp": [1]}, "column 'poi_id' is no list"),
        ({"poi_row": [1, 2], "timestamp": [5, 4]}, "history 0: action 1 is earlier than the one before it; sort"),
        ({"poi_row": [1], "timestamp": [None]}, "time number 0 is missing"),
        ({"poi_row": [1, 1], "timestamp": [1.0, np.nan]}, "time number 1 is missing"),
        ({"poi_row": [1], "timestamp": ["yesterday"]}, "history 0: times are unix seconds, ISO text or datetimes"),
        ({"poi_row": [120], "timestamp": [1]}, "poi_row 120; the index has rows 0 to 119"),
        ({"poi_row": [1.5], "timestamp": [1]}, "poi_row is of type float64"),
        ({"poi_row": [1], "timestamp": [1], "user_latitude": [1.0]}, "user_latitude and user_longitude go together"),
        ({"poi_row": [1], "timestamp": [1], "user_hash": "me"}, "user_hash is 'me'; expected one 64-bit integer"),
        ({"poi_row": [1], "timestamp": [1], "user_hash": 1 << 63}, "expected one 64-bit integer"),
        ({"poi_row": [1], "timestamp": [1], "tz_offset_minutes": ["east"]}, "'tz_offset_minutes' cannot be read"),
        ({"poi_id": [b"a", 3], "timestamp": [1, 2]}, "poi_id|POI ids"),
        ({"poi_id": [1.5], "timestamp": [1]}, "expected text or integers"),
    ],
)
def test_what_cannot_be_read_is_said(tokenizer: SpacetimeGRTokenizer, histories: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer(histories)


def test_times_of_other_kinds_are_refused() -> None:
    for value in (True, [b"x"], [object()]):
        with pytest.raises(ValueError, match="times are unix seconds"):
            unix_seconds(value)


def test_settings_out_of_range_are_refused(tokenizer: SpacetimeGRTokenizer) -> None:
    histories = [{"poi_row": [1, 2], "timestamp": [1, 2]}, {"poi_row": [1], "timestamp": [1]}]
    with pytest.raises(ValueError, match="max_actions is 0"):
        tokenizer(histories, max_actions=0)
    with pytest.raises(ValueError, match="padding=True to get tensors"):
        tokenizer(histories, return_tensors="pt", padding=False)
    with pytest.raises(ValueError, match="padding_side is 'up'"):
        SpacetimeGRTokenizer(tokenizer.index, ["a"], "up")
    for actions in ([], ["a", "a"], "click"):
        with pytest.raises(ValueError, match="at least one name"):
            SpacetimeGRTokenizer(tokenizer.index, actions)
    columns, offsets = tokenizer.columns(histories)
    with pytest.raises(ValueError, match="poi_row 500 is out of range"):
        tokenizer.encode_actions(columns | {"poi_row": np.array([1, 500, 2])}, offsets)
