"""Entry of the `spacetime-gr` command: registers the sub-commands and turns user errors into one line."""

import os
import sys

import typer
from rich.console import Console
from rich.markup import escape

from spacetime_gr.cli.cascade import cascade
from spacetime_gr.cli.check_leaks import check_leaks
from spacetime_gr.cli.compare import compare
from spacetime_gr.cli.curriculum import curriculum
from spacetime_gr.cli.data_report import data_report
from spacetime_gr.cli.evaluate import evaluate
from spacetime_gr.cli.export import export
from spacetime_gr.cli.index_plan import index_plan
from spacetime_gr.cli.index_report import index_report
from spacetime_gr.cli.number_lists import NumberListCommand
from spacetime_gr.cli.plan import plan
from spacetime_gr.cli.prepare import prepare
from spacetime_gr.cli.recommend import recommend
from spacetime_gr.cli.report import report
from spacetime_gr.cli.simulate import simulate
from spacetime_gr.cli.stream import stream

app = typer.Typer(
    name="spacetime-gr",
    help="Pretrain, evaluate and use generative recommendation models for places.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
)
COMMANDS = (
    *(simulate, prepare, check_leaks, data_report, stream, curriculum, index_plan, index_report),
    *(plan, evaluate, cascade, compare, report, recommend, export),
)
for command in COMMANDS:
    app.command(cls=NumberListCommand)(command)


def main() -> None:
    """Run the command line; a ValueError or OSError becomes one line on stderr and exit code 2.

    Set `SPACETIME_GR_DEBUG=1` to see the traceback instead.
    """
    try:
        app()
    except (ValueError, OSError) as error:
        if os.environ.get("SPACETIME_GR_DEBUG") == "1":
            raise
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
