"""Where a run keeps its model. Light to import: the command line asks before it loads anything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spacetime_gr.vocabulary import TOKENS_PER_ACTION

if TYPE_CHECKING:
    from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer


DEFAULT_ACTIONS = 128


def exported_folder(run: Path) -> Path:
    """RUN/export if there is one, else RUN itself if it holds a model.

    Raises:
        ValueError: neither does.
    """
    for candidate in (run / "export", run):
        if (candidate / "config.json").is_file():
            return candidate
    raise ValueError(
        f"no exported model in {run}: expected {run / 'export' / 'config.json'} (a finished run) or "
        f"{run / 'config.json'} (an exported folder); finish the run, or export its newest checkpoint: "
        f"spacetime-gr export {run} --out FOLDER"
    )


def load_exported(run: Path) -> tuple[SpacetimeGRTokenizer, SpacetimeGRForCausalLM]:
    """Tokenizer and model, in evaluation mode on the CPU, of a run directory or an exported folder.

    Raises:
        ValueError: there is no exported model, or its files are damaged.
        OSError: a file is missing.
    """
    from safetensors import SafetensorError

    from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer

    folder = exported_folder(run)
    tokenizer = SpacetimeGRTokenizer.from_pretrained(folder)
    try:
        model = SpacetimeGRForCausalLM.from_pretrained(folder)
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} are damaged: {error}; copy or export the model again") from error
    return tokenizer, model.eval()


def trained_actions(run: Path) -> int:
    """How many actions the rows held that a run trained on: as many a model knows how to read.

    From RUN/config.yaml; `DEFAULT_ACTIONS` for an exported folder, which does not say.
    """
    import yaml

    file = run / "config.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    length = settings.get("data", {}).get("row_length")
    return DEFAULT_ACTIONS if length is None else int(length) // TOKENS_PER_ACTION


def model_files(run: Path) -> list[Path]:
    """The files that decide what a model answers: configuration and weights, by name."""
    folder = exported_folder(run)
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
