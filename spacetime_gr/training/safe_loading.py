"""Between DeepSpeed and its files: states are handed over rather than written, and read without running pickles."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.utils.tensor_fragment import fragment_address
from torch.utils._pytree import tree_map_only

# The only classes beside tensors and plain containers that stand in a state of ZeRO 0 to 3 in fp32 and bf16.
_CLASSES = [LossScaler, fragment_address]


class SafeCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's torch files, written by whoever takes them and loaded with `weights_only=True`.

    Writing: DeepSpeed saves between barriers, and a rank that fails there leaves the others waiting. So `save` only
    collects; whoever takes the states writes them when all collectives are over.

    Loading: DeepSpeed itself uses `weights_only=False`, so a checkpoint from elsewhere could run any code. Here two
    classes that DeepSpeed needs are allowed beside tensors and plain containers.
    """

    def __init__(self, config_params: Any = None) -> None:
        super().__init__(config_params)
        self._states: dict[str, Any] = {}

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Nothing: DeepSpeed writes nothing."""

    def save(self, state_dict: Any, path: str) -> None:
        """Keep a state until it is taken.

        Members of enumerations become their values: Pythons before 3.11.4 pickle them by a call, which is not read.
        """
        self._states[path] = map_state(Enum, lambda member: member.value, state_dict)

    def take(self) -> dict[str, Any]:
        """The states of this rank since the last call, by path; their tensors are those that train on."""
        states, self._states = self._states, {}
        return states

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file.

        Raises:
            pickle.UnpicklingError: the file holds other classes than DeepSpeed writes.
        """
        with torch.serialization.safe_globals(_CLASSES):
            return torch.load(path, map_location=map_location, weights_only=True)


def map_state(kind: type, function: Callable[[Any], Any], state: Any) -> Any:
    """A copy of a state's containers in which `function` has replaced all that is of `kind`.

    Shapes stay what they are: DeepSpeed asks them for their number of elements.
    """
    return tree_map_only(kind, function, state, is_leaf=lambda item: isinstance(item, torch.Size))


def load_states(path: Path) -> Any:
    """One file of a checkpoint, its tensors on the CPU and read only when they are used.

    Raises:
        pickle.UnpicklingError: the file holds other classes than DeepSpeed writes.
    """
    with torch.serialization.safe_globals(_CLASSES):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
