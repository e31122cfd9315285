"""The ceiling: what the true distribution of a simulated source reaches on its held-out part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder

# The truth is measured on all held-out events, so only this protocol asks the same question.
CEILING_PROTOCOL = "time_split"


def find_truth(folder: PreparedFolder, given: Path | None, protocol: str) -> dict[str, Any] | None:
    """The content of `given`, else of the prepared folder's own truth.json, else None.

    Raises:
        ValueError: `given` with a protocol whose targets are others than the truth's, or a file that is not a truth.
    """
    if protocol != CEILING_PROTOCOL:
        if given is None:
            return None
        raise ValueError(
            f"--truth is measured on all held-out events: a ceiling for --protocol {CEILING_PROTOCOL}, not for "
            f"{protocol}; change the protocol or leave --truth out"
        )
    path = given or folder.path / "truth.json"
    if given is None and not path.is_file():
        return None
    try:
        truth = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not readable JSON ({error}); expected truth.json of a simulated source") from error
    if not isinstance(truth, dict) or "hr@10" not in truth or "entropy_nats" not in truth:
        raise ValueError(f'{path} lacks "hr@10" or "entropy_nats"; expected truth.json of a simulated source')
    return {name: truth[name] for name in sorted(truth) if name in _KEPT}


_KEPT = frozenset(
    {"hr@1", "hr@5", "hr@10", "hr@20", "mrr", "entropy_nats", "nll_nats", "num_events", "realised", "slices"}
)
