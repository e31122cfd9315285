"""`spacetime-gr report`: a run as one page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    data: Annotated[
        Path | None, typer.Option(help="Prepared folder.", show_default="the one that the run was trained on")
    ] = None,
    result: Annotated[
        Path | None, typer.Option("--eval", help="Result of spacetime-gr evaluate.", show_default="RUN/eval.json")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page to write.", show_default="RUN/report.html")] = None,
    user: Annotated[
        list[int] | None,
        typer.Option(
            help="Show the last held-out targets of this person (user_hash of the data) on the map; may be repeated.",
            show_default="some hits, misses and discoveries",
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option(help="Held-out targets that the calibration is measured on (fixed seed).")
    ] = 256,
) -> None:
    """Report on a run: training curves, evaluation, calibration, and a map of held-out targets to step through.

    The page needs no network. It shows movements of persons: it is not for publication.
    """
    from rich.console import Console

    from spacetime_gr.cli.progress import counting_bar
    from spacetime_gr.reports.run_report import Request, report_on

    file = out or run / "report.html"
    if file.is_dir():
        raise ValueError(f"{file} is a folder; expected the name of a file to write")
    request = Request(run, data, result, tuple(user or ()), sample)
    console = Console(stderr=True, soft_wrap=True)
    with counting_bar(console) as bar:
        task = bar.add_task("reading the run", total=None)
        page = report_on(
            request, lambda stage, done, total: bar.update(task, description=stage, completed=done, total=total)
        )
        bar.update(task, description="done", total=1, completed=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    console.print(f"written: {file}", highlight=False, markup=False)
