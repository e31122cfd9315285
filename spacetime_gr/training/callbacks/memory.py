"""What the memory holds after one step."""

import gc
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from spacetime_gr.training.callbacks.base import Callback

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer

NUM_TENSORS = 50
_MAX_NAMES = 4


class MemorySnapshot(Callback):
    """Writes `RUN/profile/tensors-step-S-rank-N.json`: the largest storages that live after step S.

    On a GPU also `memory-step-S-rank-N.pickle`, the allocator's history of that step for https://pytorch.org/memory_viz.
    That is torch's own format: open it there, and unpickle none from others.
    """

    activity = "profiler"

    def __init__(self, step: int) -> None:
        self.step = step
        self.recording = False

    def on_start(self, trainer: "Trainer") -> None:
        self._record_if_next(trainer)

    def on_step(self, trainer: "Trainer") -> None:
        if trainer.progress.step == self.step and trainer.world.rank in trainer.config.log.profile_ranks:
            self._write(trainer)
        self._record_if_next(trainer)

    def _record_if_next(self, trainer: "Trainer") -> None:
        chosen = trainer.world.rank in trainer.config.log.profile_ranks
        if chosen and trainer.progress.step + 1 == self.step and trainer.world.device.type == "cuda":
            torch.cuda.memory._record_memory_history(max_entries=1_000_000)
            self.recording = True

    def _write(self, trainer: "Trainer") -> None:
        folder, end = trainer.run_dir / "profile", f"step-{self.step}-rank-{trainer.world.rank}"
        folder.mkdir(exist_ok=True)
        found = live_storages(dict(trainer.engine.module.named_parameters()))
        (folder / f"tensors-{end}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        if self.recording:
            torch.cuda.memory._dump_snapshot(str(folder / f"memory-{end}.pickle"))
            torch.cuda.memory._record_memory_history(enabled=None)
            self.recording = False


def live_storages(parameters: Mapping[str, torch.nn.Parameter], most: int = NUM_TENSORS) -> dict[str, Any]:
    """The storages of all tensors that Python knows, largest first.

    Tensors that share a storage (views, the flat buffers of ZeRO) are one entry, with the shape of the largest.

    Args:
        parameters: by name; a storage that holds some, or their gradients, says which.
        most: entries; the totals count all.

    Returns:
        `bytes` and `storages` in total, and `largest`: a list of `bytes`, `device`, `dtype`, `shape`, `tensors` (their
        number) and `names`, of the largest first.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    names |= {id(item.grad): f"{name}.grad" for name, item in parameters.items() if item.grad is not None}
    by_storage: defaultdict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)
    for item in gc.get_objects():
        # Not isinstance: it would wake lazy modules that pretend to be of some class.
        if issubclass(type(item), torch.Tensor) and item.layout == torch.strided:
            storage = item.untyped_storage()
            if storage.nbytes() and storage.device.type != "meta":  # tracing leaves tensors that only claim a device
                by_storage[str(item.device), storage.data_ptr()].append(item)
    entries: list[dict[str, Any]] = []
    for (device, _), tensors in by_storage.items():
        tensors.sort(key=torch.Tensor.numel, reverse=True)
        largest = tensors[0]
        held = [names[id(tensor)] for tensor in tensors if id(tensor) in names]
        entries.append(
            {
                "bytes": largest.untyped_storage().nbytes(),
                "device": device,
                "dtype": str(largest.dtype).removeprefix("torch."),
                "shape": list(largest.shape),
                "tensors": len(tensors),
                "names": held[:_MAX_NAMES] + ([f"and {len(held) - _MAX_NAMES} more"] if len(held) > _MAX_NAMES else []),
            }
        )
    entries.sort(key=lambda entry: (-entry["bytes"], entry["names"]))
    total = sum(entry["bytes"] for entry in entries)
    return {"bytes": total, "storages": len(entries), "largest": entries[:most]}
