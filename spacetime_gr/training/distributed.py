"""The process group: set-up for one process, torchrun and the deepspeed launcher, and small collectives."""

import json
import os
import socket
import sys
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d


@dataclass(frozen=True)
class World:
    """This process's place among the others, and its device."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def environment_world() -> World:
    """What the launcher says in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_SIZE; one process if it says nothing."""
    env = os.environ
    local_rank = int(env.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    size = int(env.get("WORLD_SIZE", 1))
    local_size = int(env.get("LOCAL_WORLD_SIZE", env.get("LOCAL_SIZE", size)))
    return World(int(env.get("RANK", 0)), size, local_rank, local_size, device)


def restarts() -> int:
    """How often Slurm or torchrun has started this job again; 0 under a launcher that does not say."""
    return max(int(os.environ.get(name) or 0) for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))


def start_processes(timeout: timedelta | None = None) -> World:
    """Join the process group (nccl on GPUs, else gloo) and set this process's threads.

    Args:
        timeout: longest time that a collective waits for the other ranks; default: DeepSpeed's and torch's. Joining may
            take DeepSpeed's time (10 minutes, or DEEPSPEED_TIMEOUT) where that is longer: nodes start unevenly.

    CPU processes share the machine's cores (or take OMP_NUM_THREADS each), and flush subnormal floats to zero: an AdamW
    moment that fades away would otherwise slow every step several times.
    """
    env = os.environ
    if not torch.cuda.is_available():
        env.setdefault("DS_ACCELERATOR", "cpu")
    if "RANK" not in env:
        env.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
        env.setdefault("MASTER_PORT", str(_free_port()))
    world = environment_world()
    import deepspeed

    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    else:
        torch.set_flush_denormal(True)
        if "OMP_NUM_THREADS" not in env:
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // world.local_size))
        # Serves inference only, and would be compiled on the first start.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed's calls, not ours.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if not dist.is_initialized():
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        joining = max(deepspeed.constants.default_pg_timeout, timeout or timedelta())
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=joining)
        if timeout is not None:
            limit_waiting(timeout)
    return world


def limit_waiting(timeout: timedelta) -> None:
    """Give the first group this time-out, and every group that is made from now on.

    DeepSpeed reduces gradients in groups of its own, which get torch's default of 10 (nccl) or 30 minutes whatever the
    first group has; torch offers no setting for it but these two names.
    """
    distributed_c10d._set_pg_timeout(timeout)
    distributed_c10d.default_pg_timeout = timeout
    distributed_c10d.default_pg_nccl_timeout = timeout


def all_sum(values: list[float], world: World) -> list[float]:
    """Element-wise sum over all ranks, in float64. Every rank must call with the same number of values."""
    if world.size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=world.device)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def gather_json(value: Any, world: World) -> list[Any]:
    """A small JSON-able value of each rank, in rank order, on every rank. Collective."""
    if world.size == 1:
        return [value]
    payload = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=world.device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=world.device) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor([payload.numel()], dtype=torch.int64, device=world.device))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=world.device)
    padded[: payload.numel()] = payload
    parts = [torch.zeros(longest, dtype=torch.uint8, device=world.device) for _ in range(world.size)]
    dist.all_gather(parts, padded)
    return [
        json.loads(bytes(part[: int(size)].cpu().numpy()).decode()) for part, size in zip(parts, sizes, strict=True)
    ]


def barrier(world: World) -> None:
    if world.size > 1:
        dist.barrier()


def stop_processes() -> None:
    """Leave the process group, with everything printed. Collective.

    All wait for each other first: a rank whose peer has gone while it still closes its connections may abort.
    """
    sys.stdout.flush()
    if dist.is_initialized():
        if dist.get_world_size() > 1:
            dist.barrier()
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process at once, with everything printed, when the others may be gone.

    An ordinary exit waits for reader threads, and for connections to ranks that do not answer.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def full_numel(parameter: torch.Tensor) -> int:
    """Numbers of a parameter, also of one that ZeRO-3 has cut into shards."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
