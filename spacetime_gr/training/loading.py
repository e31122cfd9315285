"""From a YAML file and `section.key=value` overrides to a validated PretrainConfig."""

import difflib
import inspect
import json
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from data_pipelines.stream.behaviour import read_rules
from spacetime_gr.training.config import PretrainConfig

ROOT = Path(__file__).resolve().parents[2]


def load_config(files: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> PretrainConfig:
    """Read a file, or a base and what is laid over it in order, apply the overrides in order, validate.

    A later file wins; sections and mappings are merged, values and lists are replaced.

    `model: FILE.yaml`, `data.cleaning.rules: FILE.yaml` and `deepspeed.config: FILE.json` name files: looked for beside
    the file that names them (beside the first one for an override), then in the working directory, then in the
    repository. Later keys are laid over those of the named file.

    Raises:
        ValueError: a missing file, a malformed override, an unknown key (the nearest known one is named) or a value
            out of range.
    """
    layers = [Path(file) for file in ([files] if isinstance(files, str | Path) else files)]
    data: dict[str, Any] = {}
    for file in layers:
        _lay_over(data, _sections(file))
        try:
            _include(data, file.parent)
            _refuse_unknown(data)
        except ValueError as error:
            raise ValueError(f"{file}: {error}" if len(layers) > 1 else str(error)) from None
    for override in overrides:
        _apply(data, override, layers[0].parent)
    _include(data, layers[0].parent)
    _refuse_unknown(data)
    try:
        return PretrainConfig.model_validate(data)
    except ValidationError as error:
        raise ValueError("; ".join(_explain(item) for item in error.errors())) from None


def dump_config(config: PretrainConfig) -> str:
    """The resolved configuration as YAML, which `load_config` reads back to an equal object."""
    return yaml.safe_dump(json.loads(config.model_dump_json()), sort_keys=False, allow_unicode=True)


def known_model_keys() -> list[str]:
    """Settings of section `model`: the options of SpacetimeGRConfig."""
    from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig

    return [*inspect.get_annotations(SpacetimeGRConfig), "attn_implementation"]


def find_file(name: str, folder: Path) -> Path:
    """`name` relative to `folder`, the working directory or the repository, whichever exists first."""
    candidates = [folder / name, Path(name), ROOT / name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ValueError(f"no file {name!r}; looked for " + ", ".join(str(candidate) for candidate in candidates))


def _sections(file: Path) -> dict[str, Any]:
    """The sections of a file; one without lines is an empty mapping."""
    if not file.is_file():
        raise ValueError(f"no configuration file at {file}; see configs/pretrain/ for examples")
    data = _parse_yaml(file) or {}
    if not isinstance(data, dict):
        raise ValueError(f"{file}: expected sections such as run, data, train; got {type(data).__name__}")
    return {section: {} if values is None else values for section, values in data.items()}


def _lay_over(data: dict[str, Any], layer: dict[str, Any]) -> None:
    """Merge a later layer into `data`, in place."""
    for key, value in layer.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            _lay_over(data[key], value)
        else:
            data[key] = value


def _apply(data: dict[str, Any], override: str, folder: Path) -> None:
    key, separator, text = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ValueError(f"override {override!r} is not of the form section.key=value, as in train.max_steps=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"override {override!r}: the value is not YAML: {_one_line(error)}") from None
    node = data
    for depth, name in enumerate(path[:-1]):
        child = node.setdefault(name, {})
        if depth == 0 and name == "model" and isinstance(child, str):
            child = node[name] = _read_yaml(find_file(child, folder))
        if child is None:
            child = node[name] = {}
        if not isinstance(child, dict):
            raise ValueError(f"override {override!r}: {'.'.join(path[: depth + 1])} is a value, not a section")
        node = child
    node[path[-1]] = value


def _include(data: dict[str, Any], folder: Path) -> None:
    model = data.get("model")
    if isinstance(model, str):
        data["model"] = _read_yaml(find_file(model, folder))
    section = data.get("data")
    cleaning = section.get("cleaning") if isinstance(section, dict) else None
    if isinstance(cleaning, dict) and isinstance(cleaning.get("rules"), str):
        cleaning["rules"] = read_rules(find_file(cleaning["rules"], folder))
    deepspeed = data.get("deepspeed")
    if isinstance(deepspeed, str):
        deepspeed = data["deepspeed"] = {"config": deepspeed}
    if isinstance(deepspeed, dict) and isinstance(deepspeed.get("config"), str):
        file = find_file(deepspeed["config"], folder)
        try:
            deepspeed["config"] = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}: not JSON: {error}") from None


def _parse_yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {_one_line(error)}; correct that line") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_yaml(file: Path) -> dict[str, Any]:
    data = _parse_yaml(file)
    if not isinstance(data, dict):
        raise ValueError(f"{file}: expected `key: value` lines, got {type(data).__name__}")
    return data


def _refuse_unknown(data: dict[str, Any]) -> None:
    leaves = list(_leaves(PretrainConfig))
    for section, values in data.items():
        if section not in PretrainConfig.model_fields:
            first = next(iter(values), "") if isinstance(values, dict) else ""
            known = leaves if first else [*PretrainConfig.model_fields, *leaves]
            raise ValueError(_unknown(f"{section}.{first}" if first else section, known))
        model = _section_of(PretrainConfig.model_fields[section].annotation)
        if section == "model":
            known = known_model_keys()
        elif model is not None:
            known = list(model.model_fields)
        else:
            continue
        if not isinstance(values, dict):
            raise ValueError(f"section {section}: expected `key: value` lines, got {values!r}")
        for key in values:
            if key not in known:
                own = [f"{section}.{name}" for name in known]
                raise ValueError(_unknown(f"{section}.{key}", [*own, *leaves]))


def _unknown(key: str, known: Iterable[str]) -> str:
    options = list(dict.fromkeys(known))
    near = difflib.get_close_matches(key, options, n=1, cutoff=0.0)
    same_name = [option for option in options if option.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    return f"unknown setting {key!r}; did you mean {(same_name or near)[0]!r}?"


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            yield prefix + name
        else:
            yield from _leaves(section, f"{prefix}{name}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _explain(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{place} is required; set it in the file or as {place}=…"
    if item["type"] == "value_error":
        return message
    return f"{place}: {message}, got {item['input']!r}"
