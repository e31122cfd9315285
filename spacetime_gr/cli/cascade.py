"""`spacetime-gr cascade`: fit the cascade baseline, or the ranker of a model's candidates, on a prepared folder."""

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
    early_model: Annotated[
        Path | None,
        typer.Option(
            help="Fit the ranker of a model's candidates, with the scores of this one (run directory or exported "
            "folder), which was trained on the first part of DATA's training events only.",
            show_default=False,
        ),
    ] = None,
    early_data: Annotated[
        Path | None,
        typer.Option(help="The prepared folder that --early-model was trained on.", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Torch device of --early-model.", show_default="cuda if there is one")
    ] = None,
) -> None:
    """Fit recall, coarse and fine ranking on the training part; `spacetime-gr evaluate --cascade OUT` ranks with it.

    With --early-model: `spacetime-gr evaluate RUN --ranker OUT` ranks the candidates of RUN, trained on all of DATA.
    Tuned on the last part of training; the held-out events are not opened. Needs the `cascade` extra.
    """
    from rich.console import Console
    from rich.table import Table

    from data_pipelines.prepared import PreparedFolder
    from spacetime_gr.cli.progress import counting_bar
    from spacetime_gr.evaluation.cascade.fitting import fit_cascade
    from spacetime_gr.evaluation.cascade.scorer import import_extra

    import_extra()
    if (early_model is None) != (early_data is None):
        raise ValueError("--early-model and --early-data belong together: the model, and the folder it was trained on")
    console, errors = Console(), Console(stderr=True)
    folder = PreparedFolder(data)
    model = None
    if early_model is not None and early_data is not None:
        from spacetime_gr.evaluation.cascade.early_model import EarlyModel

        model = EarlyModel(early_model, PreparedFolder(early_data), folder, blind=setting == "blind", device=device)
    with counting_bar(errors) as bar:
        requests = bar.add_task("requests", total=None)
        fitted = fit_cascade(
            folder,
            protocol=protocol,
            setting=setting,
            seed=seed,
            early_model=model,
            report=lambda line: errors.print(line, highlight=False, markup=False, soft_wrap=True),
            progress=lambda done, of: bar.update(requests, completed=done, total=of),
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
