"""Whatever is changed between two sessions of a run, its rows are those of the run that was never interrupted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines import TokenStream

from .folders import POI_SHIFT, make_users, write_folder
from .test_token_stream import MIXED, WAYS, assert_same, global_batches, open_stream, take

SETTINGS: dict[str, Any] = {
    "blind_share": 0.3,
    "curriculum": MIXED,
    "cleaning": {"rules": [WAYS], "min_distinct_ratio": 1.0, "min_actions_for_richness": 6, "soft_richness": True},
}


@pytest.fixture(scope="module")
def two(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two corpora of different sizes, one of them with repeated places for the richness filter to draw from."""
    users = make_users([9, 30, 4, 12, 8, 1], poi_row=lambda t: t % 4, mode=lambda t: t // 5 % 3)
    other = write_folder(tmp_path_factory.mktemp("other") / "data", [users[:1], users[1:]], users_per_row_group=2)
    return [{"path": folder, "weight": 3}, {"path": other}]


def restarted(streams: list[TokenStream], data: Any, world_size: int, num_workers: int) -> list[TokenStream]:
    """New streams on another number of ranks that go on where the old ones stopped."""
    states = json.loads(json.dumps([stream.state_dict() for stream in streams]))
    new = [
        open_stream(data, rank=rank, world_size=world_size, num_workers=num_workers, **SETTINGS)
        for rank in range(world_size)
    ]
    for stream in new:
        take(stream, 2)  # a stream that has moved is restored all the same
        stream.load_state_dict(states)
    for stream in streams:
        stream.close()
    return new


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kills=st.lists(st.integers(0, 25), min_size=1, max_size=3),
    world_sizes=st.lists(st.sampled_from([1, 2, 4]), min_size=4, max_size=4),
    workers=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    several=st.booleans(),
)
def test_rows_of_all_sessions_are_those_of_one(
    two: list[dict[str, Any]],
    folder: Path,
    kills: list[int],
    world_sizes: list[int],
    workers: list[int],
    several: bool,
) -> None:
    data: Any = two if several else folder
    sessions = [*kills, 6]
    expected = take(open_stream(data, **SETTINGS), sum(sessions))
    streams = restarted([open_stream(data, **SETTINGS)], data, world_sizes[0], workers[0])
    found = []
    for session, steps in enumerate(sessions):
        if session:
            streams = restarted(streams, data, world_sizes[session], workers[session])
        found += global_batches(streams, steps)
        assert {stream.tokens_seen for stream in streams} == {len(found) * 4 * 32}
    for stream in streams:
        stream.close()
    assert_same(found, expected)


def test_corpora_have_their_weights_in_the_rows(two: list[dict[str, Any]]) -> None:
    stream = open_stream(two, num_lanes=16, curriculum=None)
    assert all(np.isnan(share) for share in stream.corpus_shares.values())
    shares = []
    for _ in range(60):
        next(stream)
        shares.append(list(stream.corpus_shares.values()))
    assert np.mean(shares, axis=0) == pytest.approx([0.75, 0.25], abs=0.04)
    walks = {walk for lane in stream.state_dict()["lanes"].values() for walk in lane}
    assert walks == {"0/multi", "1/multi"}


def test_a_corpus_alone_gives_the_rows_of_its_folder(folder: Path, two: list[dict[str, Any]]) -> None:
    assert_same(take(open_stream([{"path": str(folder), "weight": 7}]), 5), take(open_stream(folder), 5))
    once = [
        batch["stamp"][:, ::4] for data in (two[0]["path"], two[1]["path"]) for batch in open_stream(data).rows_once()
    ]
    both = [batch["stamp"][:, ::4] for batch in open_stream(two).rows_once()]
    assert sorted(np.concatenate(both).ravel().tolist())[-180:] == sorted(np.concatenate(once).ravel().tolist())[-180:]


def test_the_first_held_out_rows_are_of_every_corpus(tmp_path: Path) -> None:
    folders = [
        write_folder(tmp_path / str(place), [make_users([8] * users, poi_row=lambda t, place=place: t * 0 + place)])
        for place, users in ((7, 9), (8, 2), (9, 4))
    ]
    rows = [row for batch in open_stream(folders, num_lanes=4).rows_once() for row in batch["input_ids"]]
    places = [int(row[1]) - POI_SHIFT for row in rows]
    assert places[:15] == [7, 8, 9, 7, 8, 9, 7, 9, 7, 9, 7, 7, 7, 7, 7]
    assert (rows[15] == 0).all()


def test_a_corpus_without_rows_is_found_with_the_first_batch(tmp_path: Path) -> None:
    full = write_folder(tmp_path / "full", [make_users([9] * 12)])
    empty = write_folder(tmp_path / "empty", [make_users([2, 2])])
    rows = open_stream([full, empty], num_lanes=1, cleaning={"min_actions": 3}).rows_once()
    with pytest.raises(ValueError, match=r"empty were read and not one row is left"):
        next(rows)


def test_weights_may_change_between_sessions_and_corpora_may_not(two: list[dict[str, Any]], folder: Path) -> None:
    stream = open_stream(two)
    take(stream, 4)
    other = open_stream([two[0], {**two[1], "weight": 1e9}])
    other.load_state_dict(stream.state_dict())
    next(other)
    assert list(other.corpus_shares.values()) == [0.0, 1.0]
    for data in (folder, two[::-1]):
        with pytest.raises(ValueError, match="was saved with data="):
            open_stream(data).load_state_dict(stream.state_dict())


def test_wrong_corpora_are_named(two: list[dict[str, Any]], folder: Path, tmp_path: Path) -> None:
    for data, message in (
        ([], "data is an empty list"),
        ([folder, str(folder)], r"data names .* twice"),
        ([{"path": folder, "weight": 0}], "the weight of .* must be a positive number, got 0"),
        ([{"path": folder, "wieght": 1}], r"data\[0\].wieght .*did you mean 'weight'"),
        ([{"weight": 1}], "needs the path of a prepared folder"),
        ([3], r"data\[0\] must be a path or \{path, weight\}, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            open_stream(data)
    other = write_folder(tmp_path / "data", [make_users([4])])
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "actions": ["navigate", "browse"]}))
    with pytest.raises(ValueError, match=r"has the actions \['navigate', 'browse'\].*must share a tokenizer"):
        open_stream([folder, other])


def test_a_corpus_that_cleaning_empties_is_named(two: list[dict[str, Any]], tmp_path: Path) -> None:
    short = write_folder(tmp_path / "short", [make_users([2, 2])])
    stream = open_stream([two[0], short], cleaning={"min_actions": 3})
    with pytest.raises(ValueError, match=r"split 'train' of .*short were read and not one row is left"):
        take(stream, 20)
