"""Two hosts on one machine: network namespaces that a virtual cable joins, and nothing else."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
INTERFACE = "eth0"
PREFIX = "spacetime-gr-test"


def ip(*arguments: str) -> str:
    """Run iproute2; its output."""
    command = [shutil.which("ip", path=SYSTEM_PATH) or "ip", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def unavailable() -> str | None:
    """Why namespaces cannot be made here; None: they can."""
    if shutil.which("ip", path=SYSTEM_PATH) is None:
        return "iproute2 is missing (launch/test.sh installs it for root)"
    probe = f"{PREFIX}-{os.getpid()}-probe"
    try:
        ip("netns", "add", probe)
        ip("netns", "delete", probe)
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not permitted: {error.stderr.strip()}"
    return None


@dataclass
class TwoHosts:
    """Names and addresses of the hosts, and the processes started on them."""

    names: tuple[str, str]
    addresses: tuple[str, str] = ("10.213.0.1", "10.213.0.2")
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, host: int, command: list[str], env: dict[str, str], log: Path) -> subprocess.Popen:
        """Start `command` on a host; it becomes the leader of a session of its own. Output is appended to `log`."""
        inside = [shutil.which("ip", path=SYSTEM_PATH) or "ip", "netns", "exec", self.names[host], *command]
        with log.open("a") as stream:
            process = subprocess.Popen(
                inside, env=env, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.processes.append(process)
        return process

    def set_link(self, state: str) -> None:
        """`down` cuts the cable at the first host, `up` restores it."""
        ip("-n", self.names[0], "link", "set", INTERFACE, state)

    def running(self) -> list[int]:
        """Process ids that are left on either host."""
        return [int(pid) for name in self.names for pid in ip("netns", "pids", name).split()]


@contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """Two namespaces without any route but to each other; both are gone afterwards, with all that runs in them."""
    _remove_leftovers()
    hosts = TwoHosts((f"{PREFIX}-{os.getpid()}-first", f"{PREFIX}-{os.getpid()}-second"))
    try:
        for name in hosts.names:
            ip("netns", "add", name)
        first, second = hosts.names
        ip("-n", first, "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", second)
        for name, address in zip(hosts.names, hosts.addresses, strict=True):
            ip("-n", name, "address", "add", f"{address}/30", "dev", INTERFACE)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", INTERFACE, "up")
        yield hosts
    finally:
        made = [name for name in hosts.names if name in ip("netns", "list").split()]
        for name in made:
            _end_processes(name)
        for process in hosts.processes:
            process.wait(60)
        for name in made:
            ip("netns", "delete", name)


def _end_processes(name: str) -> None:
    for pid in ip("netns", "pids", name).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _remove_leftovers() -> None:
    """Remove the hosts of a test that was killed before it could."""
    for name in ip("netns", "list").split():
        match = re.fullmatch(rf"{PREFIX}-(\d+)-(?:first|second)", name)
        if match and not Path("/proc", match[1]).exists():
            _end_processes(name)
            ip("netns", "delete", name)


def host_environment(**extra: str) -> dict[str, str]:
    """The environment of a process on one of the hosts: CPU ranks of this checkout that talk over the cable."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{SYSTEM_PATH}",
        "PYTHONPATH": str(ROOT),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": INTERFACE,
        **extra,
    }
