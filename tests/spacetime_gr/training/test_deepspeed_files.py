"""Each file of configs/deepspeed/ says what its name says, DeepSpeed knows its keys, and training runs under it."""

import json
from pathlib import Path
from typing import Any

import pytest

from spacetime_gr.planning.sharing import Zero
from spacetime_gr.training.engine import deepspeed_settings, resolve_stage
from spacetime_gr.training.loading import ROOT, load_config
from tests.spacetime_gr.training.processes import RankServer, wait_ranks

FILES = sorted((ROOT / "configs" / "deepspeed").glob("*.json"))
OFFLOADS = {"zero2_offload": "optimizer", "zero3_offload": "all"}


def settings_of(file: Path, precision: str) -> dict[str, Any]:
    config = load_config("configs/pretrain/corpus.yaml", [f"deepspeed.config={file}", "deepspeed.zero_stage=null"])
    assert resolve_stage(config) == int(file.stem[4])
    return deepspeed_settings(config, 8, precision)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_settings_of_each_file(file: Path) -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    settings = settings_of(file, "bf16")
    assert settings["bf16"] == {"enabled": True}
    assert settings["zero_optimization"]["stage"] == int(file.stem[4])
    known = DeepSpeedZeroConfig(**settings["zero_optimization"])  # refuses a key that it does not know
    assert known.overlap_comm
    zero = Zero.from_settings(settings)
    assert zero.offload == OFFLOADS.get(file.stem, "none")
    assert zero.reduce_bucket == known.reduce_bucket_size
    assert zero.reuse_distance == known.max_reuse_distance
    assert zero.persistence_threshold == known.param_persistence_threshold
    assert settings_of(file, "fp32")["bf16"] == {"enabled": False}


def test_defaults_of_buffers_are_those_of_deepspeed() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for stage in range(4):
        known, assumed = DeepSpeedZeroConfig(stage=stage), Zero.from_settings({"zero_optimization": {"stage": stage}})
        assert assumed.reduce_bucket == known.reduce_bucket_size
        assert assumed.allgather_bucket == known.allgather_bucket_size
        assert assumed.prefetch_bucket == known.prefetch_bucket_size
        assert assumed.reuse_distance == known.max_reuse_distance
        assert assumed.persistence_threshold == known.param_persistence_threshold
        assert assumed.overlap == known.overlap_comm


def test_every_file_has_a_row_on_the_page() -> None:
    page = (ROOT / "docs" / "deepspeed.md").read_text(encoding="utf-8")
    assert {file.name for file in FILES} == {
        line.split("`")[1] for line in page.splitlines() if line.startswith("| `zero")
    }


@pytest.mark.distributed
def test_training_runs_under_each_file(city: Path, ranks: RankServer, tmp_path: Path) -> None:
    """And comes to the same weights."""
    out = tmp_path / "apart.json"
    names = [str(file.relative_to(ROOT)) for file in FILES]
    worker = "tests/spacetime_gr/training/deepspeed_files_worker.py"
    wait_ranks(ranks.start([worker, str(city), str(out), *names], 1, tmp_path), tmp_path)
    apart = json.loads(out.read_text())
    assert sorted(apart) == names
    assert max(apart.values()) < 5e-6, apart
