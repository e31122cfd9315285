"""Kinds of places: how many there are, when they are open, and when people want them.

Hour of the week runs from 0 (Monday 00:00-01:00 local time) to 167.
"""

import dataclasses

import numpy as np

HOURS_PER_WEEK = 168
Peaks = tuple[tuple[float, float, float], ...]  # (hour of day, width in hours, height)


@dataclasses.dataclass(frozen=True)
class Category:
    """One kind of place. `hours` are local opening hours; a closing hour above 24 runs into the next day."""

    name: str
    functional: bool
    share: float  # of all places
    hours: tuple[int, int]
    base: float = 0.0  # demand at any open hour
    weekday: Peaks = ()
    weekend: Peaks = ()
    trip: float = 1.0  # demand during or before a trip, relative to everyday life
    weekend_open: bool = True


# Homes, offices and hotels have no demand: people go to their own ones only, by routine.
CATEGORIES: tuple[Category, ...] = (
    Category("home", True, 0.11, (0, 24)),
    Category("office", True, 0.10, (7, 20), weekend_open=False),
    Category("hotel", True, 0.04, (0, 24)),
    Category("fuel", True, 0.05, (0, 24), 0.08, ((7.5, 1.0, 0.5), (18, 1.5, 0.5)), ((10, 2, 0.4),), 0.6),
    Category("transit", True, 0.07, (0, 24), 0.15, ((8, 1.0, 1.2), (18, 1.0, 1.0)), ((11, 3, 0.4),), 0.8),
    Category("supermarket", True, 0.07, (8, 22), 0.05, ((18.5, 1.2, 1.0),), ((11, 1.5, 1.2),), 0.2),
    Category(
        "restaurant", False, 0.16, (11, 23), 0.05, ((12.5, 0.8, 2.5), (19.5, 1.0, 2.0)), ((13, 1, 2), (19.5, 1.2, 3))
    ),
    Category(
        "cafe", False, 0.09, (7, 19), 0.08, ((8.5, 0.9, 1.6), (15.5, 1.0, 1.6)), ((10, 1.2, 1.8), (15.5, 1.2, 1.2))
    ),
    Category("bar", False, 0.06, (18, 26), 0.15, ((22, 1.2, 1.5),), ((23, 1.5, 3.0),)),
    Category("park", False, 0.05, (6, 21), 0.05, ((6.8, 0.8, 1.0), (17.5, 1.0, 0.5)), ((14, 2.0, 1.2),)),
    Category("museum", False, 0.03, (10, 18), 0.03, ((11, 1.0, 0.3),), ((14, 1.5, 1.0),), 3.0),
    Category("shop", False, 0.08, (10, 21), 0.08, ((17.5, 1.2, 1.2),), ((15.5, 1.5, 2.5),)),
    Category("cinema", False, 0.02, (13, 24), 0.03, ((20.5, 1.0, 0.8),), ((20.5, 1.5, 1.2),), 0.3),
    Category("gym", False, 0.04, (6, 23), 0.03, ((6.5, 0.8, 1.2), (20.5, 1.0, 1.0)), ((9.5, 1.0, 0.8),), 0.2),
    Category("sight", False, 0.03, (9, 19), 0.02, (), ((11, 1.5, 0.4),), 12.0),
)
NAMES = tuple(category.name for category in CATEGORIES)
FUNCTIONAL = np.array([category.functional for category in CATEGORIES])
HOME, OFFICE, HOTEL = (NAMES.index(name) for name in ("home", "office", "hotel"))


def _bumps(hours: np.ndarray, peaks: Peaks) -> np.ndarray:
    """Sum of Gaussian peaks on the 24-hour circle at the given hours of day."""
    total = np.zeros(len(hours))
    for centre, width, height in peaks:
        apart = np.abs((hours + 0.5 - centre + 12) % 24 - 12)
        total += height * np.exp(-0.5 * (apart / width) ** 2)
    return total


def opening_hours() -> np.ndarray:
    """Boolean (categories, 168): whether places of a category are open in that hour of the week."""
    hour, day = np.arange(HOURS_PER_WEEK) % 24, np.arange(HOURS_PER_WEEK) // 24
    rows = []
    for category in CATEGORIES:
        first, last = category.hours
        is_open = ((hour >= first) & (hour < last)) | (hour + 24 < last)
        rows.append(is_open & (category.weekend_open | (day < 5)))
    return np.array(rows)


def demand() -> np.ndarray:
    """Float (modes, categories, 168): wish for a category by mode and hour of the week, 0 where it is closed."""
    hour, day = np.arange(HOURS_PER_WEEK) % 24, np.arange(HOURS_PER_WEEK) // 24
    everyday = np.array(
        [
            np.where(
                day < 5, category.base + _bumps(hour, category.weekday), category.base + _bumps(hour, category.weekend)
            )
            for category in CATEGORIES
        ]
    )
    everyday = np.where(opening_hours(), everyday, 0.0)
    trip = everyday * np.array([category.trip for category in CATEGORIES])[:, None]
    return np.stack([everyday, trip, trip])


def routine() -> tuple[np.ndarray, np.ndarray]:
    """Float (168,) twice: probability of going home (in a trip: to the hotel) and of going to work, by hour of week."""
    hour, day = np.arange(HOURS_PER_WEEK) % 24, np.arange(HOURS_PER_WEEK) // 24
    home = 0.12 + _bumps(hour, ((18.5, 1.5, 0.33), (22.5, 2.0, 0.35), (2.0, 3.0, 0.4)))
    work = np.where(day < 5, _bumps(hour, ((8.5, 1.0, 0.6), (13.5, 1.0, 0.5))) + 0.1, 0.0)
    return home, np.where(opening_hours()[OFFICE], work, 0.0)


def rhythm() -> np.ndarray:
    """Float (168,): relative number of requests by hour of the week."""
    hour, day = np.arange(HOURS_PER_WEEK) % 24, np.arange(HOURS_PER_WEEK) // 24
    weekday = 0.06 + _bumps(hour, ((8.5, 1.3, 1.0), (12.8, 1.3, 1.0), (18.8, 2.2, 1.4)))
    weekend = 0.06 + _bumps(hour, ((11, 2.0, 0.9), (15, 2.5, 1.0), (20, 2.5, 1.3)))
    return np.where(day < 5, weekday, weekend)
