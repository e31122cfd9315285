"""A rank learns its place from srun or mpirun, and becomes the training script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spacetime_gr.launching import rank
from tests.launch import stand_ins

MEETING = {"MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
MPI = {"RANK": "5", "SIZE": "8", "LOCAL_RANK": "1", "LOCAL_SIZE": "4"}


def test_open_mpi_is_understood(tmp_path: Path) -> None:
    """And the process stays the same, so that a signal sent to it reaches the training."""
    env = stand_ins.install(tmp_path) | MEETING | {f"OMPI_COMM_WORLD_{name}": value for name, value in MPI.items()}
    words = [
        sys.executable,
        "-m",
        "spacetime_gr.launching.rank",
        "openmpi",
        str(tmp_path / "report.py"),
        "a b",
        "$(id)",
    ]
    process = subprocess.Popen(words, env={**env, "CODE": "75"})
    assert process.wait(120) == 75
    (report,) = stand_ins.reports(tmp_path)
    assert report["arguments"] == ["a b", "$(id)"]
    got = report["environment"]
    assert [got[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")] == ["5", "8", "1", "4"]


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("SLURM_PROCID", "start this under srun"),
        ("SLURM_NTASKS_PER_NODE", "give sbatch --ntasks-per-node"),
        ("MASTER_ADDR", "set it to that of rank 0's node"),
    ],
)
def test_what_is_missing_is_named(missing: str, remedy: str) -> None:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
    environment = dict.fromkeys(names, "1") | MEETING
    assert rank.rank_variables("slurm", environment)["WORLD_SIZE"] == "1"
    del environment[missing]
    with pytest.raises(ValueError, match=f"{missing} is not set.*{remedy}"):
        rank.rank_variables("slurm", environment)


@pytest.mark.parametrize("words", [[], ["slurm"], ["pbs", "x.py"], ["file"], ["file", "a", "b"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rank.main(words) == 2
    assert capsys.readouterr().err.startswith("usage: ")


def test_an_absent_launch_file_ends_the_rank(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert rank.main(["file", os.fspath(tmp_path / "absent.json")]) == 2
    assert "is missing on this node" in capsys.readouterr().err
