"""`spacetime-gr cascade`: fit the cascade baseline on a prepared folder."""

from pathlib import Path
from typing import Annotated

import typer


def cascade(
    data: Annotated[Path, typer.Argument(help="Prepared folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the fitted cascade.")],
    setting: Annotated[
        str, typer.Option(help="timed: the time of the request is known; blind: the history only.")
    ] = "timed",
    protocol: Annotated[
        str, typer.Option(help="The rule of the validation targets, as for `evaluate --protocol`.")
    ] = "public",
    seed: Annotated[int, typer.Option(help="Seed of samples, factors and trees.")] = 0,
) -> None:
    """Fit recall, coarse and fine ranking on the training part; `spacetime-gr evaluate --cascade OUT` ranks with it.

    Tuned on the last part of training; the held-out events are not opened. Needs the `cascade` extra.
    """
    from rich.console import Console
    from rich.table import Table

    from data_pipelines.prepared import PreparedFolder
    from spacetime_gr.evaluation.cascade.fitting import fit_cascade

    console = Console()
    fitted = fit_cascade(
        PreparedFolder(data),
        protocol=protocol,
        setting=setting,
        seed=seed,
        report=lambda line: Console(stderr=True).print(line, highlight=False, markup=False, soft_wrap=True),
    )
    fitted.save(out)
    table = Table(title="recall on validation")
    for head in ("", "candidates", "all", "returns", "discoveries"):
        table.add_column(head, justify="right" if head else "left")
    for step, share in fitted.description["recall_on_validation"].items():
        cells = ("-" if share[part] is None else f"{share[part]:.4f}" for part in ("all", "return", "discovery"))
        table.add_row(step, f"{share['candidates']:.0f}", *cells)
    console.print(table)
    chosen = f"chosen: {fitted.description['chosen']}; written to {out}"
    console.print(chosen, highlight=False, markup=False, soft_wrap=True)
