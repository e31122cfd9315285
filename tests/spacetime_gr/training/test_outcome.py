"""What an error means to a scheduler, and what stays in status.json."""

import errno
import json
from pathlib import Path

import pytest
import torch.distributed as dist

from spacetime_gr.training.outcome import FAILED, INTERRUPTED, RETRY, WRONG, judge, write_failure, write_status
from spacetime_gr.training.snapshots import CheckpointError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("disk full"), RETRY),
        (OSError(errno.ENOSPC, "No space left on device"), RETRY),
        (OSError(errno.ESTALE, "Stale file handle"), RETRY),
        (RuntimeError("[/pytorch/gloo/pair.cc:553] Connection closed by peer [10.0.0.2]:1234"), RETRY),
        (dist.DistNetworkError("cannot reach the store"), RETRY),
        (FloatingPointError("the gradient norm is nan"), FAILED),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), FAILED),
        (KeyError("labels"), FAILED),
        (FileNotFoundError(errno.ENOENT, "no such shard"), WRONG),
        (ValueError("train.lr"), WRONG),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)
def test_codes(error: BaseException, code: int) -> None:
    verdict = judge(error)
    assert verdict.code == code
    assert verdict.retry == (code == RETRY)
    # What nobody foresaw is shown with its traceback.
    assert verdict.expected == (not isinstance(error, (KeyError, RuntimeError)) or code == RETRY)


def test_the_first_reason_stays(tmp_path: Path) -> None:
    def status() -> dict:
        return json.loads((tmp_path / "status.json").read_text())

    write_status(tmp_path, "running", retry=True, step=5, limits={"max_steps": 9})
    write_failure(tmp_path, judge(FloatingPointError("norm is nan")), secondary=False, step=7)
    write_failure(tmp_path, judge(RuntimeError("Connection closed by peer")), secondary=True, step=7)
    expected = {"state": "failed", "retry": False, "reason": "norm is nan", "step": 7, "limits": {"max_steps": 9}}
    assert status() == expected
    write_status(tmp_path, "running", retry=True, step=5)
    write_failure(tmp_path, judge(RuntimeError("Connection closed by peer")), secondary=True, step=6)
    assert (status()["state"], status()["retry"], status()["step"]) == ("failed", True, 6)
    assert "lost another rank (Connection closed by peer)" in status()["reason"]
    write_failure(tmp_path / "absent", judge(ValueError("first start")), secondary=False)
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
