from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipelines import TokenStream

from .folders import FakeTokenizer, make_users, stamps_supervised, write_folder

NUM_ACTIONS = 180  # in the fixture's folder
MIXED = {"schedule": "linear", "initial_share": 0.1, "final_share": 0.9, "ramp_end_tokens": 4 * 32 * 30}
WAYS = {"name": "ways", "behaviour": "functional", "actions": ["navigate"]}
Batch = dict[str, np.ndarray]


def open_stream(folder: Path, **settings: Any) -> TokenStream:
    return TokenStream(folder, FakeTokenizer(), **{"num_lanes": 4, "row_length": 32, "curriculum": MIXED, **settings})


def take(stream: TokenStream, count: int) -> list[Batch]:
    return [next(stream) for _ in range(count)]


def global_batches(streams: list[TokenStream], count: int) -> list[Batch]:
    parts = [take(stream, count) for stream in streams]
    return [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][step]} for step in range(count)
    ]


def assert_same(left: list[Batch], right: list[Batch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_shapes_types_and_padding(folder: Path) -> None:
    batch = next(open_stream(folder))
    assert {name: values.shape for name, values in batch.items()} == dict.fromkeys(batch, (4, 32))
    for name in ("input_ids", "labels", "position_ids", "local_time"):
        assert batch[name].dtype == np.int64
    padding = batch["stamp"] == -1
    assert (batch["input_ids"][padding] == 0).all()
    assert (batch["labels"][padding] == -100).all()
    assert (batch["position_ids"][padding] == 0).all()


def test_positions_restart_with_each_sequence(folder: Path) -> None:
    for batch in take(open_stream(folder), 20):
        first = (batch["position_ids"] == 0) & (batch["stamp"] >= 0)
        follows = (batch["position_ids"][:, 1:] == batch["position_ids"][:, :-1] + 1) | first[:, 1:]
        assert (follows | (batch["stamp"][:, 1:] < 0)).all()
        # inside a sequence time runs on by one action each; the start of one is a u token
        actions, starts = batch["stamp"][:, ::4], first[:, ::4]
        assert ((actions[:, 1:] == actions[:, :-1] + 1) | starts[:, 1:] | (actions[:, 1:] < 0)).all()
        assert first[:, ::4].sum() == first.sum()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 0),
    num_lanes=st.integers(1, 5),
    single=st.booleans(),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    seed=st.integers(0, 5),
)
def test_every_action_is_supervised_once_per_epoch(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    num_lanes: int,
    single: bool,
    overlap: float,
    seed: int,
) -> None:
    path = write_folder(tmp_path_factory.mktemp("p") / "data", [make_users(lengths)], users_per_row_group=2)
    curriculum = {"final_share": 0.0} if single else None
    stream = open_stream(path, num_lanes=num_lanes, curriculum=curriculum, overlap=overlap, seed=seed)
    view = "single" if single else "multi"
    by_epoch: dict[int, list[int]] = {0: [], 1: []}
    while True:
        batch = next(stream)
        epochs = [lane[f"0/{view}"][0] for lane in stream.state_dict()["lanes"].values()]
        if min(epochs) > 1:
            break
        for row, epoch in enumerate(epochs):
            if epoch in by_epoch:
                by_epoch[epoch] += stamps_supervised({name: values[row : row + 1] for name, values in batch.items()})
    assert sorted(by_epoch[0]) == sorted(by_epoch[1]) == list(range(sum(lengths)))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [2, 4])
def test_global_batch_does_not_depend_on_world_size_or_workers(folder: Path, world_size: int, num_workers: int) -> None:
    streams = [open_stream(folder, rank=r, world_size=world_size, num_workers=num_workers) for r in range(world_size)]
    assert_same(global_batches(streams, 25), take(open_stream(folder), 25))
    assert streams[0].multi_mode_share == streams[1].multi_mode_share


def test_the_place_of_a_row_leads_back_to_it(folder: Path) -> None:
    curriculum = {"schedule": "constant", "final_share": 0.5}
    streams = [open_stream(folder, num_workers=2, curriculum=curriculum, rank=rank, world_size=2) for rank in range(2)]
    assert streams[0].last_rows == []
    views = set()
    for number in range(8):
        batches = [next(stream) for stream in streams]
        places = [place for stream in streams for place in stream.last_rows]
        rows = np.concatenate([batch["input_ids"] for batch in batches])
        assert [(place.lane, place.row) for place in places] == [(lane, number) for lane in range(len(rows))]
        for place, row in zip(places, rows, strict=True):
            made = streams[0].makers[0].make(place.view, place.epoch, place.unit)
            batch = made.new_batch(1)
            made.write(place.row_in_unit, batch, 0)
            assert np.array_equal(batch["input_ids"].reshape(-1), row)
            assert place.corpus == str(folder)
            views.add(place.view)
    assert views == {"multi", "single"}


