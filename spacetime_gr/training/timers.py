"""Where the wall time of this process goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Timers:
    """Seconds by activity since the process started to train: `train` and `data` (waiting for rows) of the steps, and
    what each callback counts as."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, activity: str, seconds: float) -> None:
        self.seconds[activity] += seconds

    @contextmanager
    def measure(self, activity: str) -> Iterator[None]:
        """Adds the time inside, also when it ends in an exception."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(activity, time.perf_counter() - started)
