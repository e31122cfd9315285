"""Spacetime-GR: generative recommendation of places.

Importing the package is cheap: the public names load on first use, and so do the classes that the Hugging Face Auto
classes find once the package is imported.
"""

import importlib
import sys
from typing import Any

from spacetime_gr import auto_classes

__version__ = "0.1.0"

_EXPORTS = {
    "POIIndex": "spacetime_gr.index",
    "SpacetimeGRConfig": "spacetime_gr.configuration_spacetime_gr",
    "SpacetimeGRModel": "spacetime_gr.modeling_spacetime_gr",
    "SpacetimeGRForCausalLM": "spacetime_gr.modeling_spacetime_gr",
    "SpacetimeGRTokenizer": "spacetime_gr.tokenization_spacetime_gr",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])


auto_classes.register(sys.modules[__name__])
