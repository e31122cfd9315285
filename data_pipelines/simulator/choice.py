"""The choice of the next place: one mixture, from which places are drawn and whose probabilities are exact.

    p(j) = h [j = home] + w [j = work] + (1 - h - w) ((1 - e) return(j) + e explore(j)),   j != current place
    return(j)  ~ past visits(j) * demand(c, mode, hour) * exp(-|anchor - j| / return_decay_km)
    explore(j) ~ popularity(j) * taste(c) * demand(c, mode, hour) * exp(-|anchor - centre of j's district| / decay_km)
    e = rho * S^-gamma                                          (Song et al., Nature Physics 6, 818, 2010)

c is the category of j. explore factorises over district, category and place, so a draw costs O(districts x
categories), never O(places).
"""

import dataclasses

import numpy as np

from data_pipelines.simulator.city import City
from data_pipelines.simulator.settings import IN_TRIP, LOCAL, PRE_TRIP, CitySettings


@dataclasses.dataclass(frozen=True)
class Requests:
    """All that is known before the choices of B requests. Places are row numbers of the city, -1 for none."""

    hour: np.ndarray  # (B,) local hour of the week
    mode: np.ndarray  # (B,)
    current: np.ndarray  # (B,) where the person is
    home: np.ndarray  # (B,)
    work: np.ndarray  # (B,)
    hotel: np.ndarray  # (B,)
    taste: np.ndarray  # (B, C)
    past: np.ndarray  # (B, K) places of the person's earlier events, padded by -1
    past_away: np.ndarray  # (B, K) bool: the event belonged to a trip or its preparation
    num_known: np.ndarray  # (B,) S: distinct places known on this side of life (everyday, or trips)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The distribution of each of B next places. The four shares sum to 1; weights are not normalised."""

    home: np.ndarray  # (B,) place; on trips the hotel
    work: np.ndarray  # (B,)
    current: np.ndarray  # (B,) excluded from every part
    share_home: np.ndarray
    share_work: np.ndarray
    share_return: np.ndarray
    share_explore: np.ndarray
    past: np.ndarray  # (B, K)
    return_weights: np.ndarray  # (B, K) per past event
    wish: np.ndarray  # (B, C) demand x taste
    decay: np.ndarray  # (B, D)


def mixture(settings: CitySettings, city: City, requests: Requests) -> Mixture:
    """Weights of the next place of each request, from what is known before the choice only."""
    mode, hour, current = requests.mode, requests.hour, requests.current
    away = mode != LOCAL
    home = np.where(mode == IN_TRIP, requests.hotel, requests.home)
    # Before a trip nobody goes anywhere: the person looks at places around the future hotel.
    moving = mode != PRE_TRIP
    share_home = np.where(moving & (home != current), city.go_home[hour], 0.0)
    works = (mode == LOCAL) & (requests.work >= 0) & (requests.work != current)
    share_work = np.where(works, city.go_work[hour], 0.0)

    anchor = city.xy[np.where(moving, current, requests.hotel)]
    past = np.maximum(requests.past, 0)
    # Everyday life and trips keep separate memories.
    usable = (requests.past >= 0) & (requests.past_away == away[:, None]) & (past != current[:, None])
    apart = np.hypot(city.xy[past, 0] - anchor[:, :1], city.xy[past, 1] - anchor[:, 1:])
    return_weights = np.where(
        usable,
        city.demand[mode[:, None], city.category[past], hour[:, None]] * np.exp(-apart / settings.return_decay_km),
        0.0,
    )
    rho = np.where(away, settings.explore_trip, settings.explore_local)
    explore = np.minimum(1.0, rho * np.maximum(requests.num_known, 1) ** -settings.explore_gamma)
    explore = np.where(return_weights.sum(axis=1) > 0, explore, 1.0)
    rest = 1.0 - share_home - share_work
    centre = city.centres
    distance = np.hypot(centre[None, :, 0] - anchor[:, :1], centre[None, :, 1] - anchor[:, 1:])
    return Mixture(
        home=home,
        work=requests.work,
        current=current,
        share_home=share_home,
        share_work=share_work,
        share_return=rest * (1.0 - explore),
        share_explore=rest * explore,
        past=requests.past,
        return_weights=return_weights,
        wish=city.demand[mode, :, hour] * requests.taste,
        decay=np.exp(-distance / settings.decay_km),
    )


def _pick(weights: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Column (B,) drawn in proportion to `weights` (B, K); never one of weight 0. Rows must not be all 0."""
    cumulative = np.cumsum(weights, axis=1)
    point = u * cumulative[:, -1]
    column = (cumulative <= point[:, None]).sum(axis=1)
    # Rounding may put the point on the total itself: step back to the last column that has any weight.
    last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0, axis=1)
    return np.minimum(column, last)


def draw(city: City, mix: Mixture, rng: np.random.Generator) -> np.ndarray:
    """One next place (B,) per request."""
    u = rng.random((len(mix.home), 5))
    part = _pick(np.stack([mix.share_home, mix.share_work, mix.share_return, mix.share_explore], axis=1), u[:, 0])
    place = np.where(part == 0, mix.home, mix.work)

    rows = np.flatnonzero(part == 2)
    if len(rows):
        place[rows] = mix.past[rows, _pick(mix.return_weights[rows], u[rows, 1])]

    rows = np.flatnonzero(part == 3)
    current, wish = mix.current[rows], mix.wish[rows]
    district, category = city.district[current], city.category[current]
    # einsum, not a BLAS product: its result does not depend on the number of threads.
    mass = np.einsum("bc,dc->bd", wish, city.mass)
    own = city.mass[district]
    own[np.arange(len(rows)), category] = city.mass_without[current]
    mass[np.arange(len(rows)), district] = (wish * own).sum(axis=1)
    to = _pick(mass * mix.decay[rows], u[rows, 2])
    cells = np.where((to == district)[:, None], own, city.mass[to])
    kind = _pick(wish * cells, u[rows, 3])
    place[rows] = city.draw_in_cell(to, kind, u[rows, 4], current)
    return place


def probabilities(city: City, mix: Mixture) -> np.ndarray:
    """The whole distribution (B, P) of the next place: rows sum to 1, 0 at the current place."""
    num_rows, num_pois = len(mix.home), city.num_pois
    rows = np.arange(num_rows)
    explore = mix.decay[:, city.district]
    explore *= mix.wish[:, city.category]
    explore *= city.popularity
    explore[rows, mix.current] = 0.0
    explore *= (mix.share_explore / explore.sum(axis=1))[:, None]
    total = mix.return_weights.sum(axis=1)
    scale = np.divide(mix.share_return, total, out=np.zeros(num_rows), where=total > 0)
    used_row, used_column = np.nonzero(mix.return_weights)
    explore += np.bincount(
        used_row * num_pois + mix.past[used_row, used_column],
        mix.return_weights[used_row, used_column] * scale[used_row],
        num_rows * num_pois,
    ).reshape(num_rows, num_pois)
    explore[rows, mix.home] += mix.share_home
    explore[rows, np.maximum(mix.work, 0)] += mix.share_work
    return explore
