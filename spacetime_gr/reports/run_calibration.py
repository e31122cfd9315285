"""Whether the model's probabilities can be taken at their word: reliability diagrams over held-out targets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.reports import charts
from spacetime_gr.reports.charts import Axis, Series, percent
from spacetime_gr.reports.page import section, side_by_side
from spacetime_gr.reports.run_targets import Answers

_NUM_BINS = 10
Z_95 = 1.959964  # standard normal quantile of 97.5 %


def calibration_section(answers: Answers, discovery: NDArray[np.bool_], source: str) -> str:
    """Two diagrams: of the first place's probability, and of the probability of a place that is new to the person.

    Args:
        answers: of n targets.
        discovery: which of them are discoveries, (n,).
        source: what the targets are, for the text.
    """
    first, hit = answers.probs[:, 0], answers.rank == 1
    return side_by_side(
        _diagram(
            "Calibration of the first place",
            f"Of the times that the model gave its first place a probability of p, how often was that the next place? "
            f"Over {source}. Points below the dashed diagonal: too sure of itself.",
            first,
            hit,
            "probability of the first place",
            "share of hits at 1",
        ),
        _diagram(
            "Calibration of new places",
            "The probability that the model gives to all places together where the person has never been, against the "
            "share of targets that were such discoveries.",
            answers.new,
            discovery,
            "probability of a new place",
            "share of discoveries",
        ),
    )


def _diagram(
    title: str, text: str, probs: NDArray[np.float64], outcome: NDArray[np.bool_], x_title: str, y_title: str
) -> str:
    bins = reliability(probs, outcome)
    used = bins.counts > 0
    pairs = zip(bins.hits[used].tolist(), bins.counts[used].tolist(), strict=True)
    measured = Series(
        "measured, with 95 % intervals",
        bins.shares[used],
        bins.means[used],
        intervals=[wilson(hits, count) for hits, count in pairs],
    )
    ticks = [(at, percent(at)) for at in (0.0, 0.25, 0.5, 0.75, 1.0)]
    diagram = charts.lines(
        [measured, Series("perfect", [0.0, 1.0], [0.0, 1.0])],
        Axis(x_title, percent),
        Axis(y_title, percent),
        ticks,
        y_range=(0.0, 1.0),
    )
    names = [f"{i / _NUM_BINS:.0%} to {(i + 1) / _NUM_BINS:.0%}" for i in range(_NUM_BINS)]
    counts = charts.bars(
        [Series("targets", bins.counts)],
        names,
        Axis(x_title),
        Axis("targets"),
        [(i, f"{i / _NUM_BINS:.0%}") for i in range(0, _NUM_BINS + 1, 2)],
    )
    told = (
        f" Mean probability {percent(float(probs.mean()))}, share {percent(float(outcome.mean()))}, expected "
        f"calibration error {percent(bins.error)}."
    )
    return section(title, text + told, diagram + counts)


@dataclass(frozen=True)
class Reliability:
    """Outcomes by predicted probability, in ten bins of equal width.

    counts, hits, means, shares: (10,) number of targets, of positive outcomes, mean probability and share of positive
    outcomes (0 in empty bins). error: expected calibration error, the mean of |share - mean| over targets (Naeini et
    al. 2015).
    """

    counts: NDArray[np.int64]
    hits: NDArray[np.float64]
    means: NDArray[np.float64]
    shares: NDArray[np.float64]
    error: float


def reliability(probs: NDArray[np.float64], outcome: NDArray[np.bool_]) -> Reliability:
    """How often what was predicted with probabilities (n,) came true (n,)."""
    number = np.minimum((probs * _NUM_BINS).astype(np.int64), _NUM_BINS - 1)
    counts = np.bincount(number, minlength=_NUM_BINS)
    hits = np.bincount(number, weights=outcome, minlength=_NUM_BINS).astype(np.float64)
    some = np.maximum(counts, 1)
    means, shares = np.bincount(number, weights=probs, minlength=_NUM_BINS) / some, hits / some
    error = float((np.abs(shares - means) * counts).sum() / max(1, len(probs)))
    return Reliability(counts, hits, means, shares, error)


def wilson(hits: float, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927): of `hits` in `count` > 0 independent trials."""
    share, z2 = hits / count, Z_95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * float(np.sqrt(share * (1 - share) / count + z2 / (4 * count * count)))
    return max(0.0, middle - half), min(1.0, middle + half)
