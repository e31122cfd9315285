"""`spacetime-gr export`: a run's model as a Hugging Face folder."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    out: Annotated[Path, typer.Option(help="Folder for the model, its tokenizer and its card.")],
) -> None:
    """Write the model of a run as a Hugging Face folder: a finished run's export, else its newest checkpoint."""
    from rich.console import Console

    from spacetime_gr.training.exporting import export_run

    Console().print(f"exported to {export_run(run, out)}", highlight=False, soft_wrap=True, markup=False)
