"""Starts the ranks of a distributed test without a launcher, which would cost seconds more."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What a launcher would set: gloo on this machine, one thread each."""
    return {
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


class Rank:
    """A process of the rank server, with the methods of Popen that tests need."""

    def __init__(self, pid: int, exits: Path) -> None:
        self.pid = pid
        self.file = exits / str(pid)

    def poll(self) -> int | None:
        return int(self.file.read_text()) if self.file.exists() else None

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"rank with process id {self.pid} has not ended within {timeout} s")
            time.sleep(0.02)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class RankServer:
    """Starts one process per rank, forked from a process that has imported everything (rank_server.py)."""

    def __init__(self, folder: Path) -> None:
        self.exits = folder / "exits"
        self.exits.mkdir()
        env = {**os.environ, **rank_environment(0, 1, 0)}
        script = Path(__file__).with_name("rank_server.py")
        self.log = (folder / "server.log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def start(self, command: list[str], world_size: int, log_folder: Path, **environment: str) -> list[Rank]:
        """One process per rank; output goes to `log_folder/rank-N.log`."""
        port, ranks = free_port(), []
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for rank in range(world_size):
            request = {
                "command": command,
                "environment": {**rank_environment(rank, world_size, port), **environment},
                "log": str(log_folder / f"rank-{rank}.log"),
                "exits": str(self.exits),
            }
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
            assert answer, Path(self.log.name).read_text()
            ranks.append(Rank(int(answer), self.exits))
        return ranks

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.log.close()


def wait_ranks(
    processes: Sequence[subprocess.Popen | Rank],
    log_folder: Path,
    timeout: float = 600,
    codes: tuple[int, ...] | None = None,
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
