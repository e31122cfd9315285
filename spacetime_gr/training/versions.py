"""Which code a run was trained with."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("spacetime-gr", "torch", "deepspeed", "transformers")


def code_versions() -> dict[str, str]:
    """Python's and the packages' versions, and `commit`, where the package lies in a git repository: of that, followed
    by `+changes` if tracked files differ from it. Nothing else of the environment."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a folder that is not installed
            found[name] = "not installed"
    commit = _git("rev-parse", "HEAD")
    if commit:
        found["commit"] = commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    return found


def _git(*arguments: str) -> str:
    """What git says, empty where there is no git, no repository or no answer."""
    try:
        result = subprocess.run(  # noqa: S603 (fixed arguments, no shell)
            ["git", "-C", str(ROOT), *arguments],  # noqa: S607 (the user's git)
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.strip()
