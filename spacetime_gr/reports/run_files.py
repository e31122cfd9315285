"""What a run directory holds, read with care: a run may be going on, killed, or without some of its files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from spacetime_gr import SpacetimeGRConfig, SpacetimeGRForCausalLM
from spacetime_gr.evaluation.model_files import exported_folder
from spacetime_gr.training.flops import ParameterCounts, count_parameters

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFiles:
    """A run directory.

    config: the resolved settings, by section; empty without config.yaml. status: of status.json. records: lines of
    metrics.jsonl. unread: lines of it that are no JSON objects, by number from 1. export: why there is no exported
    model, else its folder. parameters: of the model, None without one.
    """

    path: Path
    config: dict[str, Any]
    status: dict[str, Any]
    records: list[Record]
    unread: list[int]
    export: Path | str
    parameters: ParameterCounts | None

    @property
    def name(self) -> str:
        """Name of the run, else of its directory and the one above: most are called `run`."""
        return str(self.config.get("run", {}).get("name") or "/".join(self.path.resolve().parts[-2:]))

    @property
    def data_path(self) -> Path | None:
        """The prepared folder that was trained on, the first of several; None if no setting tells."""
        path = self.config.get("data", {}).get("path")
        if isinstance(path, list):
            path = path[0] if path else None
        if isinstance(path, dict):
            path = path.get("path")
        return None if path is None else Path(path)


def read_run(path: Path) -> RunFiles:
    """Read a run directory.

    Raises:
        ValueError: it is none, or a file in it is damaged.
    """
    if not path.is_dir():
        raise ValueError(f"{path} does not exist; expected a run directory, as launch/pretrain.py writes it")
    config_file, metrics_file = path / "config.yaml", path / "metrics.jsonl"
    if not config_file.is_file() and not metrics_file.is_file():
        raise ValueError(
            f"{path} holds neither config.yaml nor metrics.jsonl; expected a run directory, as launch/pretrain.py "
            "writes it (run.dir)"
        )
    records, unread = read_metrics(metrics_file)
    export: Path | str
    try:
        export = exported_folder(path)
    except ValueError as error:
        export = str(error)
    return RunFiles(
        path,
        _read_config(config_file),
        read_json(path / "status.json", "the run's state; remove the file") if (path / "status.json").is_file() else {},
        records,
        unread,
        export,
        None if isinstance(export, str) else _count(export),
    )


def read_metrics(file: Path) -> tuple[list[Record], list[int]]:
    """Lines of metrics, and the numbers of those that cannot be read: a killed run cuts its last line short.

    Both are empty where there is no file.
    """
    records: list[Record] = []
    unread: list[int] = []
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and "step" in record and "tokens" in record:
            records.append(record)
        else:
            unread.append(number)
    return records, unread


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: it is none; says which file, why, and what to do.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} is not readable JSON ({error}); expected {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; expected {remedy}")
    return content


def _read_config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}; restore it or remove it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}; expected sections such as run, data, train")
    return {name: values if isinstance(values, dict) else {} for name, values in content.items()}


def _count(export: Path) -> ParameterCounts:
    with torch.device("meta"):
        return count_parameters(SpacetimeGRForCausalLM(SpacetimeGRConfig.from_pretrained(export)))
