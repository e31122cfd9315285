"""`spacetime-gr curriculum`: what a configuration will feed the model, before anything is trained."""

import math
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from spacetime_gr.training.config import PretrainConfig

_LINES = 10
_POINTS = 400  # steps looked at in a line of the table, and in the picture


def curriculum(
    config: Annotated[
        list[Path],
        typer.Option(help="Configuration of a run, see configs/pretrain/; given again, a file laid over those before."),
    ],
    plot: Annotated[Path | None, typer.Option(help="Picture to write (.png, .svg or .pdf).")] = None,
    num_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Steps to look at.", show_default="the run's limit in steps or tokens"),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, laid over the file.")] = None,
) -> None:
    """Draw the curriculum and the weights of the corpora that a configuration sets, with the choices made of them.

    The share of multi-mode rows is a function of the tokens seen, padding included; which rows they are, and from
    which corpus, follows from the seed. So everything here is what the run will do. No data is read.
    """
    from rich.console import Console
    from rich.table import Table

    from spacetime_gr.training.loading import load_config

    run = load_config(config, overrides or [])
    steps = num_steps or _num_steps(run)
    names = [str(corpus.path) for corpus in run.data.corpora]
    table = Table("steps", "tokens at the end", "multi-mode, scheduled", "realised", *(names if len(names) > 1 else []))
    for first, end in pairwise(np.unique(np.linspace(0, steps, 1 + _LINES).astype(np.int64)).tolist()):
        part = _plan(run, np.unique(np.linspace(first, end - 1, _POINTS).astype(np.int64)))
        shares = [f"{share:.1%}" for share in part["corpora"].mean(axis=0)] if len(names) > 1 else []
        scheduled, realised = part["scheduled"].mean(), part["multi_mode"].mean()
        tokens = end * run.data.num_lanes * run.data.row_length
        table.add_row(f"{first:,}-{end - 1:,}", f"{tokens:,}", f"{scheduled:.1%}", f"{realised:.1%}", *shares)
    Console(soft_wrap=True).print(table)
    if plot is not None:
        draw(run, steps, plot)
        Console(stderr=True, soft_wrap=True).print(f"written: {plot}", highlight=False)


def draw(run: "PretrainConfig", steps: int, file: Path) -> None:
    """Write the picture: scheduled and realised shares against tokens seen.

    Raises:
        ValueError: the file cannot be written, or its ending names no format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = np.unique(np.linspace(0, steps - 1, _POINTS).astype(np.int64))
    planned = _plan(run, rows)
    names = [str(corpus.path) for corpus in run.data.corpora]
    several = len(names) > 1
    figure = Figure(figsize=(8.0, 6.4 if several else 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(1 + several, 1, sharex=True))
    axes[0].plot(planned["tokens"], planned["multi_mode"], ".", color="#9aa7bd", markersize=3, label="batches")
    axes[0].plot(planned["tokens"], planned["scheduled"], color="#c2410c", linewidth=2, label="scheduled")
    axes[0].set_ylabel("share of multi-mode rows")
    if several:
        weights = np.array([corpus.weight for corpus in run.data.corpora])
        for number, name in enumerate(names):
            (points,) = axes[1].plot(planned["tokens"], planned["corpora"][:, number], ".", markersize=3)
            share = weights[number] / weights.sum()
            axes[1].axhline(share, color=points.get_color(), linewidth=2, label=f"{Path(name).name}: {share:.0%}")
        axes[1].set_ylabel("share of the corpus")
    for axis in axes:
        axis.set_ylim(-0.02, 1.02)
        axis.grid(alpha=0.3)
        axis.legend(loc="best", framealpha=0.9)
    axes[-1].set_xlabel(f"tokens seen, padding included (to step {steps:,})")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
    except OSError as error:
        raise ValueError(f"--plot {file} cannot be written: {error}") from error


def _plan(run: "PretrainConfig", row_numbers: np.ndarray) -> dict[str, Any]:
    from data_pipelines.stream.curriculum import CurriculumSettings, plan
    from data_pipelines.stream.settings import as_settings

    data = run.data
    settings = as_settings(CurriculumSettings, data.curriculum, "data.curriculum")
    weights = [corpus.weight for corpus in data.corpora]
    return plan(settings, weights, run.train.seed, data.num_lanes, data.row_length, row_numbers)


def _num_steps(run: "PretrainConfig") -> int:
    limits: list[float] = []
    if run.train.max_steps is not None:
        limits.append(run.train.max_steps)
    if run.train.max_tokens is not None:
        # The limit does not count padding, so the run ends a few percent of its steps later.
        limits.append(run.train.max_tokens / (run.data.row_length * run.data.num_lanes))
    if not limits:
        raise ValueError("the run ends by time alone (train.max_minutes): say how far to look with --num-steps")
    return max(1, math.ceil(min(limits)))