def test_saving_the_state_says_what_was_yielded_only(folder: Path) -> None:
    plain, threaded = open_stream(folder), open_stream(folder, num_workers=3)
    for _ in range(15):
        next(plain)
        next(threaded)
        assert plain.state_dict() == threaded.state_dict()
    threaded.close()
    assert_same(take(plain, 5), take(threaded, 5))


def test_epochs_and_seeds_have_other_orders(folder: Path) -> None:
    def first_epochs(seed: int) -> list[list[int]]:
        stream = open_stream(folder, num_lanes=1, curriculum=None, seed=seed)
        epochs: list[list[int]] = [[], []]
        while True:
            batch = next(stream)
            epoch = stream.state_dict()["lanes"]["0"]["0/multi"][0]
            if epoch > 1:
                return epochs
            epochs[epoch] += stamps_supervised(batch)

    (first, second), (other, _) = first_epochs(0), first_epochs(1)
    assert sorted(first) == sorted(second) == sorted(other)
    assert first != second
    assert first != other


def test_curriculum_share_follows_the_schedule(folder: Path) -> None:
    stream = open_stream(folder, num_lanes=48, curriculum={**MIXED, "ramp_end_tokens": 48 * 32 * 40})
    shares, planned = [], []
    for _ in range(60):
        planned.append(stream.scheduled_multi_mode_share)
        batch = next(stream)
        shares.append(stream.multi_mode_share)
        modes = batch["stamp"][:, ::4] // 3 % 2
        breaks = (batch["position_ids"][:, 4::4] > 0) & (modes[:, 1:] != modes[:, :-1])
        assert breaks.any(axis=1).sum() <= shares[-1] * 48  # single-mode rows never change mode inside a sequence
    assert planned[0] == pytest.approx(0.1)
    assert planned[-1] == pytest.approx(0.9)
    np.testing.assert_allclose(np.reshape(shares, (6, 10)).mean(1), np.reshape(planned, (6, 10)).mean(1), atol=0.06)


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_once_gives_every_row_once_in_equal_batches(folder: Path, world_size: int) -> None:
    streams = [open_stream(folder, rank=rank, world_size=world_size) for rank in range(world_size)]
    before = [stream.state_dict() for stream in streams]
    parts = [list(stream.rows_once()) for stream in streams]
    assert len({len(part) for part in parts}) == 1
    assert {batch["labels"].shape for part in parts for batch in part} == {(4 // world_size, 32)}
    supervised = [stamp for part in parts for batch in part for stamp in stamps_supervised(batch)]
    assert sorted(supervised) == list(range(NUM_ACTIONS))
    assert [stream.state_dict() for stream in streams] == before
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][step]}
        for step in range(len(parts[0]))
    ]
    assert_same(joined, list(open_stream(folder).rows_once()))


def test_other_splits(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "data", [make_users([5, 6])], split="validation")
    stream = open_stream(path, split="validation", curriculum=None)
    assert sum(len(stamps_supervised(batch)) for batch in stream.rows_once()) == 11
    assert len(take(stream, 5)) == 5
    with pytest.raises(ValueError, match="split 'train'"):
        open_stream(path)


def test_more_lanes_than_units_empty_shards_and_one_huge_user(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "data", [[], make_users([3000]), []])
    stream = open_stream(path, num_lanes=6, curriculum=None)
    rows = [stamps_supervised({k: v[i : i + 1] for k, v in b.items()}) for b in take(stream, 749) for i in range(6)]
    # six lanes, one unit: lane i starts with epoch i; 749 rows (8 actions, 4 of them context) are one epoch each
    for lane in range(6):
        assert sorted(stamp for row in rows[lane::6] for stamp in row) == list(range(3000))
    assert rows[0::6] != rows[1::6]


def test_cleaning_in_the_stream(tmp_path: Path) -> None:
    users = make_users([10, 2, 10, 10], poi_row=lambda t: np.where(t < 12, 1, np.where(t == 13, -1, t % 97)))
    path = write_folder(tmp_path / "data", [users])
    cleaning = {"min_actions": 3, "min_distinct_ratio": 0.5, "rules": [WAYS]}
    stream = open_stream(path, num_lanes=2, cleaning=cleaning, curriculum=None)
    supervised = [stamp for batch in stream.rows_once() for stamp in stamps_supervised(batch)]
    assert sorted(supervised) == [t for t in range(12, 32) if t % 2 == 0]
    seen = [stamp for batch in stream.rows_once() for stamp in batch["stamp"][:, ::4].ravel() if stamp >= 0]
    assert {13, 15, 17} <= set(seen)  # functional actions stay as context
    next(stream)  # enters both units
    counts = stream.stats()
    assert counts["sequences_too_short"] == counts["sequences_low_distinct_ratio"] == 1
    assert counts["actions_rule_ways"] == counts["actions_functional"] == 10


