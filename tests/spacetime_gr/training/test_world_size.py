"""A run continues on another number of ranks through DeepSpeed's universal checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.spacetime_gr.training.processes import ROOT, start_ranks, wait_ranks

CONFIG = """
data: {path: CITY, row_length: 64, num_lanes: 4}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_user_buckets: 16, spatial_features: 8,
        pointer_size: 8}
train: {max_steps: 12, warmup_steps: 2}
deepspeed: {zero_stage: 2}
checkpoint: {every: 8}
log: {every: 2}
eval: {num_rows: 4}
"""


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.distributed
def test_two_ranks_then_one(city: Path, tmp_path: Path) -> None:
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(f"run: {{dir: {run}}}\n{CONFIG.replace('CITY', str(city))}")
    command = ["launch/pretrain.py", "--config", str(config)]
    wait_ranks(start_ranks(command, 2, tmp_path), tmp_path)
    whole = losses(run)
    checkpoint = run / "checkpoints" / "step-00000008"
    shutil.rmtree(run / "checkpoints" / "step-00000012")
    (run / "status.json").unlink()

    (refused,) = start_ranks(command, 1, tmp_path)
    assert refused.wait(120) == 2
    said = (tmp_path / "rank-0.log").read_text()
    assert "was written by 2 ranks, now there are 1" in said
    convert = next(line.split() for line in said.splitlines() if "ds_to_universal" in line)
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *convert[1:]], env=environment, cwd=ROOT, check=True, capture_output=True)

    assert (checkpoint / "universal").is_dir()
    wait_ranks(start_ranks(command, 1, tmp_path), tmp_path)
    assert losses(run) == pytest.approx(whole, rel=1e-5)
