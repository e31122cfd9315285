"""Starts the ranks of a distributed test without a launcher, which would cost seconds more."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(command: list[str], world_size: int, log_folder: Path) -> list[subprocess.Popen]:
    """One process per rank, gloo on this machine, one thread each; output goes to `log_folder/rank-N.log`."""
    port = free_port()
    processes = []
    for rank in range(world_size):
        env = {
            **os.environ,
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(world_size),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
        }
        with (log_folder / f"rank-{rank}.log").open("a") as log:
            processes.append(
                subprocess.Popen([sys.executable, *command], env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
            )
    return processes


def wait_ranks(
    processes: list[subprocess.Popen], log_folder: Path, timeout: float = 300, codes: tuple[int, ...] | None = None
) -> None:
    """Wait for all; fails with the logs if one ends with another exit code than expected (default: 0)."""
    try:
        found = tuple(process.wait(timeout) for process in processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
    logs = "\n".join(path.read_text()[-3000:] for path in sorted(log_folder.glob("rank-*.log")))
    assert found == (codes or (0,) * len(processes)), logs
