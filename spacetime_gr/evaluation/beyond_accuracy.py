"""What accuracy does not see: how much of the catalogue is shown, whose categories, and how far away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from spacetime_gr.evaluation.catalogue import Catalogue
from spacetime_gr.evaluation.instances import Instances

# Steck (2018): the recommended distribution is mixed with so much of the history's, so that the divergence is finite.
SMOOTHING = 0.01
_CELLS_PER_CHUNK = 1 << 22


def beyond_accuracy(
    instances: Instances, lists: Mapping[str, np.ndarray], ranks: Mapping[str, np.ndarray], catalogue: Catalogue | None
) -> dict[str, dict[str, float | None]]:
    """Coverage, calibration and distances of each system's lists.

    Args:
        lists: (n, k) recommended places by system.
        ranks: (n,) of the targets by system.
        catalogue: None gives the coverage only.

    Returns:
        By system: `coverage`, the share of all places that is in some list; `calibration_kl` and `calibration_js`, see
        `calibration`; `recommended_km` and `hit_km`, the median distance from the user's last known place of the
        recommended places, and of the targets that are hit. None where the source does not tell.
    """
    result: dict[str, dict[str, float | None]] = {}
    divergences = calibration(instances, lists, catalogue) if catalogue is not None else {}
    last = instances.last_place()
    for name, places in lists.items():
        result[name] = {
            "coverage": len(np.unique(places)) / instances.log.num_pois,
            "calibration_kl": None,
            "calibration_js": None,
            "recommended_km": None,
            "hit_km": None,
        } | divergences.get(name, {})
        if catalogue is not None:
            hit = ranks[name] <= places.shape[1]
            result[name]["recommended_km"] = _median(catalogue.distance_km(last[:, None], places))
            result[name]["hit_km"] = _median(catalogue.distance_km(last[hit], instances.target_poi[hit]))
    return result


def calibration(
    instances: Instances, lists: Mapping[str, np.ndarray], catalogue: Catalogue
) -> dict[str, dict[str, float | None]]:
    """Mean divergence between the categories of a user's history and those of the list made for him, in nats.

    Steck, 'Calibrated recommendations' (RecSys 2018), with equal weights. p is the distribution of categories over the
    known history, q over the list, both over places of known category:

        KL = sum_c p(c) log(p(c) / q'(c)),  q' = (1 - a) q + a p,  a = 0.01
        JS = (sum_c p(c) log(p(c) / h(c)) + sum_c q(c) log(q(c) / h(c))) / 2,  h = (p + q) / 2

    0 is perfectly calibrated; JS is at most log 2. Requests without a known category in history or list are left out.
    """
    if catalogue.category is None:
        return {}
    sums = {name: np.zeros(3) for name in lists}  # KL, JS, number of requests
    for rows in _chunks(len(instances), len(catalogue.categories)):
        chunk = instances.take(rows)
        events, offsets = chunk.history()
        row = np.repeat(np.arange(len(chunk)), np.diff(offsets))
        history, known = _shares(row, catalogue.category[chunk.log.poi_row[events]], len(chunk), catalogue)
        for name, places in lists.items():
            listed = catalogue.category[places[rows]]
            row = np.repeat(np.arange(len(chunk)), listed.shape[1])
            shown, any_shown = _shares(row, listed.ravel(), len(chunk), catalogue)
            use = known & any_shown
            p, q = history[use], shown[use]
            middle = (p + q) / 2
            js = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
            kl = _relative_entropy(p, (1 - SMOOTHING) * q + SMOOTHING * p)
            sums[name] += [kl.sum(), js.sum(), use.sum()]
    return {
        name: {
            "calibration_kl": float(kl / count) if count else None,
            "calibration_js": float(js / count) if count else None,
        }
        for name, (kl, js, count) in sums.items()
    }


def _shares(row: np.ndarray, category: np.ndarray, count: int, catalogue: Catalogue) -> tuple[np.ndarray, np.ndarray]:
    """Distribution of the known categories of each row (count, categories), and which rows have any."""
    size, known = len(catalogue.categories), category >= 0
    counts = np.bincount(row[known] * size + category[known], minlength=count * size).reshape(count, size)
    total = counts.sum(axis=1)
    return counts / np.maximum(total, 1)[:, None], total > 0


def _relative_entropy(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """sum_c p(c) log(p(c) / q(c)) of each row; q is positive where p is."""
    positive = p > 0
    return np.where(positive, p * np.log(np.where(positive, p, 1) / np.where(positive, q, 1)), 0).sum(axis=1)


def _median(km: np.ndarray) -> float | None:
    km = km[~np.isnan(km)]
    return float(np.median(km)) if km.size else None


def _chunks(count: int, width: int) -> Iterator[slice]:
    size = max(1, _CELLS_PER_CHUNK // max(width, 1))
    for start in range(0, count, size):
        yield slice(start, start + size)
