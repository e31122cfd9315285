"""Parameters by group, floating-point work of a token, and what devices can do."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

# Dense bfloat16 peak in FLOP/s by a part of the device's name, from the makers' data sheets (without sparsity).
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
}


@dataclass(frozen=True)
class ParameterCounts:
    """Number of parameters: lookup tables, decoder layers, and what reads the hidden states out."""

    embedding: int
    body: int
    head: int

    @property
    def total(self) -> int:
        return self.embedding + self.body + self.head


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count by group; a table that is tied to a head counts once, as embedding. Meta tensors and shards will do."""
    prefix = getattr(model, "base_model_prefix", "model") + "."
    tables = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
    }
    counts = {"embedding": 0, "body": 0, "head": 0}
    for name, parameter in model.named_parameters():
        group = "embedding" if id(parameter) in tables else "body" if name.startswith(prefix) else "head"
        counts[group] += getattr(parameter, "ds_numel", parameter.numel())
    return ParameterCounts(**counts)


def flops_per_token(model: Any, row_length: int) -> float:
    """Forward and backward work of one token: 6 x body parameters + 6 x layers x hidden size x row length.

    The second term is causal attention over a full row (PaLM, arXiv 2204.02311, appendix B, halved for causality).
    Heads and recomputation are left out, and a packed row attends to less: what follows from this is an estimate.
    """
    config = model.config
    attention = 6 * config.num_hidden_layers * config.hidden_size * row_length
    return 6.0 * count_parameters(model).body + attention


def device_peak_flops(device: torch.device) -> float | None:
    """Dense bf16 peak of one device in FLOP/s, or None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if all(word in name for word in part.split())), None)
