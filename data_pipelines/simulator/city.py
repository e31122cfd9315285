"""The city: districts, places in them, and exact draws of a place within a cell (district, category)."""

import dataclasses

import numpy as np

from data_pipelines.simulator.categories import CATEGORIES, NAMES, demand, opening_hours, routine
from data_pipelines.simulator.settings import CitySettings, named_rng

_KM_PER_DEGREE = 111.195
_GOLDEN_ANGLE = np.pi * (3 - 5**0.5)


@dataclasses.dataclass(frozen=True)
class City:
    """Places sorted by cell, where cell = district * number of categories + category.

    Arrays of shape (P,) are per place, (D, C) per district and category; distances are km on a plane.
    """

    xy: np.ndarray  # (P, 2) km from the city centre
    centres: np.ndarray  # (D, 2)
    category: np.ndarray  # (P,)
    district: np.ndarray  # (P,)
    popularity: np.ndarray  # (P,) Zipf, sums to 1 in each category
    mass: np.ndarray  # (D, C) summed popularity of a cell
    mass_without: np.ndarray  # (P,) popularity of the place's cell without the place itself
    before: np.ndarray  # (P,) popularity of the places of the same cell that stand before this one
    cumulative: np.ndarray  # (P,) running popularity over all places, this one included
    cell_start: np.ndarray  # (D * C + 1,) first place of each cell
    number: np.ndarray  # (P,) the number in the public poi_id: says nothing of district or popularity
    demand: np.ndarray  # (modes, C, 168)
    go_home: np.ndarray  # (168,)
    go_work: np.ndarray  # (168,)
    open_hours: np.ndarray  # (C, 168) bool
    radius_km: float

    @property
    def num_pois(self) -> int:
        return len(self.category)

    def coordinates(self, settings: CitySettings) -> tuple[np.ndarray, np.ndarray]:
        """Latitude and longitude (P,) in degrees, by the equirectangular projection around the city centre."""
        latitude = settings.latitude + self.xy[:, 1] / _KM_PER_DEGREE
        longitude = settings.longitude + self.xy[:, 0] / (_KM_PER_DEGREE * np.cos(np.radians(settings.latitude)))
        return latitude, longitude

    def draw_in_cell(self, district: np.ndarray, category: np.ndarray, u: np.ndarray, avoid: np.ndarray) -> np.ndarray:
        """One place per row, in proportion to popularity among the places of the row's cell other than `avoid`.

        `u` are uniform numbers in [0, 1); `avoid` (-1: none) may lie in another cell. The cell must hold a place to
        draw.
        """
        cell = district * len(CATEGORIES) + category
        first, end = self.cell_start[cell], self.cell_start[cell + 1]
        inside = (avoid >= first) & (avoid < end)
        safe = np.where(inside, avoid, first)
        point = u * np.where(inside, self.mass_without[safe], self.mass[district, category])
        # Beyond the avoided place, skip its stretch of the line.
        point += np.where(inside & (point >= self.before[safe]), self.popularity[safe], 0.0)
        start = np.where(first > 0, self.cumulative[first - 1], 0.0)
        place = np.clip(np.searchsorted(self.cumulative, start + point, side="right"), first, end - 1)
        # Rounding at the very edge of the avoided stretch may still point at it.
        return np.where(inside & (place == avoid), np.where(place + 1 < end, place + 1, place - 1), place)


def build_city(settings: CitySettings) -> City:
    """Lay out the districts on a jittered spiral, put the places in Gaussian clusters, and rank them by Zipf's law."""
    rng = named_rng(settings.seed, "city")
    num_districts, num_pois, num_categories = settings.districts, settings.num_pois, len(CATEGORIES)
    radius = settings.district_spacing_km * (num_districts / np.pi) ** 0.5
    order = np.arange(num_districts)
    distance = radius * ((order + 0.5) / num_districts) ** 0.5
    centres = distance[:, None] * np.stack([np.cos(order * _GOLDEN_ANGLE), np.sin(order * _GOLDEN_ANGLE)], axis=1)
    centres += rng.normal(0, 0.1 * settings.district_spacing_km, centres.shape)

    shares = np.array([category.share for category in CATEGORIES])
    # Two of each, then by share: every category exists and there is always another place to go.
    rest = np.floor((num_pois - 2 * num_categories) * np.cumsum(shares) / shares.sum() + 0.5).astype(np.int64)
    category = np.repeat(np.arange(num_categories), 2 + np.diff(rest, prepend=0))
    rank = np.concatenate([rng.permutation(count) for count in np.bincount(category)])
    popularity = (1.0 + rank) ** -settings.zipf_exponent
    popularity /= np.bincount(category, popularity)[category]
    size = np.exp(rng.normal(0, 0.4, num_districts))
    district = rng.choice(num_districts, num_pois, p=size / size.sum())
    xy = centres[district] + rng.normal(0, settings.district_spread_km, (num_pois, 2))
    number = rng.permutation(num_pois)

    order = np.lexsort((number, category, district))
    xy, category, district = xy[order], category[order], district[order]
    popularity, number = popularity[order], number[order]
    cell = district * num_categories + category
    num_cells = num_districts * num_categories
    cell_start = np.searchsorted(cell, np.arange(num_cells + 1))
    cumulative = np.cumsum(popularity)
    begin, end = cell_start[cell], cell_start[cell + 1]
    base = np.where(begin > 0, cumulative[begin - 1], 0.0)
    before = np.where(np.arange(num_pois) == begin, 0.0, cumulative - popularity - base)
    # Exactly 0 for a place that is alone in its cell: such a cell must never be drawn when the place is excluded.
    mass_without = np.where(end - begin == 1, 0.0, cumulative[end - 1] - base - popularity)
    go_home, go_work = routine()
    return City(
        xy=xy,
        centres=centres,
        category=category,
        district=district,
        popularity=popularity,
        mass=np.bincount(cell, popularity, num_cells).reshape(num_districts, num_categories),
        mass_without=np.maximum(mass_without, 0.0),
        before=before,
        cumulative=cumulative,
        cell_start=cell_start,
        number=number,
        demand=demand(),
        go_home=go_home,
        go_work=go_work,
        open_hours=opening_hours(),
        radius_km=float(radius),
    )


def category_names(city: City) -> np.ndarray:
    """Category name (P,) of each place."""
    return np.array(NAMES)[city.category]
