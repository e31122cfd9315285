"""Which events of a log are to be predicted. Each protocol is one small function from an `EventLog` to `Targets`."""

from __future__ import annotations

from collections.abc import Callable

from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.instances import Targets
from spacetime_gr.evaluation.protocols.last_per_user import last_per_user
from spacetime_gr.evaluation.protocols.sthgcn import sthgcn
from spacetime_gr.evaluation.protocols.time_split import time_split
from spacetime_gr.evaluation.protocols.trajectory_end import getnext, lessismore

Protocol = Callable[[EventLog], Targets]

BY_NAME: dict[str, Protocol] = {
    "getnext": getnext,
    "lessismore": lessismore,
    "sthgcn": sthgcn,
    "time_split": time_split,
    "last_per_user": last_per_user,
}
PUBLIC_OF_SOURCE = {"getnext": "getnext", "lessismore": "lessismore"}
PROTOCOLS = ("public", *BY_NAME)


def choose(protocol: str, source: str) -> str:
    """Name of a protocol; `public` is chosen by the source of the prepared folder.

    Raises:
        ValueError: no such protocol, or the source has no public one.
    """
    if protocol in BY_NAME:
        return protocol
    if protocol != "public":
        raise ValueError(f"--protocol is {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
    if source not in PUBLIC_OF_SOURCE:
        raise ValueError(
            f"the folder was prepared from {source!r}, which has no ready public split (these have: "
            f"{', '.join(PUBLIC_OF_SOURCE)}); use --protocol time_split or last_per_user"
        )
    return PUBLIC_OF_SOURCE[source]


__all__ = [
    "BY_NAME",
    "PROTOCOLS",
    "Protocol",
    "choose",
    "getnext",
    "last_per_user",
    "lessismore",
    "sthgcn",
    "time_split",
]
