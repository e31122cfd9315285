"""Sources and prepared folders in object stores, by fsspec URLs such as s3://bucket/events."""

import contextlib
import hashlib
import json
import os
import posixpath
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec

from data_pipelines.prepared import MANIFEST_NAME
from data_pipelines.sources.base import Progress

# Lies at a URL from the first change of an upload to its end.
_UPLOADING_NAME = "upload-in-progress"
# Package that holds the driver of a protocol, where its name is not in fsspec's own message.
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "az": "adlfs",
    "hf": "huggingface_hub",
}


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL and not a path."""
    return "://" in str(place)


def file_system(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the path in it.

    Raises:
        ValueError: if the protocol is unknown or its driver is not installed.
    """
    protocol = url.split("://", 1)[0]
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        remedy = f"pip install {package}" if package else str(error)
        raise ValueError(f"{url}: the driver of {protocol}:// is not installed: {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}; expected a path or a URL such as s3://bucket/folder") from error
    return system, path.rstrip("/")


@contextlib.contextmanager
def local_source(source: str | Path, progress: Progress) -> Iterator[Path]:
    """A source as a local path; that of a URL is a temporary copy.

    Raises:
        ValueError: if there is nothing at the URL.
    """
    if not is_url(source):
        yield Path(source)
        return
    system, path = file_system(str(source))
    with tempfile.TemporaryDirectory(prefix="spacetime-gr-source-") as staging:
        root = Path(staging) / (posixpath.basename(path) or "source")
        if system.isfile(path):
            files = {path: root}
        else:
            found = system.find(path) if system.exists(path) else []
            files = {file: root / posixpath.relpath(file, path) for file in found}
        if not files:
            raise ValueError(f"{source} does not exist or is empty: expected a file or a folder of events")
        for number, (file, target) in enumerate(files.items(), start=1):
            progress(f"fetching file {number} of {len(files)}")
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(file, str(target))
        yield root


def build_place(url: str) -> Path:
    """Where a folder is built that goes to a URL: the same on every run, so that an interrupted one can go on."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "spacetime-gr" / hashlib.sha256(url.encode()).hexdigest()[:16]


def refuse_foreign(url: str) -> None:
    """Raise if what lies at a URL is neither a prepared folder nor nothing: it is not prepare's to replace.

    A prepared folder is known by its manifest, readable or not, or by the mark of an upload that did not end.

    Raises:
        ValueError: if something else is there.
    """
    system, path = file_system(url)
    ours = any(system.exists(f"{path}/{name}") for name in (MANIFEST_NAME, _UPLOADING_NAME))
    if not ours and system.exists(path) and system.find(path):
        raise ValueError(f"{url} exists and is not a prepared folder; choose another --out or move it away")


def published_manifest(url: str) -> dict[str, Any] | None:
    """The manifest of the prepared folder at a URL; None if no finished one is there.

    Raises:
        ValueError: if the manifest is damaged.
    """
    system, path = file_system(url)
    file = f"{path}/{MANIFEST_NAME}"
    if not system.exists(file):
        return None
    try:
        manifest = json.loads(system.cat_file(file))
    except ValueError as error:
        raise ValueError(f"{url}/{MANIFEST_NAME} is not readable JSON ({error}); use --overwrite") from error
    return manifest if isinstance(manifest, dict) else {}


def publish(folder: Path, url: str, progress: Progress, leave_out: str | None = None) -> None:
    """Copy a finished folder to a URL, the manifest last; what an older folder had there goes first.

    Args:
        folder: the finished folder.
        url: where it goes.
        progress: told each file.
        leave_out: name of a file of the folder that stays behind.

    Raises:
        ValueError: if something else than a prepared folder is there by now.
    """
    refuse_foreign(url)
    system, path = file_system(url)
    mark, manifest = f"{path}/{_UPLOADING_NAME}", f"{path}/{MANIFEST_NAME}"
    system.makedirs(path, exist_ok=True)
    system.pipe_file(mark, b"")
    # The manifest first: while files change, nothing must look finished.
    if system.exists(manifest):
        system.rm_file(manifest)
    # The mark stays, so that whatever an interruption leaves can be told from files of somebody else.
    old = [name for name in system.ls(path, detail=False) if posixpath.basename(name.rstrip("/")) != _UPLOADING_NAME]
    if old:
        system.rm(old, recursive=True)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != leave_out)
    files.sort(key=lambda file: file.name == MANIFEST_NAME and file.parent == folder)
    for number, file in enumerate(files, start=1):
        progress(f"uploading file {number} of {len(files)}")
        target = f"{path}/{file.relative_to(folder).as_posix()}"
        system.makedirs(posixpath.dirname(target), exist_ok=True)
        system.put_file(str(file), target)
    system.rm_file(mark)
