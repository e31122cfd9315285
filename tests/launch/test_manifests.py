"""The Kubernetes files: valid as they stand, and what is filled in."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from spacetime_gr.launching.manifests import Job, by_kubernetes
from tests.launch import stand_ins
from tests.launch.two_hosts import ROOT

TEMPLATES = ROOT / "launch" / "kubernetes"
JOB = Job("run-7", "places:2", nodes=4, gpus=2, claim="disk", secret="keys")


def filled(kind: str, job: Job = JOB, **environment: str) -> dict[str, Any]:
    launch = by_kubernetes(TEMPLATES / f"{kind}.yaml", job, ["--config", "c.yaml", "a=$(RANK)"], environment, "team")
    assert shlex.join(launch.command) == "kubectl create --namespace team --filename -"
    assert launch.stdin is not None
    return yaml.safe_load(launch.stdin)


def pod_of(replica: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    (container,) = replica["template"]["spec"]["containers"]
    return replica["template"]["spec"], container


@pytest.mark.parametrize("kind", ["pytorchjob", "mpijob"])
def test_templates_stand_by_themselves(kind: str) -> None:
    """Filled with the sizes that the file itself has, nothing but the names changes."""
    manifest = yaml.safe_load((TEMPLATES / f"{kind}.yaml").read_text())
    job = Job("spacetime-gr", "registry.example/spacetime-gr:latest", 2, 8, "spacetime-gr", "spacetime-gr")
    arguments = ["--config", "configs/pretrain/corpus.yaml", "data.path=/runs/data", "run.dir=/runs/corpus"]
    assert (ROOT / arguments[1]).is_file()
    launch = by_kubernetes(TEMPLATES / f"{kind}.yaml", job, arguments, {})
    assert launch.stdin is not None
    assert yaml.safe_load(launch.stdin) == manifest


def test_pytorch_job() -> None:
    job = filled("pytorchjob", WANDB_PROJECT="p", WANDB_API_KEY="0123secret")
    assert (job["apiVersion"], job["kind"], job["metadata"]["name"]) == ("kubeflow.org/v1", "PyTorchJob", "run-7")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert (replicas["Master"]["replicas"], replicas["Worker"]["replicas"]) == (1, 3)
    for replica in replicas.values():
        pod, container = pod_of(replica)
        assert replica["restartPolicy"] == "OnFailure"
        assert (container["name"], container["image"]) == ("pytorch", "places:2")
        assert {"--nnodes=4", "--nproc-per-node=2", "--node-rank=$(RANK)"} <= set(container["command"])
        assert container["args"] == ["--config", "c.yaml", "a=$$(RANK)"]
        assert container["env"] == [{"name": "WANDB_PROJECT", "value": "p"}]
        assert container["envFrom"] == [{"secretRef": {"name": "keys", "optional": True}}]
        assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "disk"
    assert "0123secret" not in str(job)
    alone = filled("pytorchjob", Job("run-7", "places:2", nodes=1, gpus=2, claim="disk", secret="keys"))
    assert list(alone["spec"]["pytorchReplicaSpecs"]) == ["Master"]


def test_torchrun_takes_the_command_of_the_pods() -> None:
    from torch.distributed.run import get_args_parser

    _, container = pod_of(filled("pytorchjob")["spec"]["pytorchReplicaSpecs"]["Master"])
    words = [word.replace("$(RANK)", "3").replace("$(MASTER_PORT)", "23456") for word in container["command"][1:]]
    parsed = get_args_parser().parse_args([*words, *container["args"]])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.node_rank, parsed.master_port) == ("4", "2", 3, 23456)
    assert parsed.training_script == "launch/pretrain.py"


def test_mpi_job() -> None:
    job = filled("mpijob", WANDB_PROJECT="p", HF_TOKEN="0123secret")
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert job["spec"]["slotsPerWorker"] == 2
    replicas = job["spec"]["mpiReplicaSpecs"]
    assert (replicas["Launcher"]["replicas"], replicas["Worker"]["replicas"]) == (1, 4)
    _, launcher = pod_of(replicas["Launcher"])
    command = launcher["command"]
    assert command[command.index("-np") + 1] == "8"
    named = {command[position + 1] for position, word in enumerate(command) if word == "-x"}
    assert named == {"MASTER_ADDR", "MASTER_PORT", "WANDB_API_KEY", "HF_TOKEN", "WANDB_PROJECT"}
    assert command[-5:] == ["python", "-m", "spacetime_gr.launching.rank", "openmpi", "launch/pretrain.py"]
    variables = {variable["name"]: variable["value"] for variable in launcher["env"]}
    assert variables == {"MASTER_ADDR": "run-7-worker-0.run-7", "MASTER_PORT": "29500", "WANDB_PROJECT": "p"}
    pod, worker = pod_of(replicas["Worker"])
    assert worker["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "disk"
    assert "0123secret" not in str(job)


def test_kubectl_gets_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = (
        "import os, pathlib, sys; pathlib.Path(os.environ['REPORTS'], 'sent').write_text(sys.stdin.read()); sys.exit(3)"
    )
    for name, value in stand_ins.install(tmp_path, kubectl=keep).items():
        monkeypatch.setenv(name, value)
    launch = by_kubernetes(TEMPLATES / "mpijob.yaml", JOB, ["--config", "c.yaml"], {})
    assert launch.run() == 3
    assert (tmp_path / "sent").read_text() == launch.stdin


@pytest.mark.parametrize(("name", "nodes", "said"), [("A_b", 2, "--name is 'A_b'"), ("a", 0, "--nodes is 0")])
def test_what_kubernetes_would_refuse(name: str, nodes: int, said: str) -> None:
    job = Job(name, "places:2", nodes, 8, "disk", "keys")
    with pytest.raises(ValueError, match=said):
        by_kubernetes(TEMPLATES / "mpijob.yaml", job, [], {})
