"""Whatever befalls a run: it ends by itself, says so, and goes on from the last checkpoint as if nothing had been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from spacetime_gr.training.outcome import RETRY
from tests.spacetime_gr.training.processes import ROOT, Rank, RankServer, free_port, wait_ranks
from tests.spacetime_gr.training.test_resume import command, records

CONFIG = """
data: {path: CITY, row_length: 64, num_lanes: 4}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_user_buckets: 16, spatial_features: 8,
        pointer_size: 8, hidden_dropout: 0.1}
train: {max_steps: 24, warmup_steps: 2, precision: fp32}
deepspeed: {zero_stage: 1}
checkpoint: {every: 16, ephemeral_every: 4}
log: {every: 1}
eval: {num_rows: 4}
"""
WORKER = "tests/spacetime_gr/training/fault_worker.py"
KILLED = -signal.SIGKILL


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for the checkpoints of the run `broken`."""
    folder = tmp_path / "broken" / "checkpoints"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a disk that fills up needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class Run:
    """One run directory, started again and again, each time with another fault."""

    def __init__(self, config: Path, folder: Path, logs: Path, ranks: RankServer) -> None:
        self.config, self.folder, self.logs, self.ranks = config, folder, logs, ranks
        self.pids = logs / "pids"
        self.pids.mkdir()

    def start(self, fault: str, *overrides: str) -> list[Rank]:
        for log in self.logs.glob("rank-*.log"):
            log.unlink()
        worker = [WORKER, *command(self.config, self.folder)[1:], *overrides]
        return self.ranks.start(worker, 2, self.logs, FAULT=fault, FAULT_PIDS=str(self.pids))

    def said(self, rank: int) -> str:
        return (self.logs / f"rank-{rank}.log").read_text()

    @property
    def status(self) -> dict:
        return json.loads((self.folder / "status.json").read_text())

    @property
    def steps(self) -> list[int]:
        return sorted(int(path.name.removeprefix("step-")) for path in (self.folder / "checkpoints").glob("step-*"))

    def left(self) -> list[int]:
        """Ranks that are still there."""
        return [int(path.name) for path in self.pids.iterdir() if alive(int(path.name))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.distributed
def test_no_fault_costs_more_than_the_steps_since_the_last_checkpoint(
    city: Path, tmp_path: Path, small_disk: Path, ranks: RankServer
) -> None:
    config, whole = tmp_path / "config.yaml", tmp_path / "whole"
    config.write_text(f"run: {{dir: unset}}\n{CONFIG.replace('CITY', str(city))}")
    wait_ranks(ranks.start(command(config, whole), 2, tmp_path), tmp_path)
    run = Run(config, tmp_path / "broken", tmp_path, ranks)

    # A rank is killed while it waits for data, while it writes a checkpoint, and in a step.
    kills = [(1, "data", 6, [4]), (0, "checkpoint", 8, [4]), (1, "step", 10, [4, 8])]
    for victim, phase, step, steps in kills:
        survivor = 1 - victim
        codes = (KILLED, RETRY) if victim == 0 else (RETRY, KILLED)
        wait_ranks(run.start(f"{victim} {phase} {step} KILL"), tmp_path, codes=codes)
        assert run.steps == steps
        said = run.said(survivor)
        assert "lost another rank" in said
        assert f"the newest checkpoint is step-{steps[-1]:08d}; start the same command again" in said
        assert (run.status["state"], run.status["retry"]) == ("failed", True)
        assert "lost another rank" in run.status["reason"]
        assert run.left() == []

    # A rank stands still: the other one does not wait for ever, and a rank that comes back does not go on alone.
    processes = run.start("1 step 14 STOP", "run.timeout_minutes=0.4")
    assert processes[0].wait(300) == RETRY
    said = run.said(0)
    assert "no step for 0.4 minutes (run.timeout_minutes) after step 13; waiting in " in said
    assert "train_step (trainer.py" in said
    assert run.status["retry"] is True
    assert "no step for" in run.status["reason"]
    processes[1].send_signal(signal.SIGCONT)
    assert processes[1].wait(120) == RETRY
    assert run.steps == [8, 12]

    # The newest checkpoint is damaged, and the disk is full.
    damaged = small_disk / "step-00000012" / "engine" / "mp_rank_00_model_states.pt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 20_000))
    wait_ranks(run.start("0 none 0 KILL"), tmp_path, codes=(RETRY, RETRY))
    said = run.said(0)
    assert "step 12 is damaged and passed over: engine/mp_rank_00_model_states.pt is not what was written" in said
    assert "damaged-step-00000012; remove it" in said
    assert "warning: the checkpoint of step 12 could not be written" in said
    assert "training goes on, failure 1 of 3 allowed" in said
    assert "error: the checkpoint of step 16 could not be written" in said
    assert "bytes free in" in said
    assert "The newest checkpoint is" in said
    assert "step-00000008. Make room" in said
    assert run.status["retry"] is True
    assert [line["step"] for line in records(run.folder) if "checkpoint_failed" in line] == [13]
    assert sorted(path.name for path in small_disk.iterdir()) == ["damaged-step-00000012", "filler", "step-00000008"]
    filler.unlink()

    wait_ranks(ranks.start(command(config, run.folder), 2, tmp_path), tmp_path)
    assert (run.status["state"], run.status["retry"]) == ("finished", False)
    assert records(run.folder) == records(whole)
    expected, got = (load_file(folder / "export/model.safetensors") for folder in (whole, run.folder))
    assert expected.keys() == got.keys()
    assert all(bool((expected[name] == got[name]).all()) for name in expected)


@pytest.mark.distributed
def test_ranks_stop_when_the_command_that_started_them_is_killed(city: Path, tmp_path: Path, ranks: RankServer) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"run: {{dir: unset}}\n{CONFIG.replace('CITY', str(city))}")
    run = Run(config, tmp_path / "run", tmp_path, ranks)
    env = {**os.environ, "FAULT": "0 step 6 LAUNCHER", "FAULT_PIDS": str(run.pids)}
    env.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "2"]
    launcher += ["--master_port", str(free_port()), WORKER, *command(config, run.folder)[1:]]
    log = tmp_path / "launcher.log"
    with log.open("w") as output:
        started = subprocess.Popen(launcher, env=env, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    assert started.wait(900) == KILLED, log.read_text()[-3000:]
    assert run.left()
    wait_until(lambda: not run.left())
    assert (run.status["state"], run.status["retry"]) == ("stopped", True), log.read_text()[-3000:]
    assert 6 < run.status["step"] < 24
    assert run.steps[-1] == run.status["step"]
