"""The written city: bytes, schema, and what must hold of every event."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_pipelines.simulator import CitySettings, simulate
from data_pipelines.simulator import walk as walk_module
from data_pipelines.simulator.categories import NAMES, opening_hours
from data_pipelines.simulator.people import events_per_user

SETTINGS = CitySettings(num_users=120, num_pois=300, num_events=8_003, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("city")
    simulate(out, SETTINGS)
    return out


@pytest.fixture(scope="module")
def events(folder: Path) -> pa.Table:
    return pq.read_table(folder / "events.parquet")


@pytest.fixture(scope="module")
def pois(folder: Path) -> pa.Table:
    return pq.read_table(folder / "pois.parquet")


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict:
    return json.loads((folder / "truth.json").read_text())


def place_rows(events: pa.Table, pois: pa.Table) -> np.ndarray:
    return pc.index_in(events["poi_id"], pois["poi_id"].combine_chunks()).to_numpy()


def unix(events: pa.Table) -> np.ndarray:
    return pc.cast(events["timestamp"].cast(pa.timestamp("s", tz="UTC")), pa.int64()).to_numpy()


def user_starts(events: pa.Table) -> np.ndarray:
    user = events["user_id"].to_numpy()
    return np.r_[True, user[1:] != user[:-1]]


def test_same_seed_same_bytes_other_seed_other_events(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    simulate(again, SETTINGS)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["events.parquet", "pois.parquet", "truth.json", "truth.parquet"]
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in names)
    with pytest.raises(ValueError, match="other settings"):
        simulate(again, CitySettings(num_users=120, num_pois=300, num_events=8_003, seed=8))
    simulate(again, CitySettings(num_users=120, num_pois=300, num_events=8_003, seed=8), overwrite=True)
    assert (folder / "events.parquet").read_bytes() != (again / "events.parquet").read_bytes()


def test_interrupted_run_leaves_nothing_that_looks_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate(tmp_path, SETTINGS)

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(walk_module, "_actions", stop)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path, SETTINGS, overwrite=True)
    assert not (tmp_path / "truth.json").exists()


def test_a_finished_city_is_left_as_it_is(tmp_path: Path) -> None:
    first = simulate(tmp_path, SETTINGS)
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert simulate(tmp_path, SETTINGS) == first
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == written
    (tmp_path / "events.parquet").unlink()
    simulate(tmp_path, SETTINGS)
    assert (tmp_path / "events.parquet").is_file()


def test_schema_and_counts(events: pa.Table, pois: pa.Table) -> None:
    assert events.schema.names == [
        "user_id",
        "poi_id",
        "action",
        "timestamp",
        "tz_offset_minutes",
        "user_latitude",
        "user_longitude",
        "mode",
    ]
    # Parquet has no seconds: they come back as milliseconds.
    assert events.schema.field("timestamp").type == pa.timestamp("ms", tz="UTC")
    assert pois.schema.names == ["poi_id", "latitude", "longitude", "category", "name"]
    assert (events.num_rows, pois.num_rows) == (8_003, 300)
    assert all(column.null_count == 0 for table in (events, pois) for column in table.columns)
    assert len(events["user_id"].unique()) == 120
    assert pc.count_distinct(pois["poi_id"]).as_py() == 300
    assert set(events["mode"].unique().to_pylist()) == {"local", "pre_trip", "in_trip"}
    assert set(events["action"].unique().to_pylist()) == {"click", "navigate", "ride"}
    assert set(pois["category"].unique().to_pylist()) == set(NAMES)


def test_times_rise_strictly_within_a_user(events: pa.Table) -> None:
    assert (np.diff(unix(events))[~user_starts(events)[1:]] > 0).all()


def test_user_stands_where_the_last_visit_left_them(events: pa.Table, pois: pa.Table) -> None:
    place, first = place_rows(events, pois), user_starts(events)
    here = np.stack([events["user_latitude"].to_numpy(), events["user_longitude"].to_numpy()], axis=1)
    there = np.stack([pois["latitude"].to_numpy(), pois["longitude"].to_numpy()], axis=1)[place]
    assert (here != there).any(axis=1).all(), "the place of the request is never the target's"
    mode = events["mode"].to_numpy()
    # After a pre-trip event the user has not moved; setting out leads to the hotel, coming back to the home.
    travel = (mode[1:] == "in_trip") != (mode[:-1] == "in_trip")
    expected = np.where((mode[:-1] == "pre_trip")[:, None], here[:-1], there[:-1])
    same_user = ~first[1:]
    assert (here[1:] == expected)[same_user & ~travel].all()
    points = zip(pois["latitude"].to_pylist(), pois["longitude"].to_pylist(), strict=True)
    category_at = dict(zip(points, pois["category"].to_pylist(), strict=True))
    assert {category_at[tuple(point)] for point in here[1:][same_user & travel]} == {"home", "hotel"}
    assert {category_at[tuple(point)] for point in here[first & (mode != "in_trip")]} == {"home"}


def test_opening_hours_are_respected(events: pa.Table, pois: pa.Table) -> None:
    local = unix(events) + 60 * events["tz_offset_minutes"].to_numpy().astype(np.int64)
    hour = (local - 4 * 86_400) // 3600 % 168
    kinds = pc.index_in(pois["category"], pa.array(NAMES)).to_numpy()[place_rows(events, pois)]
    assert opening_hours()[kinds, hour].all()


def test_trips_are_far_and_explore_more(events: pa.Table, pois: pa.Table) -> None:
    place, mode = place_rows(events, pois), events["mode"].to_numpy()
    latitude, longitude = pois["latitude"].to_numpy()[place], pois["longitude"].to_numpy()[place]
    _, user = np.unique(events["user_id"].to_numpy(), return_inverse=True)
    local = mode == "local"
    centre = [np.bincount(user[local], value[local]) / np.bincount(user[local]) for value in (latitude, longitude)]
    apart = 111 * np.hypot(latitude - centre[0][user], (longitude - centre[1][user]) * 0.855)
    assert np.median(apart[mode == "in_trip"]) > 2 * np.median(apart[local])
    assert np.median(apart[mode == "pre_trip"]) > 2 * np.median(apart[local])
    _, first = np.unique(user * np.int64(1 << 32) + place, return_index=True)
    new = np.zeros(len(place), dtype=bool)
    new[first] = True
    assert new[mode == "in_trip"].mean() > new[local].mean()


def test_split_and_truth(events: pa.Table, folder: Path, truth: dict) -> None:
    time = unix(events)
    train, test = time < truth["split"]["train_end"], time >= truth["split"]["validation_end"]
    assert train.mean() == pytest.approx(0.8, abs=0.001)
    assert test.mean() == pytest.approx(0.1, abs=0.001)
    known = np.isin(events["poi_id"].to_numpy(), events["poi_id"].to_numpy()[train])
    assert truth["num_events"] == (test & known).sum()
    assert truth["all"]["num_events"] == truth["num_test_events"] == test.sum()
    assert 0 < truth["interest"]["num_events"] < truth["num_events"]
    assert truth["hr@1"] < truth["hr@5"] < truth["hr@10"] < truth["hr@20"] < 1
    assert truth["seed"] == 7
    rows = pq.read_table(folder / "truth.parquet")
    assert (test & known)[rows["event_row"].to_numpy()].all()
    rank = rows["rank"].to_numpy()
    assert np.mean(rank <= 10) == pytest.approx(truth["realised"]["hr@10"], abs=1e-6)
    assert -np.log(rows["p_target"].to_numpy()).mean() == pytest.approx(truth["nll_nats"], abs=1e-5)


def test_truth_events_are_capped(tmp_path: Path) -> None:
    truth = simulate(tmp_path, CitySettings(num_users=50, num_pois=100, num_events=2_000, max_truth_events=30))
    assert truth["all"]["num_events"] == 30
    assert truth["num_test_events"] == 200


def test_default_city_is_neither_trivial_nor_noise(tmp_path: Path) -> None:
    truth = simulate(tmp_path, CitySettings(num_users=200, num_events=20_000))
    assert 0.3 < truth["hr@1"] < 0.5
    assert 0.7 < truth["hr@10"] < 0.92


@pytest.mark.parametrize("num_events", [37, 38, 1_009])
def test_any_number_of_events(num_events: int, tmp_path: Path) -> None:
    settings = CitySettings(num_users=37, num_pois=60, num_events=num_events, num_days=3)
    counts = events_per_user(settings)
    assert counts.sum() == num_events
    assert counts.min() >= 1
    simulate(tmp_path, settings)
    assert pq.read_metadata(tmp_path / "events.parquet").num_rows == num_events


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_users", 0),
        ("num_pois", 10),
        ("num_events", 5),
        ("seed", -1),
        ("num_days", 0),
        ("num_districts", 1),
        ("trip_every_days", 8),
        ("decay_km", 0.0),
        ("taste_sigma", -1.0),
        ("trip_share", 1.5),
        ("latitude", 88.0),
        ("tz_offset_minutes", 2_000),
        ("start", "yesterday"),
    ],
)
def test_bad_settings_are_named(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=setting):
        CitySettings(**{setting: value})  # type: ignore[arg-type]
