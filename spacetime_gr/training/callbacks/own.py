"""Callbacks of the user's own, by import path."""

from collections.abc import Sequence

from data_pipelines.stream.settings import import_name
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
        found = import_name(path, "run.callbacks")
        if not (isinstance(found, type) and issubclass(found, Callback)):
            raise ValueError(
                f"run.callbacks={path} is no class derived from spacetime_gr.training.callbacks.Callback, but {found!r}"
            )
        made.append(found())
    names = [callback.name for callback in made]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"run.callbacks has {len(names)} callbacks, of which several are called {min(doubled)!r}; their state in "
            "checkpoints needs different names: override the property `name`"
        )
    return made
