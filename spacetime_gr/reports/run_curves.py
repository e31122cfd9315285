"""The curves of a training run, from the lines of its metrics.jsonl."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.reports import charts
from spacetime_gr.reports.charts import Axis, Series, percent
from spacetime_gr.reports.page import section, side_by_side
from spacetime_gr.reports.run_files import Record, RunFiles

_MAX_POINTS = 300  # more than the picture can show; longer runs are averaged
_TOKENS = Axis("tokens seen", charts.number)
_LOSSES = {"loss": "all", "loss_block": "block", "loss_inner": "inner id", "loss_action": "action"}


def curves_sections(run: RunFiles) -> list[str]:
    """Panels of the loss, of the schedule and of the speed; one that says so where nothing was logged."""
    if not run.records:
        return [section("Training", "No line of metrics was found in metrics.jsonl: no curves.", "", "warn")]
    marks = [
        (float(record["tokens"]), f"resumed from the checkpoint of step {record['resumed_from']:,}")
        for record in run.records
        if isinstance(record.get("resumed_from"), int)
    ]

    def panel(title: str, text: str, names: dict[str, str], axis: Axis, from_zero: bool = True) -> str:
        return _panel(run.records, marks, title, text, names, axis, from_zero)

    loss = Axis("nats per supervised token", lambda value: f"{value:.3g}")
    share = Axis("share", percent)
    return [
        *_notes(run, len(marks)),
        side_by_side(
            panel(
                "Training loss",
                "Mean cross-entropy between two lines of metrics, over all supervised tokens and by token type.",
                _LOSSES,
                loss,
                False,
            ),
            panel(
                "Held-out loss",
                "The same on held-out rows, each time the same ones. Held-out loss that rises while training loss "
                "falls is overfitting.",
                {f"eval_{name}": text for name, text in _LOSSES.items()},
                loss,
                False,
            ),
        ),
        side_by_side(
            panel(
                "Learning rate", "As the schedule set it.", {"lr": ""}, _in_powers("learning rate", run.records, "lr")
            ),
            panel(
                "Gradient norm",
                "Before clipping. Spikes that come back as loss are a learning rate too high.",
                {"grad_norm": ""},
                Axis("norm", lambda value: f"{value:.3g}"),
            ),
        ),
        side_by_side(
            panel(
                "Speed",
                "Tokens per second, all devices together.",
                {"tokens_per_second": ""},
                Axis("tokens per second"),
            ),
            panel(
                "Waiting for data, and multi-mode rows",
                "Share of the time that was spent waiting for the stream: above a few percent, raise data.num_workers. "
                "Share of rows that mix modes: what the curriculum says, 1 without one.",
                {"data_wait_share": "waiting", "multi_mode_share": "multi-mode rows"},
                share,
            ),
        ),
    ]


def _notes(run: RunFiles, num_resumes: int) -> list[str]:
    notes = []
    if run.unread:
        cut = "it" if len(run.unread) == 1 else "they"
        notes.append(
            f"{len(run.unread)} of {len(run.records) + len(run.unread)} lines of metrics.jsonl cannot be read (the "
            f"first is line {run.unread[0]}); {cut} were left out. A killed run cuts its last line short; any other "
            "is damage."
        )
    if num_resumes:
        times = "once" if num_resumes == 1 else f"{num_resumes} times"
        notes.append(f"The run was resumed {times}: dashed upright lines in the curves.")
    if len(run.records) > _MAX_POINTS:
        notes.append(f"{len(run.records):,} lines of metrics are drawn as means of neighbouring ones.")
    return [section("About the curves", " ".join(notes), "", "warn" if run.unread else "")] if notes else []


def _panel(
    records: Sequence[Record],
    marks: Sequence[tuple[float, str]],
    title: str,
    text: str,
    names: dict[str, str],
    axis: Axis,
    from_zero: bool,
) -> str:
    series = [one for name, said in names.items() if (one := _series(records, name, said)) is not None]
    if not series:
        wanted = " or ".join(names)
        return section(title, f"Not measured: no line of metrics has {wanted}.", "")
    top = max(float(np.max(one.y)) for one in series)
    chart = charts.lines(
        series,
        _TOKENS,
        axis,
        x_range=(0.0, float(records[-1]["tokens"])),
        y_range=(0.0, top or 1.0) if from_zero else None,
        marks=marks,
    )
    return section(title, text, chart)


def _series(records: Sequence[Record], name: str, said: str) -> Series | None:
    """A metric against the tokens, means of neighbouring lines where there are many; None where no line has it."""
    found = [(record["tokens"], record[name]) for record in records if _is_number(record.get(name))]
    if not found:
        return None
    tokens, values = np.array(found, float).T
    if name.endswith("loss_action") and not values.any():
        return None  # one action type: nothing to predict
    return Series(said, _thin(values), _thin(tokens))


def _thin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(values) <= _MAX_POINTS:
        return values
    edges = np.linspace(0, len(values), _MAX_POINTS + 1).astype(np.int64)
    return np.asarray(np.add.reduceat(values, edges[:-1]) / np.diff(edges))


def _in_powers(title: str, records: Sequence[Record], name: str) -> Axis:
    """An axis of small numbers in units of a power of ten, which the title tells."""
    top = max((record[name] for record in records if _is_number(record.get(name)) and record[name] > 0), default=1.0)
    power = math.floor(math.log10(top))
    return Axis(f"{title}, in 1e{power}", lambda value: f"{value / 10.0**power:.3g}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
