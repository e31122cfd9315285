"""Finds the input files of a source."""

from collections.abc import Sequence
from pathlib import Path

from data_pipelines.sources.base import Origin


def matching_files(path: Path, patterns: Sequence[str]) -> Origin:
    """A single file as it is, or the files of a folder that match one of the patterns, by name.

    Raises:
        ValueError: if nothing is there.
    """
    if path.is_file():
        return Origin(root=path.parent, events=(path,))
    files = find(path, patterns)
    if not files:
        raise ValueError(f"{path} holds no file named {' or '.join(patterns)}; name the file itself with --source")
    return Origin(root=path, events=files)


def find(folder: Path, patterns: Sequence[str]) -> tuple[Path, ...]:
    """Files directly in a folder that match one of the patterns, by name.

    Raises:
        ValueError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: expected a file or a folder of events")
    return tuple(sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}))


def require_columns(file: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that a file has columns.

    Raises:
        ValueError: naming the file, the missing columns and those it has.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"{file} lacks the column(s) {', '.join(missing)}; it has {', '.join(found)}. "
            "Rename its columns, or see whether it is of another format"
        )
