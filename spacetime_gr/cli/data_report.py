"""`spacetime-gr data-report`: what a prepared folder holds, as one page."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ReportSplit(StrEnum):
    """What the figures are of."""

    TRAIN = "train"
    ALL = "all"


def data_report(
    folder: Annotated[Path, typer.Argument(help="A prepared folder.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("data_report.html"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
    split: Annotated[
        ReportSplit, typer.Option(help="Figures of the training split, or of all splits together.")
    ] = ReportSplit.TRAIN,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="Configuration of a pretraining run: counts what its data.cleaning drops and marks. Given again, a "
            "file laid over those before."
        ),
    ] = None,
) -> None:
    """Report on prepared data: counts, rejected rows, rhythms, distances, returns, categories, and two maps.

    The page needs no network. Places and map cells that few people visit are shown too: share it as you would the data.
    """
    from rich.console import Console

    from data_pipelines import PreparedFolder
    from spacetime_gr.cli.progress import counting_bar
    from spacetime_gr.reports.data_report import report_on, write_figures
    from spacetime_gr.training.loading import load_config

    prepared = PreparedFolder(folder)
    for file in (out, json_file):
        if file is not None and file.is_dir():
            raise ValueError(f"{file} is a folder; expected the name of a file to write")
    run = load_config(config) if config else None
    console = Console(stderr=True, soft_wrap=True)
    with counting_bar(console) as bar:
        task = bar.add_task("starting", total=None)
        numbers, page = report_on(
            prepared,
            split.value,
            None if run is None else run.data.cleaning or {},
            0 if run is None else run.train.seed,
            lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total),
        )
        bar.update(task, description="done", total=1, completed=1)
    for file in (out, json_file):
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    if json_file is not None:
        write_figures(numbers, json_file)
    console.print(f"written: {out}" + (f", {json_file}" if json_file else ""), highlight=False, markup=False)
