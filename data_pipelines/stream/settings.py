"""Settings of the stream are frozen dataclasses; this is how one is made of plain configuration."""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for a misspelt name, or '' where nothing is near."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def import_name(path: str, setting: str) -> Any:
    """What `package.module:name` names.

    Args:
        path: as the setting has it.
        setting: its name, for messages.

    Raises:
        ValueError: the path has another form, the module cannot be imported, or it has no such name.
    """
    module_name, _, name = path.partition(":")
    if not module_name or not name.isidentifier():
        raise ValueError(f"{setting} must have the form package.module:name, got {path!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"{setting}={path}: cannot import {module_name} ({error}); install its package, or add its folder to "
            "PYTHONPATH"
        ) from error
    if not hasattr(module, name):
        raise ValueError(f"{setting}={path}: {name} does not exist in {module_name}{nearest(name, dir(module))}")
    return getattr(module, name)


def as_settings(cls: type[T], values: T | Mapping[str, Any] | None, what: str) -> T:
    """Settings of type `cls` from settings, a mapping, or None (the defaults).

    Lists become tuples, as YAML and JSON have no other. Raises ValueError for an unknown key, naming the nearest one,
    and for a value of a wrong type.
    """
    if values is None:
        return cls()
    if isinstance(values, cls):
        return values
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be {cls.__name__} or a mapping of its settings, got {type(values).__name__}")
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"unknown setting {what}.{key}{nearest(str(key), known)}; known are {', '.join(known)}")
    try:
        return cls(**{key: _frozen(value) for key, value in values.items()})
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in values.items())
        raise ValueError(f"a setting of {what} has a wrong type: {error}; got {given}") from error


def check_number(value: Any, name: str, low: float, high: float = math.inf, whole: bool = False) -> None:
    """Raises ValueError naming the setting if it is no number, not `whole`, or out of `low` to `high`."""
    kind = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        bounds = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, {bounds}, got {value!r}")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
