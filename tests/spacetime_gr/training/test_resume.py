"""A run that is killed and started again equals one that was not."""

import json
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from spacetime_gr import SpacetimeGRForCausalLM
from spacetime_gr.training.exporting import export_run
from spacetime_gr.training.outcome import RETRY
from tests.spacetime_gr.training.processes import RankServer, wait_ranks

CONFIG = """
data: {path: CITY, row_length: 64, num_lanes: 4, curriculum: {schedule: constant, final_share: 0.5}}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_user_buckets: 16, spatial_features: 8,
        pointer_size: 8, hidden_dropout: 0.1}
train: {max_steps: 60, warmup_steps: 2, gradient_accumulation: 2, precision: fp32, average_power: 1}
deepspeed: {zero_stage: 2}
checkpoint: {every: 20, ephemeral_every: 7, keep: 2}
log: {every: 3}
eval: {every: 25, num_rows: 8}
"""
TIMES = {
    "tokens_per_second",
    "tokens_per_second_per_device",
    "data_wait_share",
    "train_minutes",
    "peak_memory_gb",
    "goodput",
}


def command(config: Path, run: Path) -> list[str]:
    return ["launch/pretrain.py", "--config", str(config), f"run.dir={run}"]


def records(run: Path) -> list[dict]:
    """Lines of metrics but for what depends on the clock or tells of a resume, and the units that a restarted stream
    opens again."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    left_out = TIMES | {"resumed_from"}
    return [
        {k: v for k, v in line.items() if k not in left_out and not k.startswith(("stream/", "time/"))}
        for line in lines
    ]


def wait_for(condition, processes, logs: Path) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes), (logs / "rank-0.log").read_text()[-3000:]
        time.sleep(0.02)


def steps_done(run: Path) -> int:
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


@pytest.mark.distributed
def test_killed_and_stopped_run_equals_uninterrupted(city: Path, tmp_path: Path, ranks: RankServer) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"run: {{dir: unset}}\n{CONFIG.replace('CITY', str(city))}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    wait_ranks(ranks.start(command(config, whole), 2, tmp_path), tmp_path)

    processes = ranks.start(command(config, broken), 2, tmp_path)
    wait_for(lambda: steps_done(broken) >= 15, processes, tmp_path)
    for process in processes:
        process.kill()
    wait_ranks(processes, tmp_path, codes=(-signal.SIGKILL, -signal.SIGKILL))

    processes = ranks.start(command(config, broken), 2, tmp_path)
    wait_for(lambda: json.loads((broken / "status.json").read_text())["state"] == "running", processes, tmp_path)
    wait_for(lambda: steps_done(broken) >= 30, processes, tmp_path)
    processes[1].send_signal(signal.SIGTERM)  # one rank alone is told, as when a node is drained
    wait_ranks(processes, tmp_path, codes=(RETRY, RETRY))
    status = json.loads((broken / "status.json").read_text())
    assert status["state"] == "stopped"
    assert status["retry"] is True
    assert 30 < status["step"] < 60
    assert not (broken / "export").exists()
    export_run(broken, tmp_path / "early")
    early = SpacetimeGRForCausalLM.from_pretrained(tmp_path / "early")

    wait_ranks(ranks.start(command(config, broken), 2, tmp_path), tmp_path)
    assert records(broken) == records(whole)
    assert [line["step"] for line in records(broken)] == sorted({*range(3, 61, 3), 25, 50})
    expected, got = (load_file(run / "export/model.safetensors") for run in (whole, broken))
    assert expected.keys() == got.keys()
    assert {name: tensor.shape for name, tensor in load_file(tmp_path / "early/model.safetensors").items()} == {
        name: tensor.shape for name, tensor in got.items()
    }
    assert not bool((early.lm_head.weight == got["model.decoder.embed_tokens.weight"]).all())
    assert bool((early.places.block_centers == got["places.block_centers"]).all())
    assert all(bool((expected[name] == got[name]).all()) for name in expected)
    kept = sorted(path.name for path in (broken / "checkpoints").iterdir())
    assert kept == ["step-00000040", "step-00000056", "step-00000060"]
    status = json.loads((broken / "status.json").read_text())
    assert (status["state"], status["retry"], status["step"]) == ("finished", False, 60)

    wait_ranks(ranks.start(command(config, broken), 1, tmp_path), tmp_path)
    assert "this run is finished" in (tmp_path / "rank-0.log").read_text()
