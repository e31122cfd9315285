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


def published_manifest(url: str) -> dict[str, Any] | None:
    """The manifest of the prepared folder at a URL; None if nothing is there.

    Raises:
        ValueError: if something else is there, or the manifest is damaged.
    """
    system, path = file_system(url)
    file = f"{path}/{MANIFEST_NAME}"
    if system.exists(file):
        try:
            manifest = json.loads(system.cat_file(file))
        except ValueError as error:
            raise ValueError(f"{url}/{MANIFEST_NAME} is not readable JSON ({error}); use --overwrite") from error
        return manifest if isinstance(manifest, dict) else {}
    if system.exists(path) and system.find(path):
        raise ValueError(f"{url} exists and is not a prepared folder; choose another --out or move it away")
    return None


def publish(folder: Path, url: str, progress: Progress) -> None:
    """Copy a finished folder to a URL, the manifest last; what an older folder had there goes first."""
    system, path = file_system(url)
    if system.exists(path):
        # The manifest first: while files change, nothing must look finished.
        if system.exists(f"{path}/{MANIFEST_NAME}"):
            system.rm_file(f"{path}/{MANIFEST_NAME}")
        system.rm(path, recursive=True)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    files.sort(key=lambda file: file.name == MANIFEST_NAME and file.parent == folder)
    for number, file in enumerate(files, start=1):
        progress(f"uploading file {number} of {len(files)}")
        target = f"{path}/{file.relative_to(folder).as_posix()}"
        system.makedirs(posixpath.dirname(target), exist_ok=True)
        system.put_file(str(file), target)
