"""What a run shows of itself: two sessions, the first killed, wandb lost in both."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spacetime_gr.training.processes import ROOT, free_port, rank_environment, wait_ranks

CONFIG = """
run: {dir: DIR, callbacks: ["tests.spacetime_gr.training.own_callbacks:StepCounter",
                            "tests.spacetime_gr.training.own_callbacks:Breakage"]}
data: {path: CITY, row_length: 64, num_lanes: 4}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_user_buckets: 16, spatial_features: 8,
        pointer_size: 8}
train: {max_steps: 20, warmup_steps: 2, precision: fp32}
checkpoint: {ephemeral_every: 8}
log: {every: 1, wandb: true, num_examples: 3, profile_steps: [3, 4], memory_snapshot_step: 2}
eval: {every: 5, num_rows: 8}
"""


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Address of a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(64)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_killed_run_without_wandb_is_accounted_for(
    city: Path, tmp_path: Path, silent_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no key file either
    run, config = tmp_path / "run", tmp_path / "config.yaml"
    config.write_text(CONFIG.replace("DIR", str(run)).replace("CITY", str(city)))
    command = ["launch/pretrain.py", "--config", str(config)]

    monkeypatch.setenv("KILL_WANDB_AT", "10")
    monkeypatch.setenv("DIE_AT", "14")
    process = start_process(command, tmp_path)
    assert process.wait(300) == -9, (tmp_path / "rank-0.log").read_text()[-3000:]
    log = (tmp_path / "rank-0.log").read_text()
    assert log.count("wandb is lost") == 1
    assert [line["step"] for line in lines(run)] == list(range(1, 14))
    assert_wandb_had_tables(run)
    assert_profiled(run)

    for name in ("KILL_WANDB_AT", "DIE_AT"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    (tmp_path / "rank-0.log").unlink()
    wait_ranks([start_process(command, tmp_path)], tmp_path)
    log = (tmp_path / "rank-0.log").read_text()
    assert log.count("wandb is lost (it did not finish within 2 s)") == 1
    assert "x" * 40 not in log
    assert "5 steps done again" in log.splitlines()[-2]
    record = lines(run)[-1]
    assert [line["step"] for line in lines(run)] == list(range(1, 21))
    assert record["counted"] == 20  # from the checkpoint, not from the killed session
    assert_time_adds_up(record)


def start_process(command: list[str], folder: Path) -> subprocess.Popen:
    """One rank as a process of its own, not forked: what wandb does when its process ends is part of the test."""
    env = {**os.environ, **rank_environment(0, 1, free_port())}
    with (folder / "rank-0.log").open("a") as log:
        return subprocess.Popen([sys.executable, *command], env=env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_wandb_had_tables(run: Path) -> None:
    (table,) = (run / "wandb").glob("offline-run-*/files/media/table/recommendations_*.json")
    table = json.loads(table.read_text())
    assert table["columns"][:4] == ["person", "history", "next at", "next"]
    assert [row[0] for row in table["data"]] == [1, 2, 3]
    assert all(row[5].count(" > ") == 9 for row in table["data"])


def assert_profiled(run: Path) -> None:
    events = json.loads((run / "profile/trace-rank-0.json").read_text())["traceEvents"]
    marks = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    for region in ("data", "forward", "body", "heads", "backward", "optimizer"):
        assert marks.count(region) == 2, region
    operators = (run / "profile/operators-rank-0.txt").read_text()
    assert operators.count("aten::") > 5, operators  # which of them are the slowest depends on the machine
    tensors = json.loads((run / "profile/tensors-step-2-rank-0.json").read_text())
    sizes = [entry["bytes"] for entry in tensors["largest"]]
    assert sizes == sorted(sizes, reverse=True)
    assert tensors["bytes"] >= sum(sizes)
    assert any("embed_tokens.weight" in name for entry in tensors["largest"] for name in entry["names"])


def assert_time_adds_up(record: dict) -> None:
    parts = {key: value for key, value in record.items() if key.startswith("time/")}
    wall, lost_steps = parts.pop("time/wall"), parts.pop("time/lost_steps")
    assert lost_steps == 5
    assert sum(parts.values()) == pytest.approx(wall)
    always = ("train", "data", "evaluation", "checkpoint", "logging", "counting", "profiler", "start_up", "lost")
    assert all(parts[f"time/{name}"] > 0 for name in always)
    assert 0 <= parts["time/other"] < 0.2 * wall
    assert record["goodput"] == pytest.approx(parts["time/train"] / wall)
