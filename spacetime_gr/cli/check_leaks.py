"""`spacetime-gr check-leaks`: whether a prepared folder keeps its parts apart."""

from pathlib import Path
from typing import Annotated

import typer


def check_leaks(
    folder: Annotated[Path, typer.Argument(help="A prepared folder.")],
) -> None:
    """Check that nothing of later parts reaches training and nobody is in twice; exit code 1 if something does.

    Reads every shard once.
    """
    from rich.console import Console
    from rich.table import Table

    from data_pipelines import PreparedFolder
    from data_pipelines.prepare.leaks import check_leaks as run_checks
    from spacetime_gr.cli.index_report import find_index
    from spacetime_gr.index import POIIndex

    prepared = PreparedFolder(folder)
    visits = None
    if prepared.tokenizer_path.is_dir():
        index = POIIndex.load(find_index(folder))
        ids = prepared.pois()["poi_id"]
        visits = index.visits(index.rows(ids.combine_chunks())) if index.num_pois == len(ids) else index.visits([])
    with Console(stderr=True, soft_wrap=True).status("reading") as status:
        checks = run_checks(prepared, visits, status.update)
    table = Table("check", "outcome", "detail")
    colours = {"pass": "green", "FAIL": "bold red", "does not apply": "dim"}
    for check in checks:
        table.add_row(check.name, f"[{colours[check.outcome]}]{check.outcome}[/]", check.detail)
    Console(soft_wrap=True).print(table)
    if any(check.outcome == "FAIL" for check in checks):
        raise typer.Exit(1)
