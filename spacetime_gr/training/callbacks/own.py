"""Callbacks of the user's own, by import path."""

import importlib
from collections.abc import Sequence

from spacetime_gr.training.callbacks.base import Callback


def own_callbacks(paths: Sequence[str]) -> list[Callback]:
    """One of each class, made without arguments.

    Args:
        paths: `package.module:Class`, importable and derived from `Callback`.

    Raises:
        ValueError: a path has another form, cannot be imported, or names no such class; or one is given twice.
    """
    made: list[Callback] = []
    for path in paths:
        module_name, _, class_name = path.partition(":")
        if not (module_name and class_name):
            raise ValueError(f"run.callbacks has {path!r}; expected package.module:Class")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(
                f"run.callbacks has {path!r}, which cannot be imported: {error}; install its package, or add its "
                "folder to PYTHONPATH"
            ) from error
        found = getattr(module, class_name, None)
        if not (isinstance(found, type) and issubclass(found, Callback)):
            raise ValueError(
                f"run.callbacks has {path!r}, but {module.__file__} has no class {class_name} derived from "
                "spacetime_gr.training.callbacks.Callback"
            )
        made.append(found())
    names = [callback.name for callback in made]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"run.callbacks has {len(names)} callbacks, of which several are called {min(doubled)!r}; their state in "
            "checkpoints needs different names: override the property `name`"
        )
    return made
