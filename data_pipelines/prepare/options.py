"""Settings of a run of prepare."""

import datetime
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_type_hints


@dataclass(frozen=True)
class PrepareOptions:
    """What decides the content of a prepared folder, beside its input.

    Attributes:
        train_fraction: share of events, in global time order, that train; used if the source states no split.
        validation_fraction: share of events that validate; the rest tests.
        split: "time" cuts by global time; "leave-last-out" tests each user's last event, validates the one before
            it and trains on the rest; used if the source states no split.
        min_poi_visits: a POI with fewer training visits leaves the catalogue; its training events are dropped, and
            later ones are events at an unknown POI. 1 keeps all.
        min_user_events: a user with fewer training events, after the POI rule, is left out of all parts. 0 keeps all.
        catalogue: "train" lists the POIs that training visits; "all" adds the rest of the source's POI table.
        duplicates: "drop" quarantines exact repetitions of user, POI, action and time; "keep" keeps them; "auto" keeps
            them in published splits (getnext, lessismore) and drops them elsewhere.
        latest_time: unix seconds after which an event lies in the future; None is the time of the run.
        users_per_row_group: users in a row group of a shard; None chooses from 8 to 128 by the number of users.
        actions_per_row_group: actions in a row group, or one user who alone has more.
        actions_per_file: actions in a shard file, or one small range of user hashes that alone holds more.
        memory_limit: memory of the engine, such as "8GB"; beyond it, the engine spills to disk. None is its default.

    Raises:
        ValueError: if a setting is out of its range.
    """

    train_fraction: float = 0.8
    validation_fraction: float = 0.1
    split: Literal["time", "leave-last-out"] = "time"
    min_poi_visits: int = 1
    min_user_events: int = 0
    catalogue: Literal["train", "all"] = "train"
    duplicates: Literal["auto", "drop", "keep"] = "auto"
    latest_time: int | None = None
    users_per_row_group: int | None = None
    actions_per_row_group: int = 50_000
    actions_per_file: int = 2_000_000
    memory_limit: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"train_fraction is {self.train_fraction}: expected above 0 and at most 1, such as 0.8")
        if self.validation_fraction < 0 or self.train_fraction + self.validation_fraction > 1 + 1e-9:
            raise ValueError(
                f"train_fraction {self.train_fraction} + validation_fraction {self.validation_fraction} must stay "
                "within 1, and the latter must not be negative; lower one of them"
            )
        bounds = {"min_poi_visits": 1, "min_user_events": 0, "actions_per_row_group": 1, "actions_per_file": 1}
        for name, least in bounds.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least {least}")
        if self.users_per_row_group is not None and self.users_per_row_group < 1:
            raise ValueError(f"users_per_row_group is {self.users_per_row_group}: expected at least 1")
        for name in ("split", "catalogue", "duplicates"):
            choices = get_args(get_type_hints(type(self))[name])
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(choices)}")

    def content_settings(self) -> dict[str, Any]:
        """The settings that change what is written; how much memory was allowed does not."""
        settings = asdict(self)
        del settings["memory_limit"]
        return settings

    def latest(self) -> int:
        """Unix seconds after which an event lies in the future."""
        if self.latest_time is not None:
            return self.latest_time
        return int(datetime.datetime.now(datetime.UTC).timestamp())
