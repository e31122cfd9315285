"""The launch over ssh through DeepSpeed's own launcher, with stand-ins for pdsh and ssh."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import stand_ins
from tests.launch.two_hosts import ROOT


@pytest.mark.distributed
def test_arguments_and_secrets_reach_the_ranks_unseen(tmp_path: Path) -> None:
    """Two nodes: words that a shell would change arrive as they are; a secret is on no command line and in no log."""
    env = stand_ins.install(tmp_path / "site", pdsh=stand_ins.PDSH, ssh=stand_ins.SSH)
    env |= {"WANDB_API_KEY": '0123secret "$(id)"', "WANDB_PROJECT": "two words", "HOME": str(tmp_path)}
    (tmp_path / "hostfile").write_text("node1 slots=1\nnode2 slots=1\n")
    # main takes the training script from the folder it is given.
    folder = tmp_path / "launch"
    folder.mkdir()
    (folder / "pretrain.py").write_text(stand_ins.REPORT)
    start = f"import sys, pathlib; from spacetime_gr.launching.main import main; main(pathlib.Path({str(folder)!r}))"
    training = ["--config", "a b.yaml", 'x={y: $(id), z: "w"}', "p={a,b}", "*", "it's"]
    words = ["ssh", "--hostfile", str(tmp_path / "hostfile"), "--file", str(tmp_path / "launch.json")]
    done = subprocess.run(
        [sys.executable, "-c", start, *words, "--", *training],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    notes = stand_ins.reports(tmp_path / "site")
    assert [note["arguments"] for note in notes] == [training, training]
    for number, note in enumerate(notes):
        got = note["environment"]
        assert (got["RANK"], got["WORLD_SIZE"], got["MASTER_ADDR"]) == (str(number), "2", "127.0.0.1")
        assert (got["WANDB_API_KEY"], got["WANDB_PROJECT"]) == ('0123secret "$(id)"', "two words")
    seen = done.stdout + done.stderr + (tmp_path / "site" / "pdsh.txt").read_text()
    assert "0123secret" not in seen
    assert str(tmp_path / "launch.json") in seen