def test_rules_by_category_and_names_that_do_not_exist(folder: Path) -> None:
    rule = {"name": "work", "behaviour": "functional", "categories": ["office"]}
    stream = open_stream(folder, cleaning={"rules": [rule]}, curriculum=None)
    supervised = {stamp for batch in stream.rows_once() for stamp in stamps_supervised(batch)}
    assert supervised == {t for t in range(NUM_ACTIONS) if t % 97 % 3 != 1}
    with pytest.raises(ValueError, match=r"\(work\): categories names 'offce'.*did you mean 'office'"):
        open_stream(folder, cleaning={"rules": [{**rule, "categories": ["offce"]}]})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_everything_filtered_is_a_clear_error(folder: Path, num_workers: int) -> None:
    for curriculum in (None, {"final_share": 0.0}):
        stream = open_stream(folder, cleaning={"min_actions": 41}, num_workers=num_workers, curriculum=curriculum)
        with pytest.raises(
            ValueError, match=r"not one row is left .*sequences_too_short 20.*relax the settings of cleaning"
        ):
            next(stream)
        with pytest.raises(ValueError, match="not one row is left"):
            next(stream.rows_once())


def test_blind_share_is_a_share_of_supervised_actions(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "data", [make_users([400] * 5, poi_row=lambda t: np.where(t % 2 == 0, 3, -1))])
    states = {}
    for share in (0.0, 0.25, 1.0):
        batches = list(open_stream(path, blind_share=share, curriculum=None).rows_once())
        states[share] = np.concatenate(
            [batch["input_ids"][:, ::4][(batch["labels"][:, 1::4] != -100)] for batch in batches]
        )
        context = np.concatenate([batch["input_ids"][:, ::4][batch["input_ids"][:, 1::4] == 999] for batch in batches])
        assert (context == 1).all()
    assert (states[0.0] == 1).all()
    assert (states[1.0] == 2).all()
    assert abs((states[0.25] == 2).mean() - 0.25) < 0.06


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"world_size": 3}, "num_lanes must be a positive multiple of world_size, got 4 lanes for 3 ranks"),
        ({"rank": 2, "world_size": 2}, "rank must lie in 0..world_size-1"),
        ({"row_length": 30}, "row_length must be a positive multiple of 4"),
        ({"overlap": 1.0}, "0 <= overlap < 1"),
        ({"blind_share": 1.1}, "blind_share must lie between 0 and 1"),
        ({"num_workers": -1}, "num_workers"),
        ({"cleaning": {"min_action": 2}}, "did you mean 'min_actions'"),
        ({"split": "valid"}, "unknown split 'valid'"),
    ],
)
def test_wrong_settings_are_named(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_stream(folder, **settings)


def test_states_of_another_stream_are_refused(folder: Path, tmp_path: Path) -> None:
    stream = open_stream(folder)
    next(stream)
    state = stream.state_dict()
    for changed in (
        {"seed": 1},
        {"num_lanes": 8},
        {"row_length": 64},
        {"overlap": 0.0},
        {"cleaning": {"min_actions": 2}},
    ):
        with pytest.raises(ValueError, match=f"was saved with {next(iter(changed))}="):
            open_stream(folder, **changed).load_state_dict(state)
    other = write_folder(tmp_path / "data", [make_users([5, 6])])
    with pytest.raises(ValueError, match="was saved with data="):
        open_stream(other).load_state_dict(state)
    halves = [open_stream(folder, rank=rank, world_size=2) for rank in range(2)]
    with pytest.raises(ValueError, match=r"lacks lanes 2\.\.3 of 4.*list of all ranks' states"):
        stream.load_state_dict(halves[0].state_dict())
    next(halves[0])
    with pytest.raises(ValueError, match=r"different steps, row_number \[0, 1\]"):
        stream.load_state_dict([half.state_dict() for half in halves])
    with pytest.raises(ValueError, match="no stream state"):
        stream.load_state_dict([])


def test_another_curriculum_may_continue(folder: Path) -> None:
    stream = open_stream(folder)
    take(stream, 5)
    resumed = open_stream(folder, curriculum={"final_share": 1.0})
    resumed.load_state_dict(stream.state_dict())
    next(resumed)
    assert resumed.multi_mode_share == 1.0
