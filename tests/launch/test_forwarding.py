"""What goes to other nodes, and that nobody else reads it."""

import stat
from pathlib import Path

import pytest

from spacetime_gr.launching.forwarding import (
    LaunchFile,
    forwarded,
    is_secret,
    masked,
    read_launch_file,
    write_launch_file,
)


def test_what_is_forwarded() -> None:
    environment = {
        "WANDB_API_KEY": "1",
        "HF_HOME": "2",
        "NCCL_DEBUG": "3",
        "OMP_NUM_THREADS": "4",
        "SPACETIME_GR_DEBUG": "5",
        "AWS_REGION": "6",
        "SITE": "7",
        "CUDA_VISIBLE_DEVICES": "0",  # each node's launcher sets its own
        "RANK": "3",
        "HOME": "/root",
    }
    assert list(forwarded(environment).values()) == ["2", "3", "4", "5", "1"]
    assert set(forwarded(environment, ["AWS_", "SITE"])) - set(forwarded(environment)) == {"AWS_REGION", "SITE"}


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *((name, True) for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "X_PASSWORD", "my_tokens")),
        *((name, False) for name in ("WANDB_PROJECT", "TOKENIZERS_PARALLELISM", "NCCL_DEBUG", "KEYBOARD")),
    ],
)
def test_secrets_are_told_by_their_names(name: str, secret: bool) -> None:
    assert is_secret(name) is secret
    assert (masked(name, "abc") == "abc") is not secret


def test_a_password_in_an_address_is_masked() -> None:
    assert masked("WANDB_BASE_URL", "https://me:pass@wandb.example/x") == "https://***@wandb.example/x"


def test_launch_file_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "launch.json"
    content = LaunchFile({"WANDB_API_KEY": 'a "b" $(c)\nd'}, ["script.py", "x={a: 1}"])
    write_launch_file(path, LaunchFile({}, ["old.py"]))
    path.chmod(0o600)
    write_launch_file(path, content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_launch_file(path) == content
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o640)
    with pytest.raises(ValueError, match=r"has mode 640, expected 600.*chmod 600"):
        read_launch_file(path)


def test_a_launch_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "launch.json"
    with pytest.raises(ValueError, match=r"is missing on this node.*storage that all nodes share"):
        read_launch_file(path)
    path.write_text('{"environment": {}')
    with pytest.raises(ValueError, match="is damaged"):
        read_launch_file(path)
