"""Training on two hosts that do not trust ssh; the cable between them is cut, and the run goes on afterwards."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spacetime_gr.training.checkpoints import CheckpointStore
from tests.launch.two_hosts import ROOT, TwoHosts, host_environment, ip, two_hosts, unavailable
from tests.spacetime_gr.training.prepared_city import write_city

NUM_STEPS = 150
CONFIG = """
run: {dir: RUN, timeout_minutes: 0.2}
data: {path: CITY, row_length: 64, num_lanes: 4}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_user_buckets: 16, spatial_features: 8,
        pointer_size: 8}
train: {max_steps: NUM_STEPS, warmup_steps: 2, precision: fp32}
deepspeed: {zero_stage: 1}
checkpoint: {ephemeral_every: 10}
log: {every: 1, console: false}
eval: {at_end: false}
"""
# What a rank says that waited too long: the collective itself, or whatever watches over the steps.
GAVE_UP = re.compile(r"Timed out waiting|no step for")


def write_config(folder: Path, city: Path) -> tuple[Path, Path]:
    """The configuration's file and its run directory."""
    run, file = folder / "run", folder / "config.yaml"
    text = CONFIG.replace("RUN", str(run)).replace("CITY", str(city)).replace("NUM_STEPS", str(NUM_STEPS))
    file.write_text(text)
    return file, run


def lines_of(run: Path) -> list[str]:
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def left_in_sessions(processes: list[subprocess.Popen]) -> list[str]:
    """Processes, zombies too, that belong to a session which one of `processes` began."""
    begun, left = {process.pid for process in processes}, []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = file.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # pid (name) state parent group session …; the name may hold anything.
        if int(text.rpartition(")")[2].split()[3]) in begun:
            left.append(text)
    return left


def wait_until(condition: Callable[[], bool], processes: list[subprocess.Popen], logs: list[Path]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        said = "\n".join(log.read_text()[-3000:] for log in logs)
        assert time.monotonic() < deadline, said
        assert all(process.poll() is None for process in processes), said
        time.sleep(0.02)


@pytest.mark.distributed
def test_a_cut_link_ends_the_run_and_the_same_command_finishes_it(tmp_path: Path) -> None:
    if reason := unavailable():
        pytest.skip(reason)
    config, run = write_config(tmp_path, write_city(tmp_path / "city"))
    hostfile = tmp_path / "hostfile"

    def launch(hosts: TwoHosts, session: str) -> tuple[list[subprocess.Popen], list[Path]]:
        logs = [tmp_path / f"{session}-host-{number}.log" for number in (0, 1)]
        processes = []
        for number, log in enumerate(logs):
            node = ["--hostfile", str(hostfile), "--node-rank", str(number), "--master-addr", hosts.addresses[0]]
            command = [sys.executable, "launch/cluster.py", "no-ssh", *node, "--", "--config", str(config)]
            processes.append(hosts.start(number, command, host_environment(), log))
        return processes, logs

    with two_hosts() as hosts:
        hostfile.write_text("".join(f"{address} slots=1\n" for address in hosts.addresses))
        for name in hosts.names:  # no way out of the two
            assert all(route.startswith("10.213.0.0/30 ") for route in ip("-n", name, "route").splitlines())

        processes, logs = launch(hosts, "first")
        wait_until(lambda: len(lines_of(run)) >= 25, processes, logs)
        hosts.set_link("down")
        cut = time.monotonic()
        assert [process.wait(300) for process in processes] == [75, 75]
        print(f"both hosts had ended {time.monotonic() - cut:.1f} s after the cut")
        for log in logs:
            assert GAVE_UP.search(log.read_text()), log.read_text()[-3000:]
        assert hosts.running() == []
        assert left_in_sessions(processes) == []
        newest = CheckpointStore(run / "checkpoints").newest()
        assert newest is not None
        assert 20 <= newest.step < NUM_STEPS
        before = lines_of(run)[: newest.step]

        hosts.set_link("up")
        processes, logs = launch(hosts, "second")
        codes = [process.wait(600) for process in processes]
        assert codes == [0, 0], "\n".join(log.read_text()[-3000:] for log in logs)
        assert hosts.running() == []
        assert left_in_sessions(processes) == []
    assert not set(hosts.names) & set(ip("netns", "list").split())

    after = lines_of(run)
    assert after[: newest.step] == before  # the speeds in it too: these steps were not taken again
    assert [json.loads(line)["step"] for line in after] == list(range(1, NUM_STEPS + 1))
    assert json.loads((run / "status.json").read_text())["state"] == "finished"


@pytest.mark.distributed
def test_one_machine_by_deepspeed_then_by_torchrun(tmp_path: Path) -> None:
    """The launchers share run directories: one takes up what the other began."""
    config, run = write_config(tmp_path, write_city(tmp_path / "city"))
    for way, steps in (("local", 3), ("torchrun", 5)):
        training = ["--config", str(config), f"train.max_steps={steps}"]
        command = [sys.executable, "launch/cluster.py", way, "--processes", "1", "--", *training]
        env = host_environment() | {"GLOO_SOCKET_IFNAME": "lo"}
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert [json.loads(line)["step"] for line in lines_of(run)] == list(range(1, steps + 1))
    assert len(set(lines_of(run))) == 5
