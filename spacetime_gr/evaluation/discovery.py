"""The discovery rate D(k, m), in both normalisations, for any set of k and m at once.

A place is new to a user at a request if he was not there in the m days before, strictly earlier than the request. Over
n requests with lists of k places each:

    D_slots(k, m) = (slots of the lists that hold a place new to the user) / (n k)
    D_hits(k, m)  = (targets hit at k that were new to the user) / (targets hit at k)

The origin does not state its normalisation, so both are given: the first says what people are shown, the second what
of that was right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spacetime_gr.evaluation.visits import is_new


def discovery_grid(
    rank: np.ndarray, list_age: np.ndarray, target_age: np.ndarray, ks: Sequence[int], days: Sequence[float]
) -> dict[str, Any]:
    """D(k, m) for every k and m, beside the HR@k.

    Args:
        rank: (n,) of the targets.
        list_age: (n, at least max(ks)) seconds since the user was at each recommended place, from `LastVisits.age`.
        target_age: (n,) the same of the targets.

    Returns:
        `hr`, one value per k; `slots` and `hits`, one row per k and one column per m. `hits` is None where nothing is
        hit.
    """
    new_targets = [is_new(target_age, m) for m in days]
    # Share of new slots in the first 1, 2, ... places of a list, over all lists.
    new_slots = [np.cumsum(is_new(list_age, m).mean(axis=0)) for m in days]
    hits = [rank <= k for k in ks]
    return {
        "hr": [float(hit.mean()) for hit in hits],
        "slots": [[float(new[k - 1] / k) for new in new_slots] for k in ks],
        "hits": [[float(new[hit].mean()) if hit.any() else None for new in new_targets] for hit in hits],
    }
