"""Which events of a log are to be predicted. Each protocol is one small function from an `EventLog` to `Targets`."""

from __future__ import annotations

from collections.abc import Callable

from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.instances import Targets
from spacetime_gr.evaluation.protocols.sthgcn import sthgcn
from spacetime_gr.evaluation.protocols.time_split import last_per_user, time_split
from spacetime_gr.evaluation.protocols.trajectory_end import getnext, lessismore

Protocol = Callable[[EventLog], Targets]

PUBLIC: dict[str, Protocol] = {"getnext": getnext, "lessismore": lessismore, "foursquare": sthgcn, "gowalla": sthgcn}
OWN: dict[str, Protocol] = {"time_split": time_split, "last_per_user": last_per_user}
PROTOCOLS = ("public", *OWN)


def choose(protocol: str, source: str) -> tuple[str, Protocol]:
    """Name and function of a protocol; `public` is chosen by the source of the prepared folder.

    Raises:
        ValueError: no such protocol, or the source has no public one.
    """
    if protocol in OWN:
        return protocol, OWN[protocol]
    if protocol != "public":
        raise ValueError(f"--protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    if source not in PUBLIC:
        raise ValueError(
            f"the folder was prepared from {source!r}, which has no public protocol (these have: {', '.join(PUBLIC)}); "
            "use --protocol time_split or last_per_user"
        )
    return PUBLIC[source].__name__, PUBLIC[source]


__all__ = ["OWN", "PROTOCOLS", "PUBLIC", "Protocol", "choose", "getnext", "last_per_user", "lessismore", "sthgcn"]
