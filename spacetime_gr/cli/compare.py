"""`spacetime-gr compare`: systems side by side, with spread over seeds, paired tests and a picture."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]FILE[,FILE...]...",
            help="Results of spacetime-gr evaluate --json; those joined by commas are the seeds of one system; a "
            "folder stands for every eval*.json below it.",
        ),
    ],
    against: Annotated[
        str | None, typer.Option(help="The row that all others are tested against.", show_default="the first")
    ] = None,
    counters: Annotated[bool, typer.Option(help="Show the counters too.")] = True,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, with all columns.")] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw hit rates and discovery here (.png, .svg or .pdf).", show_default=False)
    ] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of users in each test.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 0,
) -> None:
    """Compare systems that were evaluated: one row each, mean and standard deviation over seeds.

    Rows that answer the same question about the same targets are tested in pairs, users as units; why others are not is
    said.
    """
    from rich.console import Console

    from spacetime_gr.evaluation.bootstrap import Resampling
    from spacetime_gr.evaluation.comparison import compare_with, different_question, read_groups, rows
    from spacetime_gr.evaluation.comparison_report import markdown as as_markdown
    from spacetime_gr.evaluation.comparison_report import print_comparison

    groups = read_groups(given)
    found = rows(groups)
    num_models = sum("metrics" in runs[0].result for runs in groups.values())
    if not counters and num_models < len(groups):
        bare = next(runs[0].path for runs in groups.values() if "metrics" not in runs[0].result)
        raise ValueError(f"{bare} holds counters only, of which --no-counters shows none; leave one of the two out")
    shown = found if counters else found[:num_models]
    names = [row.name for row in shown]
    if against is not None and against not in names:
        raise ValueError(f"--against {against!r} is none of the rows: {', '.join(names)}")
    reference = shown[0 if against is None else names.index(against)]
    resampling = Resampling(resamples=resamples, seed=seed)
    differences = [compare_with(row, reference, resampling) for row in shown if row is not reference]
    if markdown:
        typer.echo(as_markdown(shown, differences, reference, resampling))
    else:
        print_comparison(shown, differences, reference, resampling, Console())
    if plot is not None:
        from spacetime_gr.evaluation.comparison_plot import plot_comparison

        same = [row for row in shown if not different_question(row.run.result, reference.run.result)]
        plot_comparison(same, sum(row in same for row in shown[:num_models]), plot)
