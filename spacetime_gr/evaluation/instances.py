"""What is to be predicted, and from which events: the meeting point of protocols, counters and models."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spacetime_gr.evaluation.counts import expand_ranges
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.visits import NEVER, LastVisits

KNOWLEDGE = ("stream", "same")


@dataclass(frozen=True)
class Targets:
    """What a protocol decides: `index` (n,) int64 events of `log` to be predicted, and `training` (N,) bool, the
    events that a model may be trained on. `log` is the log under the protocol's own removals."""

    log: EventLog
    index: np.ndarray
    training: np.ndarray


@dataclass(frozen=True)
class Instances:
    """n targets and the history known before each, as two slices of the log of one user each.

    The history of instance i is the events start[i]..base_end[i]-1 and resume[i]..stop[i]-1. Under `stream` the two
    slices join (base_end == resume) and hold every strictly earlier event of the user. Under `same` the first is the
    user's part of the training events (training events of a user precede his others) and the second the earlier steps
    of the target's trajectory: what a frozen model that reads one trajectory is told.

    All arrays (n,) int64 in rising order of the target's time. `training` (N,) bool.
    """

    log: EventLog
    training: np.ndarray
    knowledge: str
    target: np.ndarray
    start: np.ndarray
    base_end: np.ndarray
    resume: np.ndarray
    stop: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: np.ndarray | slice) -> Instances:
        """The instances at `rows`."""
        names = ("target", "start", "base_end", "resume", "stop")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def sample(self, limit: int, rng: np.random.Generator) -> Instances:
        """At most so many of the instances, drawn by `rng`, in the order in which they stand here."""
        if len(self) <= limit:
            return self
        return self.take(np.sort(rng.choice(len(self), limit, replace=False)))

    @property
    def target_poi(self) -> np.ndarray:
        """(n,) int64 place to be predicted."""
        return self.log.poi_row[self.target]

    @property
    def target_time(self) -> np.ndarray:
        """(n,) int64 Unix seconds of the target."""
        return self.log.timestamp[self.target]

    @property
    def history_lengths(self) -> np.ndarray:
        """(n,) int64 number of history events."""
        return (self.base_end - self.start) + (self.stop - self.resume)

    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """Event indices of all histories, in time order, concatenated, and their (n + 1,) offsets."""
        firsts = np.stack([self.start, self.resume], axis=1).ravel()
        ends = np.stack([self.base_end, self.stop], axis=1).ravel()
        events, offsets = expand_ranges(firsts, ends)
        return events, offsets[::2]

    def trajectory_steps(self) -> tuple[np.ndarray, np.ndarray]:
        """Event indices of the known earlier steps of each target's own trajectory, and their (n + 1,) offsets."""
        first, _ = self.log.trajectory_bounds()
        return expand_ranges(np.minimum(np.maximum(first[self.target], self.start), self.stop), self.stop)

    def is_discovery(self) -> np.ndarray:
        """(n,) bool: the user has no strictly earlier event at the target's place, in anything recorded.

        Judged on the whole stream under either state of knowledge, so that the slices hold the same targets.
        """
        return LastVisits(self.log).age(self.log.user[self.target], self.target_poi, self.target_time) == NEVER

    def visited(self) -> tuple[np.ndarray, np.ndarray]:
        """Instance and place, each pair once, where the user was strictly before the target, on record or known."""
        events, offsets = expand_ranges(self.start, self.target)
        row = np.repeat(np.arange(len(self)), np.diff(offsets))
        earlier = self.log.timestamp[events] < self.target_time[row]
        pair = np.unique(row[earlier] * np.int64(self.log.num_pois) + self.log.poi_row[events[earlier]])
        return pair // self.log.num_pois, pair % self.log.num_pois

    def last_event(self) -> np.ndarray:
        """(n,) int64 last known event before each target, -1 where nothing is known."""
        # The second slice may be empty: then the last event is that of the first.
        last = np.where(self.stop > self.resume, self.stop, self.base_end) - 1
        return np.where(self.history_lengths > 0, last, -1)

    def last_place(self) -> np.ndarray:
        """(n,) int64 place of the last known event before each target, -1 where nothing is known."""
        last = self.last_event()
        return np.where(last >= 0, self.log.poi_row[last], -1)


def build_instances(targets: Targets, knowledge: str = "stream") -> Instances:
    """Give each target its history.

    Under `stream` an event of the target's own second is not known (the published counters take strictly earlier
    events); under `same` every earlier step of the trajectory is, in the order of the log.

    Raises:
        ValueError: unknown state of knowledge, or no target is left.
    """
    if knowledge not in KNOWLEDGE:
        raise ValueError(f"--knowledge is {knowledge!r}, expected one of {', '.join(KNOWLEDGE)}")
    log = targets.log
    if (targets.training[1:] & ~targets.training[:-1] & (np.diff(log.user) == 0)).any():
        raise ValueError(
            "a user has training events after held-out ones; expected a split in time: prepare the source again with a "
            "split by time"
        )
    if len(targets.index) == 0:
        raise ValueError(
            f"the protocol leaves no target among {len(log)} events ({int((~targets.training).sum())} outside "
            "training): the held-out part holds no place and user seen in training; check the split of the folder"
        )
    index = targets.index[np.argsort(log.timestamp[targets.index], kind="stable")]
    start = log.user_offsets[log.user[index]]
    first_of_trajectory = log.trajectory_bounds()[0][index]
    if knowledge == "stream":
        # First event of the user in the target's second: rank of (user, time) in the sorted log.
        second = np.ones(len(log), bool)
        second[1:] = (np.diff(log.user) != 0) | (np.diff(log.timestamp) != 0)
        stop = np.flatnonzero(second)[np.cumsum(second)[index] - 1]
        base_end = resume = np.minimum(first_of_trajectory, stop)
    else:
        num_training = np.concatenate([[0], np.cumsum(targets.training)])
        base_end = start + num_training[index] - num_training[start]
        # A trajectory that began in training is in the first slice already.
        resume = np.maximum(first_of_trajectory, base_end)
        stop = index
    return Instances(
        log=log,
        training=targets.training,
        knowledge=knowledge,
        target=index,
        start=start,
        base_end=base_end,
        resume=resume,
        stop=stop,
    )
