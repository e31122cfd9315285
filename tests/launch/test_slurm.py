"""The batch script, with stand-ins for srun and scontrol: two tasks, and who is queued again."""

import subprocess
from pathlib import Path

import pytest

from tests.launch import stand_ins
from tests.launch.two_hosts import ROOT

JOB = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NTASKS_PER_NODE": "1"}


def run_batch(folder: Path, *words: str, **extra: str) -> subprocess.CompletedProcess:
    env = stand_ins.install(folder, srun=stand_ins.SRUN, scontrol=stand_ins.SCONTROL) | JOB | extra
    return subprocess.run(
        ["bash", str(ROOT / "launch/slurm.sbatch"), *words],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_tasks_learn_their_place(tmp_path: Path) -> None:
    words = [str(tmp_path / "report.py"), "--config", "a b.yaml", "x={y: $(id)}"]
    done = run_batch(tmp_path, *words, WANDB_API_KEY="0123secret", SLURM_CPUS_PER_TASK="6")
    assert done.returncode == 0, done.stderr
    first, second = stand_ins.reports(tmp_path)
    assert first["arguments"] == second["arguments"] == words[1:]
    for number, report in enumerate((first, second)):
        got = report["environment"]
        expected = {
            "RANK": str(number),
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "node7",
            "MASTER_PORT": "23456",
            "SRUN_CPUS_PER_TASK": "6",
            "WANDB_API_KEY": "0123secret",
        }
        assert {name: got[name] for name in expected} == expected
    assert "0123secret" not in done.stdout + done.stderr + (tmp_path / "srun.txt").read_text()
    assert not (tmp_path / "scontrol.txt").exists()


@pytest.mark.parametrize(
    ("code", "restarts", "queued", "left"),
    [("75", "3", True, 0), ("137", "", True, 0), ("75", "50", False, 75), ("1", "0", False, 1), ("2", "0", False, 2)],
)
def test_exit_codes_decide_what_is_queued_again(
    code: str, restarts: str, queued: bool, left: int, tmp_path: Path
) -> None:
    extra = {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    done = run_batch(tmp_path, str(tmp_path / "report.py"), CODE=code, **extra)
    asked = tmp_path / "scontrol.txt"
    assert asked.exists() is queued, done.stderr
    assert done.returncode == left
    if queued:
        assert asked.read_text() == "requeue 123456"
        assert "is queued again and resumes" in done.stderr


def test_a_batch_without_a_script_is_refused(tmp_path: Path) -> None:
    done = run_batch(tmp_path)
    assert done.returncode == 2
    assert "give the training script" in done.stderr
