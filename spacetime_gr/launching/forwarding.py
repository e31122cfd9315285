"""What of the caller's environment goes to the other nodes, without showing a secret to anybody."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

PREFIXES = (
    *("WANDB_", "HF_", "HUGGING_FACE_", "SPACETIME_GR_"),  # logging, hub, this project
    *("NCCL_", "GLOO_", "TORCH_", "DEEPSPEED_", "DS_", "OMP_"),  # communication and threads
)
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|COOKIE)S?(_|$)")
_USER_IN_URL = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True)
class LaunchFile:
    """What the ranks of a launch over ssh read: the variables to set and the training script with its arguments."""

    environment: dict[str, str]
    command: list[str]


def forwarded(environment: Mapping[str, str], more: Iterable[str] = ()) -> dict[str, str]:
    """The variables of `environment` that a run needs on all nodes, sorted by name.

    Args:
        more: further names, or prefixes where they end in `_`, such as `AWS_`.
    """
    more = tuple(more)
    prefixes = (*PREFIXES, *(name for name in more if name.endswith("_")))
    return {name: environment[name] for name in sorted(environment) if name.startswith(prefixes) or name in more}


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a key or the like."""
    return _SECRET.search(name.upper()) is not None


def masked(name: str, value: str) -> str:
    """`value` as it may be printed: no secret, no user and password in a URL."""
    return "***" if is_secret(name) else _USER_IN_URL.sub("://***@", value)


def write_launch_file(path: Path, content: LaunchFile) -> None:
    """Replace `path` by `content`; from its first byte on nobody but the owner can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # Mode 600 at creation: to write first and to restrict afterwards leaves a moment in which all can read.
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(asdict(content), file, indent=2)
    os.replace(partial, path)


def read_launch_file(path: Path) -> LaunchFile:
    """
    Raises:
        ValueError: it is missing here, others may write it or it is damaged.
    """
    try:
        mode = path.stat().st_mode & 0o777
        content = json.loads(path.read_text(encoding="utf-8"))
        read = LaunchFile(dict(content["environment"]), list(content["command"]))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} is missing on this node; the run directory must be on storage that all nodes share"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); start the launch again") from error
    if mode & 0o077:
        raise ValueError(f"{path} has mode {mode:o}, expected 600: others can read its secrets; chmod 600 it")
    return read
