"""The walk: all users of a chunk choose their k-th place together, for k = 0, 1, 2, …"""

import dataclasses

import numpy as np

from data_pipelines.simulator.categories import FUNCTIONAL
from data_pipelines.simulator.choice import Requests, draw, mixture
from data_pipelines.simulator.city import City
from data_pipelines.simulator.people import Calendar, People
from data_pipelines.simulator.settings import IN_TRIP, LOCAL, PRE_TRIP, CitySettings, named_rng

_FAR_KM = 2.0
# Share of clicks by mode (rows) and by behaviour class (interest, functional); the others move by car or ride.
_CLICKS = np.array([[0.45, 0.10], [0.95, 0.95], [0.35, 0.15]])


@dataclasses.dataclass(frozen=True)
class Walk:
    """What the N events of a chunk turned out to be, in the order of its calendar."""

    poi: np.ndarray  # (N,) the place chosen
    current: np.ndarray  # (N,) where the person was at the request
    num_known: np.ndarray  # (N,) S at the request
    action: np.ndarray  # (N,)


def walk(settings: CitySettings, city: City, people: People, calendar: Calendar, chunk: int) -> Walk:
    """Simulate the choices of a chunk's users in lockstep; memory is users x (longest history + districts)."""
    rng = named_rng(settings.seed, "walk", chunk)
    counts = np.diff(calendar.offsets)
    # Most active first: the users who still have a k-th event are then a prefix.
    order = np.argsort(-counts, kind="stable")
    counts, first = counts[order], calendar.offsets[:-1][order]
    num_users, longest = len(counts), int(counts[0])
    home, work, hotel, taste = people.home[order], people.work[order], people.hotel[order], people.taste[order]
    past = np.full((num_users, longest), -1, dtype=np.int32)
    past_away = np.zeros((num_users, longest), dtype=bool)
    known = np.zeros((num_users, 2), dtype=np.int64)  # distinct places: everyday life, trips
    place = home.copy()
    was_in_trip = np.zeros(num_users, dtype=bool)
    poi, current, num_known = (np.empty(len(calendar.mode), dtype=np.int32) for _ in range(3))
    active = np.searchsorted(-counts, -np.arange(longest), side="left")  # users with more than k events
    for k, a in enumerate(active):
        event = first[:a] + k
        mode, users = calendar.mode[event], np.arange(a)
        in_trip, away = mode == IN_TRIP, (mode != LOCAL).astype(np.int64)
        # Setting out, a person arrives at the hotel; coming back, at home.
        moved = in_trip != was_in_trip[:a]
        place[:a] = np.where(moved, np.where(in_trip, hotel[:a], home[:a]), place[:a])
        was_in_trip[:a] = in_trip
        requests = Requests(
            hour=calendar.hour[event],
            mode=mode,
            current=place[:a],
            home=home[:a],
            work=work[:a],
            hotel=hotel[:a],
            taste=taste[:a],
            past=past[:a, :k],
            past_away=past_away[:a, :k],
            num_known=known[users, away],
        )
        chosen = draw(city, mixture(settings, city, requests), rng)
        poi[event], current[event], num_known[event] = chosen, place[:a], requests.num_known
        seen = ((past[:a, :k] == chosen[:, None]) & (past_away[:a, :k] == away[:, None])).any(axis=1)
        known[users, away] += ~seen
        past[:a, k], past_away[:a, k] = chosen, away
        place[:a] = np.where(mode == PRE_TRIP, place[:a], chosen)
    return Walk(poi, current, num_known, _actions(settings, city, people, calendar, poi, current, chunk))


def _actions(
    settings: CitySettings,
    city: City,
    people: People,
    calendar: Calendar,
    poi: np.ndarray,
    current: np.ndarray,
    chunk: int,
) -> np.ndarray:
    """Action (N,): 0 click, 1 navigate, 2 ride; by mode, behaviour class, distance and the person's habit."""
    u = named_rng(settings.seed, "actions", chunk).random((len(poi), 2))
    user = np.repeat(np.arange(len(people.home)), np.diff(calendar.offsets))
    click = u[:, 0] < _CLICKS[calendar.mode, FUNCTIONAL[city.category[poi]].astype(np.int64)]
    step = city.xy[poi] - city.xy[current]
    far = np.hypot(step[:, 0], step[:, 1]) > _FAR_KM
    ride = u[:, 1] < np.where(far, 0.2 + 0.7 * people.ride[user], 0.3 * people.ride[user])
    return np.where(click, 0, np.where(ride, 2, 1)).astype(np.int8)
