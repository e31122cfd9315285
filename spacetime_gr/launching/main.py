"""Command line of launch/cluster.py: which way to start, and what the training script is given."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from spacetime_gr.launching import commands
from spacetime_gr.launching.commands import Launch
from spacetime_gr.launching.forwarding import forwarded
from spacetime_gr.launching.manifests import Job, by_kubernetes

_EPILOG = "Everything after -- goes to launch/pretrain.py. docs/cluster.md has a section on each way."


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """Start a run, or print how with --dry-run; returns the exit code, 2 for what was asked wrongly.

    Args:
        folder: launch/ of the checkout, which holds pretrain.py and the job files.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = words.index("--") if "--" in words else len(words)
    parser = _parser()
    given = parser.parse_args(words[:split])
    training = words[split + 1 :]
    if not training:
        parser.error("nothing for the training script; end with: -- --config FILE run.dir=DIR data.path=FOLDER")
    try:
        launch = _launch(given, folder, training)
        if given.dry_run:
            sys.stdout.write(launch.describe() + "\n")
            return 0
        return launch.run()
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _launch(given: argparse.Namespace, folder: Path, training: list[str]) -> Launch:
    script = [_from_here(folder / "pretrain.py"), *training]
    match given.way:
        case "local":
            return commands.local(script, given.processes)
        case "ssh":
            environment = forwarded(os.environ, given.forward)
            return commands.over_ssh(
                script, given.hostfile, given.file, environment, given.master_addr, given.master_port, given.ssh_port
            )
        case "no-ssh":
            return commands.without_ssh(script, given.hostfile, given.node_rank, given.master_addr, given.master_port)
        case "torchrun":
            return commands.by_torchrun(
                script, given.processes, given.nodes, given.rendezvous, given.job_id, given.restarts
            )
        case "slurm":
            batch_file = Path(_from_here(folder / "slurm.sbatch"))
            return commands.by_slurm(
                script, batch_file, given.nodes, given.tasks_per_node, not given.no_gpus, tuple(given.option)
            )
        case _:
            job = Job(given.name, given.image, given.nodes, given.gpus, given.claim, given.secret)
            template = folder / "kubernetes" / f"{given.kind}.yaml"
            return by_kubernetes(template, job, training, forwarded(os.environ, given.forward), given.namespace)


def _from_here(path: Path) -> str:
    """`path` as one would type it in the working directory."""
    path, here = path.absolute(), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cluster.py", description="Start a pretraining run on one machine or on many.", epilog=_EPILOG
    )
    ways = parser.add_subparsers(dest="way", required=True, metavar="WAY")

    def way(name: str, text: str) -> argparse.ArgumentParser:
        sub = ways.add_parser(name, help=text, description=text, epilog=_EPILOG, allow_abbrev=False)
        sub.add_argument(
            "--dry-run", action="store_true", help="print the exact command, secrets masked; start nothing"
        )
        return sub

    def forward(sub: argparse.ArgumentParser) -> None:
        text = "forward this variable too; a prefix where it ends in _, such as AWS_"
        sub.add_argument("--forward", action="append", default=[], metavar="NAME", help=text)

    sub = way("local", "one machine, by deepspeed")
    sub.add_argument("--processes", type=_positive, default=None, help="default: one per GPU")

    sub = way("ssh", "the nodes of a hostfile, by deepspeed with pdsh and ssh; run it on one of them")
    sub.add_argument("--hostfile", type=Path, required=True, help="lines: HOST slots=PROCESSES")
    text = "launch file that all nodes see; written with mode 600: forwarded variables and arguments"
    sub.add_argument("--file", type=Path, required=True, help=text)
    sub.add_argument("--master-addr", default=None, help="default: what the first host says of itself")
    sub.add_argument("--master-port", type=_positive, default=commands.DEFAULT_PORT)
    sub.add_argument("--ssh-port", type=_positive, default=None)
    forward(sub)

    sub = way("no-ssh", "one node of a hostfile, by deepspeed without ssh; run it on every node")
    sub.add_argument("--hostfile", type=Path, required=True, help="lines: HOST slots=PROCESSES; the same on every node")
    sub.add_argument("--node-rank", type=int, required=True, help="this node's line in the hostfile, from 0")
    sub.add_argument("--master-addr", required=True, help="address of node 0")
    sub.add_argument("--master-port", type=_positive, default=commands.DEFAULT_PORT)

    sub = way("torchrun", "one machine, or every one of several, by torchrun")
    sub.add_argument("--processes", type=_positive, required=True, help="on this machine")
    sub.add_argument("--nodes", type=_positive, default=1)
    sub.add_argument("--rendezvous", default=None, metavar="HOST:PORT", help="one of the nodes, the same on each")
    sub.add_argument("--job-id", default="", help="the same on each node, new for each job")
    sub.add_argument("--restarts", type=int, default=0, help="times all ranks are started again after a failure")

    sub = way("slurm", "one task per GPU, by sbatch and srun")
    sub.add_argument("--nodes", type=_positive, required=True)
    sub.add_argument("--tasks-per-node", type=_positive, required=True, help="and as many GPUs")
    sub.add_argument("--no-gpus", action="store_true", help="train on CPUs")
    text = "of sbatch, without dashes: partition=a100, time=24:00:00, account=NAME"
    sub.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=text)

    sub = way("kubernetes", "a PyTorchJob or an MPIJob of Kubeflow, by kubectl")
    sub.add_argument("--kind", choices=("pytorchjob", "mpijob"), default="pytorchjob")
    sub.add_argument("--name", default="spacetime-gr", help="of the job")
    sub.add_argument("--image", required=True, help="container image with this checkout")
    sub.add_argument("--nodes", type=_positive, required=True)
    sub.add_argument("--gpus", type=_positive, required=True, help="of each node")
    sub.add_argument("--claim", default="spacetime-gr", help="volume claim with data and run directory, at /runs")
    sub.add_argument("--secret", default="spacetime-gr", help="Kubernetes secret with WANDB_API_KEY, HF_TOKEN, …")
    sub.add_argument("--namespace", default=None)
    forward(sub)
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected at least 1")
    return value
