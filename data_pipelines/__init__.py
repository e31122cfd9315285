"""From raw events to streamed, cleaned token rows. Imports neither torch nor the model package."""

import importlib
from typing import Any

_EXPORTS = {"TokenStream": "data_pipelines.stream", "PreparedFolder": "data_pipelines.prepared"}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
