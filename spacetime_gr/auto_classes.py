"""Hugging Face's Auto classes find this project's classes after a mere `import spacetime_gr`, which loads none of them.

transformers finds what it ships by name: tables lead from a model type to class names, and these are looked up in the
module `transformers.models.<type>` on first use. Our names are entered into the same tables, and this package, whose
names load on first use too, stands in as `transformers.models.spacetime_gr`. So nothing of either library is loaded
before somebody asks for it. (The public `register` calls take classes, not names: torch and the whole model would be
loaded at once, in the middle of transformers' own imports, some of which form circles through ours.)

Tables that are loaded already are entered at once; the others right after transformers loads them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

MODEL_TYPE = "spacetime_gr"
_CONFIG = "SpacetimeGRConfig"
_AUTO = "transformers.models.auto"
# module -> mapping in it -> our class; a mapping's table of names is called <mapping>_NAMES
_ENTRIES = {
    f"{_AUTO}.configuration_auto": {"CONFIG_MAPPING": _CONFIG},
    f"{_AUTO}.tokenization_auto": {"TOKENIZER_MAPPING": "SpacetimeGRTokenizer"},
    f"{_AUTO}.modeling_auto": {
        "MODEL_MAPPING": "SpacetimeGRModel",
        "MODEL_FOR_CAUSAL_LM_MAPPING": "SpacetimeGRForCausalLM",
    },
}


def register(package: ModuleType) -> None:
    """Enter the public classes of `package`, now or as soon as transformers is loaded."""
    sys.modules[f"transformers.models.{MODEL_TYPE}"] = package
    sys.meta_path.insert(0, _AfterImport())
    for name in _ENTRIES:
        if name in sys.modules:
            _enter(sys.modules[name])


def _enter(module: ModuleType) -> None:
    for mapping, class_name in _ENTRIES[module.__name__].items():
        getattr(module, f"{mapping}_NAMES")[MODEL_TYPE] = class_name
        # Mappings from configurations copy the table of configurations when they are made, perhaps before our entry.
        if mapping != "CONFIG_MAPPING":
            getattr(module, mapping)._reverse_config_mapping[_CONFIG] = MODEL_TYPE


class _AfterImport(MetaPathFinder):
    """Finds the modules with the tables as usual, and lets `_enter` follow their execution."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _ENTRIES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_enter(module: ModuleType) -> None:
                execute(module)
                _enter(module)

            spec.loader.exec_module = execute_and_enter  # type: ignore[method-assign]
        return spec
