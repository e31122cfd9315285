"""Settings of the simulated city, and its named sources of randomness."""

import dataclasses
import datetime
import zlib

import numpy as np

# Users of one chunk are simulated in lockstep and share one random stream, so this number is part of the data's
# definition: it is a constant, not a memory setting.
USERS_PER_CHUNK = 2048

MODES = ("local", "pre_trip", "in_trip")
LOCAL, PRE_TRIP, IN_TRIP = range(3)
ACTIONS = ("click", "navigate", "ride")

_MIN_POIS = 60


@dataclasses.dataclass(frozen=True)
class CitySettings:
    """What defines a simulated city; the same settings and seed give the same bytes.

    Raises:
        ValueError: a setting is out of range; the message names it and what to change.
    """

    num_users: int = 400
    num_pois: int = 600
    num_events: int = 50_000
    seed: int = 0
    num_districts: int | None = None  # None: round(sqrt(num_pois / 4)), at least 4
    num_days: int = 90
    start: str = "2024-01-01"  # first local day, YYYY-MM-DD
    tz_offset_minutes: int = 480
    latitude: float = 31.23  # of the city centre, degrees
    longitude: float = 121.47
    district_spread_km: float = 0.8  # standard deviation of a district's places around its centre
    district_spacing_km: float = 5.0
    decay_km: float = 1.6  # exploration falls by e over this distance
    return_decay_km: float = 6.0  # the same for returns: people travel further for places they know
    zipf_exponent: float = 1.1
    explore_local: float = 0.6  # rho of Song et al. (2010)
    explore_trip: float = 0.9
    explore_gamma: float = 0.21  # gamma of Song et al. (2010)
    taste_sigma: float = 0.3  # log-normal spread of a person's liking of each category
    activity_sigma: float = 0.4  # log-normal spread of the number of events per person
    trip_every_days: int = 30
    trip_days: int = 4
    trip_share: float = 0.8  # probability that a person travels in one cycle of trip_every_days
    max_truth_events: int = 20_000

    def __post_init__(self) -> None:
        _at_least("num_users", self.num_users, 1)
        _at_least("num_pois", self.num_pois, _MIN_POIS, "every category needs a few places")
        _at_least("num_events", self.num_events, self.num_users, "every user has at least one event")
        _at_least("seed", self.seed, 0)
        _at_least("num_days", self.num_days, 1)
        _at_least("max_truth_events", self.max_truth_events, 1)
        _at_least("trip_days", self.trip_days, 0)
        _at_least(
            "trip_every_days", self.trip_every_days, 2 * self.trip_days + 1, "a trip and its preparation must fit"
        )
        if self.num_districts is not None:
            _at_least("num_districts", self.num_districts, 2, "a trip goes to another district")
        positive = ("district_spread_km", "district_spacing_km", "decay_km", "return_decay_km", "zipf_exponent")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("taste_sigma", "activity_sigma", "explore_gamma"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("explore_local", "explore_trip", "trip_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability: expected 0 to 1, got {getattr(self, name)}")
        if abs(self.latitude) > 70 or abs(self.longitude) > 179:
            raise ValueError(
                f"the city centre must lie within latitude -70..70 and longitude -179..179, "
                f"got {self.latitude}, {self.longitude}"
            )
        if abs(self.tz_offset_minutes) > 14 * 60:
            raise ValueError(f"tz_offset_minutes must lie within -840..840, got {self.tz_offset_minutes}")
        try:
            datetime.date.fromisoformat(self.start)
        except ValueError as error:
            raise ValueError(f"start must be a date YYYY-MM-DD, got {self.start!r}") from error

    @property
    def districts(self) -> int:
        """Number of districts, so that neither districts nor places per district grow faster than sqrt(num_pois)."""
        return self.num_districts if self.num_districts is not None else max(4, round((self.num_pois / 4) ** 0.5))

    @property
    def start_local(self) -> int:
        """Local midnight of the first day, in seconds of a clock that shows local time (UTC + offset)."""
        days = datetime.date.fromisoformat(self.start) - datetime.date(1970, 1, 1)
        return days.days * 86_400


def named_rng(seed: int, name: str, chunk: int = 0) -> np.random.Generator:
    """The random stream called `name` of one chunk of users: independent of every other name and chunk."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode()), chunk]))


def _at_least(name: str, value: int, minimum: int, why: str = "") -> None:
    if value < minimum:
        reason = f" ({why})" if why else ""
        raise ValueError(f"{name} must be at least {minimum}{reason}, got {value}")
