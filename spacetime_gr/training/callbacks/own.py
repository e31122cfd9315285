"""Classes of callbacks of the user's own, by import path."""

from collections.abc import Sequence

from data_pipelines.stream.settings import import_name
from spacetime_gr.training.callbacks.base import Callback


def own_callbacks(paths: Sequence[str]) -> list[type[Callback]]:
    """The classes, of which each makes its callback without arguments.

    Args:
        paths: `package.module:Class`, importable and derived from `Callback`.

    Raises:
        ValueError: a path has another form, cannot be imported, or names no such class; or one is given twice.
    """
    classes: list[type[Callback]] = []
    for path in paths:
        found = import_name(path, "run.callbacks")
        if not (isinstance(found, type) and issubclass(found, Callback)):
            raise ValueError(
                f"run.callbacks={path} is no class derived from spacetime_gr.training.callbacks.Callback, but {found!r}"
            )
        if found in classes:  # named early; two classes of one name are found when the run is put together
            raise ValueError(f"run.callbacks names {path} twice; name each class once")
        classes.append(found)
    return classes
