"""Every ZeRO stage, with and without accumulation, gives the weights of one process that sees the whole batch.

A rank or a micro-batch without supervised tokens is among the steps.
"""

import json
from pathlib import Path

import pytest

from tests.spacetime_gr.training.processes import start_ranks, wait_ranks


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 2])
def test_updated_weights_equal_one_process(world_size: int, city: Path, tmp_path: Path) -> None:
    out = tmp_path / "parity.json"
    worker = "tests/spacetime_gr/training/parity_worker.py"
    wait_ranks(start_ranks([worker, str(city), str(out)], world_size, tmp_path), tmp_path)
    found = json.loads(out.read_text())
    assert len(found["results"]) == 10
    assert max(found["norms"]) > 0.5, "the steps must be clipped, or clipping is not compared"
    for case in found["results"]:
        assert case["names"], case
        assert case["times"] == [case["times"][0]] * world_size, case
        assert case["times"][0] > 0, case
        assert case["norm_error"] < 1e-5, case
        assert case["worst"] < 5e-6, case
