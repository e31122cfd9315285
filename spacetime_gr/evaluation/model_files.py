"""Where a run keeps its model. Light to import: the command line asks before it loads anything."""

from pathlib import Path


def exported_folder(run: Path) -> Path:
    """RUN/export if there is one, else RUN itself if it holds a model.

    Raises:
        ValueError: neither does.
    """
    for candidate in (run / "export", run):
        if (candidate / "config.json").is_file():
            return candidate
    raise ValueError(
        f"no exported model in {run}: expected {run / 'export' / 'config.json'} (a run directory) or "
        f"{run / 'config.json'} (an exported folder); finish the run, or use --baselines-only for the counters alone"
    )


def model_files(run: Path) -> list[Path]:
    """The files that decide what a model answers: configuration and weights, by name."""
    folder = exported_folder(run)
    return [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
