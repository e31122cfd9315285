"""People of one chunk: how many events each has, their places and tastes, and when and in which mode they ask."""

import dataclasses

import numpy as np

from data_pipelines.simulator.categories import CATEGORIES, HOME, HOTEL, HOURS_PER_WEEK, OFFICE, rhythm
from data_pipelines.simulator.city import City
from data_pipelines.simulator.settings import (
    IN_TRIP,
    LOCAL,
    PRE_TRIP,
    USERS_PER_CHUNK,
    CitySettings,
    named_rng,
)

_WORKERS = 0.85
_COMMUTE_KM = 6.0
_PRE_TRIP_SHARE = 0.5  # of the requests in the days before a trip; the others belong to everyday life
_MONDAY = 4 * 86_400  # 1970-01-05 was a Monday


@dataclasses.dataclass(frozen=True)
class People:
    """Latent traits of the U users of a chunk; places are row numbers of the city."""

    home: np.ndarray  # (U,)
    work: np.ndarray  # (U,) -1: none
    hotel: np.ndarray  # (U,) where the person stays on trips: always the same far district
    taste: np.ndarray  # (U, C) positive, about 1
    ride: np.ndarray  # (U,) preference for rides over driving, 0 to 1


@dataclasses.dataclass(frozen=True)
class Calendar:
    """When and in which mode the users of a chunk ask: N events sorted by user, then time."""

    offsets: np.ndarray  # (U + 1,)
    timestamp: np.ndarray  # (N,) unix seconds UTC, strictly rising within a user
    hour: np.ndarray  # (N,) local hour of the week
    mode: np.ndarray  # (N,)


def num_chunks(settings: CitySettings) -> int:
    """Number of chunks of USERS_PER_CHUNK users; the last may be smaller."""
    return -(-settings.num_users // USERS_PER_CHUNK)


def events_per_user(settings: CitySettings) -> np.ndarray:
    """Number of events (num_users,): at least 1 each, log-normal activity, sums to `num_events` exactly."""
    activity = np.concatenate(
        [
            np.exp(settings.activity_sigma * named_rng(settings.seed, "activity", chunk).normal(size=USERS_PER_CHUNK))
            for chunk in range(num_chunks(settings))
        ]
    )[: settings.num_users]
    exact = (settings.num_events - settings.num_users) * activity / activity.sum()
    counts = np.floor(exact).astype(np.int64)
    missing = settings.num_events - settings.num_users - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts + 1


def draw_people(settings: CitySettings, city: City, chunk: int, num_users: int) -> People:
    """Homes anywhere, work by popularity and distance from home, hotel in a far district, mild tastes."""
    rng = named_rng(settings.seed, "people", chunk)
    none = np.full(num_users, -1)

    def place(category: int, weights: np.ndarray) -> np.ndarray:
        cumulative = np.cumsum(weights * city.mass[:, category], axis=1)
        point = rng.random(num_users) * cumulative[:, -1]
        district = np.minimum((cumulative <= point[:, None]).sum(axis=1), len(city.centres) - 1)
        return city.draw_in_cell(district, np.full(num_users, category), rng.random(num_users), none)

    homes = np.flatnonzero(city.category == HOME)
    home = homes[rng.integers(0, len(homes), num_users)]
    apart = np.linalg.norm(city.xy[home][:, None, :] - city.centres[None], axis=2)
    work = place(OFFICE, np.exp(-apart / _COMMUTE_KM))
    hotel = place(HOTEL, (apart / city.radius_km) ** 4)
    return People(
        home=home,
        work=np.where(rng.random(num_users) < _WORKERS, work, -1),
        hotel=hotel,
        taste=np.exp(settings.taste_sigma * rng.normal(size=(num_users, len(CATEGORIES)))),
        ride=rng.random(num_users),
    )


def draw_calendar(settings: CitySettings, chunk: int, counts: np.ndarray) -> Calendar:
    """Request times by the weekly rhythm, and modes by each person's trips.

    Neither depends on the places chosen: both are known before each choice. Trips come in cycles of
    `trip_every_days` with a personal phase; the days before a trip, as many as it lasts, mix pre-trip and local
    requests.
    """
    rng = named_rng(settings.seed, "calendar", chunk)
    user = np.repeat(np.arange(len(counts)), counts)
    hours = np.arange(settings.num_days * 24)
    first_hour = (settings.start_local - _MONDAY) // 3600
    weights = np.cumsum(rhythm()[(first_hour + hours) % HOURS_PER_WEEK])
    hour = np.searchsorted(weights, rng.random(len(user)) * weights[-1], side="right")
    seconds = np.minimum(hour, len(hours) - 1) * 3600 + rng.integers(0, 3600, len(user))
    seconds = seconds[np.lexsort((seconds, user))]
    # Push equal times apart by a second: the running maximum of (time - position) within each user.
    offsets = np.concatenate([[0], np.cumsum(counts)])
    position = np.arange(len(user)) - offsets[user]
    span = settings.num_days * 86_400 + int(counts.max()) + 1
    seconds = np.maximum.accumulate(seconds - position + user * 2 * span) - user * 2 * span + position

    day = seconds // 86_400
    cycle = settings.trip_every_days
    phased = day + rng.integers(0, cycle, len(counts))[user]
    travels = rng.random((len(counts), settings.num_days // cycle + 3)) < settings.trip_share
    going = travels[user, np.minimum(phased // cycle, travels.shape[1] - 1)]
    left = cycle - phased % cycle  # days to the end of the cycle: the trip takes the last ones
    in_trip = going & (left <= settings.trip_days)
    planning = going & ~in_trip & (left <= 2 * settings.trip_days) & (rng.random(len(user)) < _PRE_TRIP_SHARE)
    local = settings.start_local + seconds
    return Calendar(
        offsets=offsets,
        timestamp=local - settings.tz_offset_minutes * 60,
        hour=((local - _MONDAY) // 3600 % HOURS_PER_WEEK).astype(np.int16),
        mode=np.where(in_trip, IN_TRIP, np.where(planning, PRE_TRIP, LOCAL)).astype(np.int8),
    )
