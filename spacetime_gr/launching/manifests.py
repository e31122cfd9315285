"""Kubernetes manifests: the templates of launch/kubernetes/ with a run's names, sizes and arguments filled in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from spacetime_gr.launching.commands import Launch
from spacetime_gr.launching.forwarding import is_secret

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Job:
    """What is filled into a template.

    Args:
        name: of the job: lower-case letters, digits and dashes.
        image: container image with this checkout and its environment.
        nodes: pods that train.
        gpus: of each node, and its number of processes.
        claim: name of the volume claim that holds data and run directory, mounted at /runs.
        secret: name of the Kubernetes secret with WANDB_API_KEY, HF_TOKEN and the like.
    """

    name: str
    image: str
    nodes: int
    gpus: int
    claim: str
    secret: str


def by_kubernetes(
    template: Path, job: Job, arguments: list[str], environment: Mapping[str, str], namespace: str | None = None
) -> Launch:
    """`kubectl create` of a filled template.

    Args:
        template: launch/kubernetes/pytorchjob.yaml or mpijob.yaml.
        arguments: of the training script.
        environment: variables for the ranks; secret ones are left out, as they belong in `job.secret`.

    Raises:
        ValueError: a name that Kubernetes would refuse, or fewer than one node or GPU.
    """
    for what, name in (("--name", job.name), ("--claim", job.claim), ("--secret", job.secret)):
        if not _NAME.fullmatch(name):
            raise ValueError(f"{what} is {name!r}; expected lower-case letters, digits and dashes")
    if job.nodes < 1 or job.gpus < 1:
        raise ValueError(f"--nodes is {job.nodes} and --gpus is {job.gpus}; expected at least 1 of each")
    manifest = yaml.safe_load(template.read_text(encoding="utf-8"))
    manifest["metadata"]["name"] = job.name
    fill = {"PyTorchJob": _fill_pytorch_job, "MPIJob": _fill_mpi_job}[manifest["kind"]]
    # Kubernetes would put variables in place of $(NAME).
    fill(manifest["spec"], job, [argument.replace("$(", "$$(") for argument in arguments])
    settings = {name: value for name, value in environment.items() if not is_secret(name)}
    for pod in _pods(manifest["spec"]):
        for volume in pod.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                volume["persistentVolumeClaim"]["claimName"] = job.claim
        (container,) = pod["containers"]
        container["image"] = job.image
        if "envFrom" in container:
            container["envFrom"][0]["secretRef"]["name"] = job.secret
            container["env"] += [
                {"name": name, "value": value.replace("$(", "$$(")} for name, value in settings.items()
            ]
            if container["command"][0] == "mpirun":
                position = container["command"].index("python")
                container["command"][position:position] = [word for name in settings for word in ("-x", name)]
        if "resources" in container:
            container["resources"]["limits"]["nvidia.com/gpu"] = job.gpus
    where = [] if namespace is None else ["--namespace", namespace]
    return Launch(["kubectl", "create", *where, "--filename", "-"], stdin=_dump(manifest))


def _fill_pytorch_job(spec: dict[str, Any], job: Job, arguments: list[str]) -> None:
    replicas = spec["pytorchReplicaSpecs"]
    for name in ("Master", "Worker"):
        (container,) = replicas[name]["template"]["spec"]["containers"]
        sizes = {"--nnodes": job.nodes, "--nproc-per-node": job.gpus}
        container["command"] = [
            f"{word.partition('=')[0]}={sizes[word.partition('=')[0]]}" if word.partition("=")[0] in sizes else word
            for word in container["command"]
        ]
        container["args"] = arguments
    replicas["Worker"]["replicas"] = job.nodes - 1
    if job.nodes == 1:
        del replicas["Worker"]


def _fill_mpi_job(spec: dict[str, Any], job: Job, arguments: list[str]) -> None:
    spec["slotsPerWorker"] = job.gpus
    spec["mpiReplicaSpecs"]["Worker"]["replicas"] = job.nodes
    (launcher,) = spec["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"]
    command = launcher["command"]
    command[command.index("-np") + 1] = str(job.nodes * job.gpus)
    launcher["args"] = arguments
    (address,) = [variable for variable in launcher["env"] if variable["name"] == "MASTER_ADDR"]
    address["value"] = f"{job.name}-worker-0.{job.name}"


def _pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a job, each once: a template may stand under two names by a YAML anchor."""
    (replicas,) = [value for key, value in spec.items() if key.endswith("ReplicaSpecs")]
    pods = [replica["template"]["spec"] for replica in replicas.values()]
    return list({id(pod): pod for pod in pods}.values())


class _Dumper(yaml.SafeDumper):
    """Writes a template that stands under two names twice: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(manifest: dict[str, Any]) -> str:
    return yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=1000)
