"""Where a run keeps its model. Light to import: the command line asks before it loads anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from spacetime_gr.vocabulary import DEFAULT_CONTEXT_ACTIONS

if TYPE_CHECKING:
    from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer


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
        model, found = SpacetimeGRForCausalLM.from_pretrained(folder, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} are damaged: {error}; copy or export the model again") from error
    except RuntimeError as error:  # sizes that do not fit
        raise ValueError(f"the weights in {folder} do not fit this version of the model: {error}") from error
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"the weights in {folder} lack {', '.join(missing[:3])} and so on ({len(missing)} in all): they were "
            "exported by another version of the model; train anew"
        )
    return tokenizer, model.eval()


def trained_actions(run: Path) -> int:
    """How many known actions stood before a request in training: as many a model knows how to read.

    `DEFAULT_CONTEXT_ACTIONS` where the exported configuration does not say.

    Raises:
        ValueError: there is no exported model, or its configuration is no JSON.
    """
    file = exported_folder(run) / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8")).get("context_actions")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}; copy or export the model again") from error
    return DEFAULT_CONTEXT_ACTIONS if found is None else int(found)


def model_files(run: Path) -> list[Path]:
    """The files that decide what a model answers: configuration and weights, by name."""
    folder = exported_folder(run)
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
