"""The exact command of each way to start a run. Lists of words throughout: no shell reads what a user gave."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spacetime_gr.launching.forwarding import LaunchFile, is_secret, masked, write_launch_file

RANK_MODULE = "spacetime_gr.launching.rank"
DEFAULT_PORT = 29500
# How far apart nodes may start, as under DeepSpeed; torchrun's own is a minute.
_JOIN_SECONDS = 600
# DeepSpeed joins the words of its remote command with spaces for the shell of each node.
_SAFE_WORD = re.compile(r"[\w@%+=:,./-]+")
_HOST_LINE = re.compile(r"(\S+)\s+slots=(\d+)\s*(#.*)?")


@dataclass(frozen=True)
class Launch:
    """A command, and what has to be there before it runs."""

    command: list[str]
    file: tuple[Path, LaunchFile] | None = None
    stdin: str | None = None

    def describe(self) -> str:
        """What `run` would do, with secrets masked; the command is the last line."""
        lines = []
        if self.file is not None:
            path, content = self.file
            lines.append(f"# writes {path} (mode 600), which every rank reads:")
            lines += [f"#   {name}={masked(name, value)}" for name, value in content.environment.items()]
            lines.append(f"#   {shlex.join(content.command)}")
        if self.stdin is not None:
            lines.append(self.stdin.rstrip("\n"))
            lines.append("# is the input of:")
        return "\n".join([*lines, shlex.join(self.command)])

    def run(self) -> int:
        """Do it. Without input for the command this process becomes the command, so that signals reach it.

        Raises:
            ValueError: the command is not installed.
        """
        program = self.command[0]
        if shutil.which(program) is None:
            raise ValueError(f"{program} is not on PATH (deepspeed and torchrun: source .venv/bin/activate)")
        if self.file is not None:
            write_launch_file(*self.file)
        if self.stdin is None:
            os.execvp(program, self.command)  # noqa: S606
        return subprocess.run(self.command, input=self.stdin, text=True, check=False).returncode  # noqa: S603


def local(script: list[str], processes: int | None) -> Launch:
    """One machine, by DeepSpeed's launcher.

    Args:
        script: the training script and its arguments.
        processes: default: one per GPU.
    """
    count = [] if processes is None else ["--num_accelerators", str(processes)]
    return Launch(["deepspeed", *count, *script])


def over_ssh(
    script: list[str],
    hostfile: Path,
    launch_file: Path,
    environment: Mapping[str, str],
    master_addr: str | None = None,
    master_port: int = DEFAULT_PORT,
    ssh_port: int | None = None,
) -> Launch:
    """All nodes of a hostfile, from one of them, by DeepSpeed with pdsh and ssh.

    DeepSpeed puts what it forwards (`.deepspeed_env`) on command lines, which it logs and everybody on a node can
    list, and leaves arguments to the shells of the nodes. So neither travels that way: ranks read both from a file.

    Args:
        launch_file: on storage that all nodes share.
        environment: the variables to set on all nodes.

    Raises:
        ValueError: the hostfile is wrong, a path would not survive a shell, or a secret stands in `.deepspeed_env`.
    """
    read_hostfile(hostfile)
    launch_file = launch_file.absolute()
    for what, path in (("--file", str(launch_file)), ("the working directory", os.getcwd())):
        if not _SAFE_WORD.fullmatch(path):
            raise ValueError(f"{what} {path!r} passes through shells; expected letters, digits and any of @%+=:,./-_")
    _refuse_secrets_for_deepspeed()
    options = ["--hostfile", str(hostfile), "--master_port", str(master_port)]
    options += [] if master_addr is None else ["--master_addr", master_addr]
    options += [] if ssh_port is None else ["--ssh_port", str(ssh_port)]
    command = ["deepspeed", *options, "--no_local_rank", "--module", RANK_MODULE, "file", str(launch_file)]
    return Launch(command, file=(launch_file, LaunchFile(dict(environment), script)))


def without_ssh(script: list[str], hostfile: Path, node_rank: int, master_addr: str, master_port: int) -> Launch:
    """One node of a hostfile; the same is started on every node with its own `node_rank`.

    Raises:
        ValueError: the hostfile is wrong or has no such node.
    """
    hosts = read_hostfile(hostfile)
    if not 0 <= node_rank < len(hosts):
        raise ValueError(f"--node-rank is {node_rank}; {hostfile} has {len(hosts)} hosts, so 0 to {len(hosts) - 1}")
    master = ["--master_addr", master_addr, "--master_port", str(master_port)]
    return Launch(
        ["deepspeed", "--hostfile", str(hostfile), "--no_ssh", "--node_rank", str(node_rank), *master, *script]
    )


def by_torchrun(
    script: list[str],
    processes: int,
    nodes: int = 1,
    rendezvous: str | None = None,
    job_id: str = "",
    restarts: int = 0,
) -> Launch:
    """One machine, or one of `nodes` machines that meet at `rendezvous` (HOST:PORT); the same command on each.

    torchrun looks whether the rendezvous is what this machine's host name resolves to, and tells the others that name:
    wrong where it stands for a loopback or for another network. So the route to the rendezvous decides both.

    Args:
        restarts: how often all ranks are started anew, and resume, after one has failed.

    Raises:
        ValueError: several nodes without a place to meet and a name for the job, or no way to that place.
    """
    options = ["--nproc-per-node", str(processes), "--max-restarts", str(restarts)]
    if nodes == 1 and rendezvous is None:
        return Launch(["torchrun", "--standalone", *options, *script])
    if rendezvous is None or not job_id:
        raise ValueError(f"--nodes {nodes} needs --rendezvous HOST:PORT of one of them and --job-id, the same on each")
    own, hosts_it = _route_to(rendezvous)
    meeting = ["--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous, "--rdzv-id", job_id]
    meeting += ["--rdzv-conf", f"is_host={str(hosts_it).lower()},read_timeout={_JOIN_SECONDS}", "--local-addr", own]
    return Launch(["torchrun", *meeting, *options, *script])


def by_slurm(
    script: list[str],
    batch_file: Path,
    nodes: int,
    tasks_per_node: int,
    gpus: bool = True,
    options: tuple[str, ...] = (),
) -> Launch:
    """`sbatch` of launch/slurm.sbatch: one task per GPU, started by srun.

    Args:
        options: further options of sbatch without their dashes, such as `partition=a100` or `time=24:00:00`.
    """
    words = [f"--nodes={nodes}", f"--ntasks-per-node={tasks_per_node}", "--export=ALL"]
    words += [f"--gpus-per-node={tasks_per_node}"] if gpus else []
    return Launch(["sbatch", *words, *(f"--{option}" for option in options), str(batch_file), *script])


def read_hostfile(path: Path) -> dict[str, int]:
    """Host name to number of processes, in order.

    Raises:
        ValueError: it is absent or empty, or a line is not `HOST slots=N`.
    """
    if not path.is_file():
        # DeepSpeed would warn and train on this machine alone.
        raise ValueError(f"hostfile {path} does not exist; one line per node: HOST slots=PROCESSES")
    hosts: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _HOST_LINE.fullmatch(text)
        if match is None or int(match[2]) < 1 or not _SAFE_WORD.fullmatch(match[1]):
            raise ValueError(f"{path}, line {number}: {text!r}; expected HOST slots=PROCESSES")
        if match[1] in hosts:
            raise ValueError(f"{path}, line {number}: {match[1]} is listed twice")
        hosts[match[1]] = int(match[2])
    if not hosts:
        raise ValueError(f"hostfile {path} names no host; one line per node: HOST slots=PROCESSES")
    return hosts


def _route_to(rendezvous: str) -> tuple[str, bool]:
    """This machine's address on the way to `rendezvous` (HOST:PORT), and whether HOST is this machine."""
    host, _, port = rendezvous.rpartition(":")
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # chooses a route; nothing is sent
            own = str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--rendezvous {rendezvous}: no way there from this node ({error}); expected HOST:PORT"
        ) from error
    return own, own == address[0]


def _refuse_secrets_for_deepspeed() -> None:
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    for path in (Path.home() / name, Path(name)):
        if not path.is_file():
            continue
        for line in path.read_text(encoding="utf-8").splitlines():
            variable = line.partition("=")[0].strip()
            if is_secret(variable):
                raise ValueError(
                    f"{path} holds {variable}, which DeepSpeed would show in its log and in the process list of every "
                    "node; remove that line and export the variable: the launch file carries it"
                )
