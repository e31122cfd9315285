"""What devices can do, from the makers' data sheets: peaks, memory and links."""

from dataclasses import dataclass

import torch

_TERA, _GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Device:
    """A device of a training cluster.

    Args:
        words: all stand in the name that torch gives the device; of several devices the first in the table counts.
        bf16, fp32: peak FLOP/s of dense matrix products; bf16 None where there is none. fp32 is without TF32, which
            torch does not use by itself.
        memory: bytes, as sold (10^9 a GB; devices report slightly more).
        bandwidth: of its memory, bytes/s.
        link: to the other devices of a node, bytes/s in one direction.
        network: to other nodes for each device, bytes/s in one direction, in the maker's usual server.
        host: to the host's memory, bytes/s in one direction.
    """

    words: tuple[str, ...]
    bf16: float | None
    fp32: float
    memory: float
    bandwidth: float
    link: float
    network: float
    host: float

    def peak(self, precision: str) -> float | None:
        """Peak FLOP/s in bf16 or fp32."""
        return self.bf16 if precision == "bf16" else self.fp32


def _device(
    words: str,
    bf16: float | None,
    fp32: float,
    memory: float,
    bandwidth: float,
    link: float,
    network: float,
    host: float,
) -> Device:
    """From TFLOP/s, GB and GB/s."""
    return Device(
        tuple(words.split()),
        None if bf16 is None else bf16 * _TERA,
        fp32 * _TERA,
        *(value * _GIGA for value in (memory, bandwidth, link, network, host)),
    )


# Links are half of the "bidirectional" figures of the sheets. The networks are those of the usual eight-device servers:
# one adapter a device of 100 Gb/s (DGX-1), 200 Gb/s (DGX A100) or 400 Gb/s (DGX H100, H200, B200, MI300X platforms).
# PCIe cards: one 200 Gb/s adapter for two.
DEVICES = {
    # NVIDIA DGX B200 data sheet, per GPU: 4.5 PFLOP/s bf16 with sparsity, 180 GB, 8 TB/s, NVLink 1.8 TB/s, PCIe 5.
    "b200": _device("B200", 2250, 75, 180, 8000, 900, 50, 64),
    # NVIDIA H200 data sheet (SXM): 1,979 TFLOP/s bf16 with sparsity, 67 fp32, 141 GB, 4.8 TB/s, NVLink 900 GB/s.
    "h200": _device("H200", 989, 67, 141, 4800, 450, 50, 64),
    # NVIDIA H100 data sheet (PCIe): 1,513 TFLOP/s bf16 with sparsity, 51 fp32, 80 GB, 2 TB/s, PCIe 5 128 GB/s.
    "h100-pcie": _device("H100 PCIe", 756, 51, 80, 2000, 64, 12.5, 64),
    # NVIDIA H100 data sheet (NVL): 1,671 TFLOP/s bf16 with sparsity, 60 fp32, 94 GB, 3.9 TB/s, NVLink bridge 600 GB/s
    # between two cards, so PCIe 5 counts for eight.
    "h100-nvl": _device("H100 NVL", 835, 60, 94, 3900, 64, 12.5, 64),
    # NVIDIA H100 data sheet (SXM): 1,979 TFLOP/s bf16 with sparsity, 67 fp32, 80 GB, 3.35 TB/s, NVLink 900 GB/s.
    "h100": _device("H100", 989, 67, 80, 3350, 450, 50, 64),
    # NVIDIA A100 data sheet (SXM): 312 TFLOP/s bf16, 19.5 fp32, 80 GB at 2,039 GB/s or 40 GB at 1,555 GB/s, NVLink
    # 600 GB/s, PCIe 4.
    "a100-40": _device("A100 40GB", 312, 19.5, 40, 1555, 300, 25, 32),
    "a100-80": _device("A100", 312, 19.5, 80, 2039, 300, 25, 32),
    # NVIDIA L40S data sheet: 733 TFLOP/s bf16 with sparsity, 91.6 fp32, 48 GB, 864 GB/s, PCIe 4 64 GB/s.
    "l40s": _device("L40S", 362, 91.6, 48, 864, 32, 12.5, 32),
    # NVIDIA A10 data sheet: 125 TFLOP/s bf16, 31.2 fp32, 24 GB, 600 GB/s, PCIe 4 64 GB/s.
    "a10": _device("A10", 125, 31.2, 24, 600, 32, 12.5, 32),
    # AMD Instinct MI300X data sheet: 1,307.4 TFLOP/s bf16, 163.4 fp32, 192 GB, 5.3 TB/s, seven links of 128 GB/s.
    "mi300x": _device("MI300X", 1307.4, 163.4, 192, 5300, 448, 50, 64),
    # NVIDIA V100 data sheet (SXM2, 32 GB): no bf16, 15.7 TFLOP/s fp32, 900 GB/s, NVLink 300 GB/s, PCIe 3.
    "v100": _device("V100", None, 15.7, 32, 900, 150, 12.5, 16),
}


def find_device(name: str) -> Device:
    """The device of a name.

    Raises:
        ValueError: it is not in the table; names those that are.
    """
    if name.lower() not in DEVICES:
        raise ValueError(f"no device {name!r} is known; expected one of {', '.join(DEVICES)}")
    return DEVICES[name.lower()]


def device_peak_flops(device: torch.device, precision: str) -> float | None:
    """Dense peak of one device in FLOP/s in `bf16` or `fp32`, or None where it is not known (every CPU)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    known = (item for item in DEVICES.values() if all(word in name for word in item.words))
    found = next(known, None)
    return None if found is None else found.peak(precision)
