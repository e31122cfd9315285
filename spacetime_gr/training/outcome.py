"""How a run ends: its exit code, what `status.json` says, and which errors are worth another try."""

import errno
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from data_pipelines.durable import replace_text

STATUS_FILE = "status.json"
FINISHED = 0
FAILED = 1
WRONG = 2
# EX_TEMPFAIL of sysexits.h: the same command, started again, goes on.
RETRY = 75
INTERRUPTED = 130

# Of the storage or the network, not of the settings: they may be gone by the next try.
_TRANSIENT = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.ESTALE,
    errno.EAGAIN,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.ECONNABORTED,
}
# What gloo and nccl say, in a plain RuntimeError, when a process, a node or a link is gone.
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection refused",
    "Broken pipe",
    "Timed out waiting",
    "Socket Timeout",
    "failed to recv",
    "remote process exited",
)


class RetryableError(RuntimeError):
    """The run could not go on, but the same command may: it resumes from the newest checkpoint."""


@dataclass(frozen=True)
class Verdict:
    """Exit code and reason of an error; `expected` errors need no traceback."""

    code: int
    reason: str
    expected: bool = True

    @property
    def retry(self) -> bool:
        return self.code == RETRY


def judge(error: BaseException) -> Verdict:
    """What an error means to whoever started the run."""
    if isinstance(error, RetryableError) or (isinstance(error, OSError) and error.errno in _TRANSIENT):
        return Verdict(RETRY, str(error))
    if lost_peer(error):
        first = str(error).strip().splitlines()[0]
        return Verdict(RETRY, f"lost another rank ({first}); its own output, or its node's, says why")
    if isinstance(error, FloatingPointError):
        return Verdict(FAILED, str(error))
    if isinstance(error, (ValueError, OSError)):
        return Verdict(WRONG, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Verdict(INTERRUPTED, "interrupted from the keyboard")
    return Verdict(FAILED, f"{type(error).__name__}: {error}", expected=False)


def lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone or does not answer."""
    # DistError: what torch raises for nccl and for its key-value store.
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST)
    )


def write_status(folder: Path, state: str, retry: bool, **more: Any) -> None:
    """Replace `folder/status.json`.

    Args:
        folder: the run directory.
        state: running, stopped, finished or failed. A run that was killed still says running.
        retry: whether the same command, started again, has a chance to go on.
        more: further fields.
    """
    replace_text(folder / STATUS_FILE, json.dumps({"state": state, "retry": retry, **more}))


def write_failure(folder: Path, verdict: Verdict, secondary: bool, **more: Any) -> None:
    """Note in `status.json` that the run has failed; any rank may call.

    Args:
        folder: the run directory.
        verdict: of the error.
        secondary: the error follows from another rank's, whose own note must stay.
        more: fields that are replaced; the others stay.
    """
    try:
        before = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
        if secondary and before["state"] == "failed":
            return
        more = {**before, **more}
    except (OSError, ValueError, KeyError, TypeError):
        pass  # damaged or absent: what is known now is better than nothing
    more.update(state="failed", retry=verdict.retry, reason=verdict.reason)
    try:
        write_status(folder, **more)
    except OSError:
        return  # the disk that made the run fail; the error itself is printed
