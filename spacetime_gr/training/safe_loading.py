"""Engine checkpoints are read without running what a pickle asks for."""

from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

# The only classes beside tensors and plain containers that DeepSpeed writes for ZeRO 0 to 3 in fp32 and bf16.
_CLASSES = [LossScaler, ZeroStageEnum, fragment_address]


class SafeCheckpointEngine(TorchCheckpointEngine):
    """DeepSpeed's torch files, loaded with `weights_only=True` and the three classes DeepSpeed needs.

    DeepSpeed itself loads them with `weights_only=False`: a checkpoint from elsewhere could run any code.
    """

    def load(self, path: str, map_location: Any = None) -> Any:
        """Read one file.

        Raises:
            pickle.UnpicklingError: the file holds other classes than DeepSpeed writes.
        """
        with torch.serialization.safe_globals(_CLASSES):
            return torch.load(path, map_location=map_location, weights_only=True)
