"""The time-out of the process group holds for the groups that DeepSpeed makes later, too."""

from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from spacetime_gr.training.distributed import limit_waiting


def time_out(group: dist.ProcessGroup) -> timedelta:
    return group._get_backend(torch.device("cpu")).options._timeout


def test_every_group_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        monkeypatch.setattr(distributed_c10d, name, getattr(distributed_c10d, name))  # given back afterwards
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(minutes=10))
    try:
        assert time_out(dist.new_group([0])) == timedelta(minutes=30)  # what makes the function necessary
        limit_waiting(timedelta(seconds=7))
        assert time_out(dist.group.WORLD) == time_out(dist.new_group([0])) == timedelta(seconds=7)
    finally:
        dist.destroy_process_group()
