"""The best any model can do: metrics of the true next-POI distribution on held-out events."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_pipelines.simulator.categories import FUNCTIONAL
from data_pipelines.simulator.choice import Requests, mixture, probabilities
from data_pipelines.simulator.city import City
from data_pipelines.simulator.people import Calendar, People
from data_pipelines.simulator.settings import LOCAL, CitySettings
from data_pipelines.simulator.walk import Walk

CUTOFFS = (1, 5, 10, 20)
_BATCH_BYTES = 32 << 20


@dataclasses.dataclass
class Tally:
    """Per-event values of one candidate set; `events` maps a name to arrays (E,), collected batch by batch."""

    events: dict[str, list[np.ndarray]] = dataclasses.field(default_factory=dict)

    def add(self, **values: np.ndarray) -> None:
        for name, value in values.items():
            self.events.setdefault(name, []).append(value)

    def column(self, name: str) -> np.ndarray:
        return np.concatenate(self.events[name]) if name in self.events else np.empty(0)


def measure(tally: Tally, p: np.ndarray, target: np.ndarray, candidates: np.ndarray, **extra: np.ndarray) -> None:
    """Add the events whose target is a candidate, with the truth conditioned on 'the target is a candidate'.

    Args:
        p: (B, P) true distributions.
        target: (B,) places drawn.
        candidates: (P,) bool.
        extra: further (B,) arrays to keep for the same events.
    """
    rows = np.flatnonzero(candidates[target])
    if not len(rows):
        return
    p_target = p[rows, target[rows]]
    q = p[rows][:, candidates]
    total = q.sum(axis=1)
    # Ties at their expectation: rank = #greater + (#equal + 1) / 2.
    greater, equal = (q > p_target[:, None]).sum(axis=1), (q == p_target[:, None]).sum(axis=1)
    q /= total[:, None]
    entropy = -(q * np.log(q, out=np.zeros_like(q), where=q > 0)).sum(axis=1)
    q.sort(axis=1)
    best = q[:, ::-1]
    tally.add(
        p_target=p_target / total,
        rank=greater + (equal + 1) / 2,
        entropy=entropy,
        reciprocal=(best / np.arange(1, best.shape[1] + 1)).sum(axis=1),
        **{f"top{k}": best[:, :k].sum(axis=1) for k in CUTOFFS},
        **{name: value[rows] for name, value in extra.items()},
    )


def summary(tally: Tally) -> dict[str, object]:
    """Means over the tallied events.

    `hr@k` and `mrr` are expected values under the true distribution (its k most probable places, its own order);
    `realised` is what that same ranking scored on the events that were drawn.
    """
    num_events = len(tally.column("rank"))
    if not num_events:
        return {"num_events": 0}
    result: dict[str, object] = {f"hr@{k}": _mean(tally.column(f"top{k}")) for k in CUTOFFS}
    return {
        **result,
        "mrr": _mean(tally.column("reciprocal")),
        "entropy_nats": _mean(tally.column("entropy")),
        "nll_nats": _mean(-np.log(tally.column("p_target"))),
        "num_events": num_events,
        "realised": realised(tally.column("rank")),
    }


def realised(rank: np.ndarray) -> dict[str, float | int]:
    """Hit rates and mean reciprocal rank of ranks (E,) that start at 1."""
    if not len(rank):
        return {"num_events": 0}
    hits: dict[str, float | int] = {f"hr@{k}": _mean(rank <= k) for k in CUTOFFS}
    return {**hits, "mrr": _mean(1.0 / rank), "num_events": len(rank)}


def true_distributions(
    settings: CitySettings, city: City, people: People, calendar: Calendar, events: Walk, wanted: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (event numbers (B,), p (B, P), returned (B,) bool) for the wanted events of a chunk, in bounded batches.

    `returned` says that the person had been at (or looked at) the chosen place before.
    """
    user_of = np.repeat(np.arange(len(people.home)), np.diff(calendar.offsets))
    longest = int(np.diff(calendar.offsets).max())
    batch = max(1, _BATCH_BYTES // (8 * max(city.num_pois, longest)))
    for start in range(0, len(wanted), batch):
        event = wanted[start : start + batch]
        user = user_of[event]
        first = calendar.offsets[user]
        earlier = first[:, None] + np.arange(int((event - first).max()))
        exists = earlier < event[:, None]
        earlier = np.minimum(earlier, len(events.poi) - 1)
        past = np.where(exists, events.poi[earlier], -1)
        requests = Requests(
            hour=calendar.hour[event],
            mode=calendar.mode[event],
            current=events.current[event],
            home=people.home[user],
            work=people.work[user],
            hotel=people.hotel[user],
            taste=people.taste[user],
            past=past,
            past_away=exists & (calendar.mode[earlier] != LOCAL),
            num_known=events.num_known[event],
        )
        p = probabilities(city, mixture(settings, city, requests))
        yield event, p, (past == events.poi[event][:, None]).any(axis=1)


def candidate_sets(city: City, in_training: np.ndarray) -> dict[str, np.ndarray]:
    """Candidates (P,) bool of each section of truth.json."""
    return {
        "known": in_training,
        "interest": in_training & ~FUNCTIONAL[city.category],
        "all": np.ones(city.num_pois, dtype=bool),
    }


def _mean(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 6)
