"""The commands of an ablation: their settings are read back as they were meant."""

from argparse import Namespace
from pathlib import Path

import yaml

from benchmarks.ablation import ROOT, jobs
from spacetime_gr.training.loading import load_config


def test_folders_of_any_name_reach_the_training(tmp_path: Path) -> None:
    data, out = tmp_path / "a: b", tmp_path / "[1, 2]"
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"run": {"dir": "unset"}, "data": {"path": "unset"}, "train": {"max_steps": 1}}))
    given = {"variants": [], "folder": [], "overrides": [], "protocol": "public", "max_targets": None}
    (job,) = jobs(Namespace(data=data, out=out, config=config, seeds=[3], steps=7, **given))
    assert job.train[1] == str(ROOT / "launch" / "pretrain.py")
    read = load_config(config, [word for word in job.train[2:] if "=" in word])
    assert (read.data.path, read.run.dir) == (str(data), str(out / "full" / "seed-3" / "run"))
    assert (read.train.seed, read.train.max_steps) == (3, 7)
