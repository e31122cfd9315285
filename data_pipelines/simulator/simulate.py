"""Simulate a city and write it: events.parquet, pois.parquet, truth.parquet, and last truth.json."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipelines.durable import replace_text
from data_pipelines.simulator.categories import FUNCTIONAL, NAMES
from data_pipelines.simulator.city import City, build_city, category_names
from data_pipelines.simulator.people import (
    Calendar,
    draw_calendar,
    draw_people,
    events_per_user,
    num_chunks,
)
from data_pipelines.simulator.settings import ACTIONS, MODES, USERS_PER_CHUNK, CitySettings
from data_pipelines.simulator.truth import Tally, candidate_sets, measure, realised, summary, true_distributions
from data_pipelines.simulator.walk import Walk, walk

OUTPUTS = ("events.parquet", "pois.parquet", "truth.parquet")

Progress = Callable[[str, int, int], None]  # (stage, done, of)


def _silent(stage: str, done: int, of: int) -> None:
    """Report nothing."""


def simulate(
    out: str | Path, settings: CitySettings, *, overwrite: bool = False, progress: Progress = _silent
) -> dict[str, Any]:
    """Simulate and write one city; return what truth.json holds.

    Same settings, same bytes; a finished city of these settings is left as it is. `truth.json` is written last: a
    folder without it is unfinished.

    Raises:
        ValueError: `out` is a file, or already holds a city of other settings and `overwrite` is off.
    """
    folder = Path(out)
    if folder.is_file():
        raise ValueError(f"{folder} is a file; choose a folder for the city")
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "truth.json"
    same = done.exists() and _settings_in(done) == dataclasses.asdict(settings)
    if same and not overwrite and all((folder / name).is_file() for name in OUTPUTS):
        return json.loads(done.read_text(encoding="utf-8"))
    if done.exists() and not same and not overwrite:
        raise ValueError(f"{folder} holds a city of other settings; choose another folder or pass --overwrite")
    done.unlink(missing_ok=True)

    city = build_city(settings)
    counts = events_per_user(settings)
    chunks = num_chunks(settings)
    first_user = np.arange(chunks + 1) * USERS_PER_CHUNK
    people, calendars, walks = [], [], []
    for chunk in range(chunks):
        own = counts[first_user[chunk] : first_user[chunk + 1]]
        people.append(draw_people(settings, city, chunk, len(own)))
        calendars.append(draw_calendar(settings, chunk, own))
        walks.append(walk(settings, city, people[-1], calendars[-1], chunk))
        progress("people walking", chunk + 1, chunks)

    _write_pois(folder, settings, city)
    _write_events(folder, settings, city, calendars, walks)

    train_end, validation_end = _split(np.concatenate([calendar.timestamp for calendar in calendars]))
    in_training = np.zeros(city.num_pois, dtype=bool)
    for calendar, events in zip(calendars, walks, strict=True):
        in_training[events.poi[calendar.timestamp < train_end]] = True

    candidates = candidate_sets(city, in_training)
    tallies = {name: Tally() for name in candidates}
    tested = [np.flatnonzero(calendar.timestamp >= validation_end) for calendar in calendars]
    num_test = sum(len(events) for events in tested)
    # The same evenly spaced selection whatever the chunks.
    keep = np.zeros(num_test, dtype=bool)
    keep[np.linspace(0, num_test - 1, min(num_test, settings.max_truth_events)).astype(np.int64)] = True
    keep_of = np.split(keep, np.cumsum([len(events) for events in tested])[:-1])
    row_of = np.cumsum([0, *(len(events.poi) for events in walks)])
    measured, total = 0, int(keep.sum())
    for chunk in range(chunks):
        wanted = tested[chunk][keep_of[chunk]]
        for event, p, returned in true_distributions(
            settings, city, people[chunk], calendars[chunk], walks[chunk], wanted
        ):
            for name, allowed in candidates.items():
                target = walks[chunk].poi[event]
                measure(tallies[name], p, target, allowed, event_row=row_of[chunk] + event, returned=returned)
            measured += len(event)
            progress("measuring the truth", measured, total)

    _write_truth_rows(folder, tallies["known"])
    truth = {
        **summary(tallies["known"]),
        "interest": summary(tallies["interest"]),
        "all": summary(tallies["all"]),
        "slices": _slices(tallies["known"]),
        "num_test_events": num_test,
        "split": {"train_end": train_end, "validation_end": validation_end},
        "functional_categories": [name for name, functional in zip(NAMES, FUNCTIONAL, strict=True) if functional],
        "settings": dataclasses.asdict(settings),
        "seed": settings.seed,
        "about": (
            "Held-out events are those at or after split.validation_end. Top level: events whose POI occurs in the "
            "training part, truth conditioned on that; interest: of these, the events at interest POIs, truth "
            "conditioned on that too; all: every held-out event and POI. hr@k, mrr and entropy_nats are expectations "
            "under the true distribution, nll_nats and realised are measured on the events drawn."
        ),
    }
    replace_text(done, json.dumps(truth, indent=2) + "\n")
    return truth


def _settings_in(truth: Path) -> object:
    try:
        return json.loads(truth.read_text(encoding="utf-8"))["settings"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return None


def _split(timestamps: np.ndarray) -> tuple[int, int]:
    """Times at which 80 % and 90 % of all events have passed."""
    at = [int(0.8 * len(timestamps)), int(0.9 * len(timestamps))]
    ordered = np.partition(timestamps, at)
    return int(ordered[at[0]]), int(ordered[at[1]])


def _slices(tally: Tally) -> dict[str, dict[str, float | int]]:
    """Realised values of the true ranking for returns and discoveries apart."""
    returned, rank = tally.column("returned").astype(bool), tally.column("rank")
    return {"return": realised(rank[returned]), "discovery": realised(rank[~returned])}


def _numbered(prefix: str, numbers: np.ndarray, highest: int) -> pa.Array:
    """Strings such as u00042, padded to the width of the highest number."""
    digits = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), len(str(highest)), "0")
    return pc.binary_join_element_wise(prefix, digits, "")


def _poi_ids(city: City) -> pa.Array:
    return _numbered("p", city.number, city.num_pois - 1)


def _write_pois(folder: Path, settings: CitySettings, city: City) -> None:
    """One row per place, in the order of poi_id."""
    latitude, longitude = city.coordinates(settings)
    names = category_names(city)
    order = np.argsort(city.number)
    table = pa.table(
        {
            "poi_id": _poi_ids(city),
            "latitude": latitude,
            "longitude": longitude,
            "category": pa.array(names, pa.string()),
            "name": _numbered_names(names, city.number),
        }
    )
    pq.write_table(table.take(order), folder / "pois.parquet")


def _numbered_names(names: np.ndarray, numbers: np.ndarray) -> pa.Array:
    title = pc.utf8_capitalize(pa.array(names, pa.string()))
    return pc.binary_join_element_wise(title, pc.cast(pa.array(numbers), pa.string()), " ")


def _write_events(
    folder: Path, settings: CitySettings, city: City, calendars: list[Calendar], walks: list[Walk]
) -> None:
    """One row group per chunk of users; rows by user, then time."""
    latitude, longitude = city.coordinates(settings)
    poi_ids = _poi_ids(city)
    schema = pa.schema(
        {
            "user_id": pa.string(),
            "poi_id": pa.string(),
            "action": pa.string(),
            "timestamp": pa.timestamp("s", tz="UTC"),
            "tz_offset_minutes": pa.int16(),
            "user_latitude": pa.float64(),
            "user_longitude": pa.float64(),
            "mode": pa.string(),
        }
    )
    with pq.ParquetWriter(folder / "events.parquet", schema) as writer:
        for chunk, (calendar, events) in enumerate(zip(calendars, walks, strict=True)):
            num_users = len(calendar.offsets) - 1
            users = _numbered("u", chunk * USERS_PER_CHUNK + np.arange(num_users), settings.num_users - 1)
            columns = [
                users.take(np.repeat(np.arange(num_users), np.diff(calendar.offsets))),
                poi_ids.take(events.poi),
                pa.array(ACTIONS).take(events.action),
                pa.array(calendar.timestamp, schema.field("timestamp").type),
                pa.array(np.full(len(events.poi), settings.tz_offset_minutes, dtype=np.int16)),
                pa.array(latitude[events.current]),
                pa.array(longitude[events.current]),
                pa.array(MODES).take(calendar.mode),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _write_truth_rows(folder: Path, tally: Tally) -> None:
    """Per measured event whose POI occurs in training: its row in events.parquet, true probability and rank."""
    table = pa.table(
        {
            "event_row": pa.array(tally.column("event_row").astype(np.int64)),
            "p_target": pa.array(tally.column("p_target").astype(np.float64)),
            "rank": pa.array(tally.column("rank").astype(np.float64)),
        }
    )
    pq.write_table(table, folder / "truth.parquet")
