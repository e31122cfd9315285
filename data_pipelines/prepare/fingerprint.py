"""Fingerprints: what a prepared folder was made from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.sources.base import Origin

_WHOLE_FILE_LIMIT = 256 << 20
_SAMPLE_BYTES = 16 << 20


def file_fingerprint(file: Path) -> str:
    """Sixteen hexadecimal digits that change with the file's content.

    SHA-256 of the size and the content; of files above 256 MiB, of the size and the first and last 16 MiB.
    """
    size = file.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with file.open("rb") as content:
        if size <= _WHOLE_FILE_LIMIT:
            while block := content.read(1 << 20):
                digest.update(block)
        else:
            digest.update(content.read(_SAMPLE_BYTES))
            content.seek(size - _SAMPLE_BYTES)
            digest.update(content.read())
    return digest.hexdigest()[:16]


def input_fingerprints(origin: Origin) -> dict[str, str]:
    """Fingerprint of every input file by its name."""
    return {origin.name(file): file_fingerprint(file) for file in origin.files}


def settings_fingerprint(settings: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that change with a setting."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def content_fingerprint(files: Sequence[dict[str, Any]]) -> str:
    """Sixteen hexadecimal digits of the rows of all shards, by the entries of the manifest."""
    lines = "\n".join(f"{entry['path']} {entry['fingerprint']}" for entry in files)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]
