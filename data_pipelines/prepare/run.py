"""One run of prepare: checks what is there, writes beside the target, and renames at the end."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.prepare.fingerprint import input_fingerprints, settings_fingerprint
from data_pipelines.prepare.options import PrepareOptions
from data_pipelines.prepare.users import key_fingerprint, user_key
from data_pipelines.prepare.validate import MODES
from data_pipelines.prepared import MANIFEST_NAME, SCHEMA_VERSION, PreparedFolder
from data_pipelines.sources import adapter
from data_pipelines.sources.base import Origin

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs on one target are not told apart there
    fcntl = None  # type: ignore[assignment]

_LOCK_NAME = "in-progress.lock"
_WORK_NAME = "work"


@dataclass(frozen=True)
class PrepareResult:
    """Outcome of a run.

    Attributes:
        folder: the finished prepared folder.
        already_prepared: the folder was there already, made from the same input with the same settings.
    """

    folder: PreparedFolder
    already_prepared: bool


def prepare_folder(
    source: str | Path,
    format: str,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    key: str | None = None,
    overwrite: bool = False,
    finish: Callable[[Path, list[str]], None] | None = None,
    finish_settings: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> PrepareResult:
    """Prepare a source for training.

    The content is written to a hidden folder beside `out` that is renamed when it is complete, so an interrupted run
    leaves nothing at `out`. The same input and settings give the same bytes.

    Args:
        source: file or folder of the source.
        format: a name in `data_pipelines.sources.FORMATS`.
        out: the prepared folder to write.
        options: settings; the defaults if None.
        key: key of the user hash; None takes `user_key()`.
        overwrite: replace a prepared folder, whatever it was made from and in whatever state it is.
        finish: called with the unpublished folder, complete but for its manifest, and the names of the action types, to
            add to the folder (the tokenizer).
        finish_settings: what decides the result of `finish`; part of the fingerprint of the settings.
        progress: told each step.

    Raises:
        ValueError: if the source is not as its format says, `out` is in the way, or another run writes it.
    """
    options = options or PrepareOptions()
    out = Path(out)
    reader_of = adapter(format)
    origin = reader_of.locate(Path(source))
    key = user_key() if key is None else key
    progress("fingerprinting the input")
    identity = _identity(format, origin, options, key, finish_settings or {})
    _refuse_foreign(out)
    if not overwrite and (out / MANIFEST_NAME).is_file():
        present = PreparedFolder(out)
        if present.manifest.get("fingerprints") == identity["fingerprints"]:
            return PrepareResult(present, already_prepared=True)
        raise ValueError(
            f"{out} was prepared from other input or with other settings; choose another --out, "
            "or replace it with --overwrite"
        )
    with _unpublished(out) as folder:
        content = _content(reader_of, origin, folder, key, options, progress)
        for file in origin.extra:
            shutil.copyfile(file, folder / file.name)
        if finish is not None:
            progress("building the tokenizer")
            finish(folder, content["actions"])
        manifest = {"schema_version": SCHEMA_VERSION, **identity, **content}
        (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return PrepareResult(PreparedFolder(out), already_prepared=False)


def _identity(
    format: str, origin: Origin, options: PrepareOptions, key: str, finish_settings: Mapping[str, Any]
) -> dict[str, Any]:
    settings = {"format": format, **options.content_settings(), **finish_settings}
    fingerprints = {
        "inputs": input_fingerprints(origin),
        "settings": settings_fingerprint({**settings, "key": key_fingerprint(key), "schema": SCHEMA_VERSION}),
    }
    return {
        "format": format,
        "protocol": format,
        "modes": list(MODES),
        "settings": settings,
        "fingerprints": fingerprints,
        "user_key_fingerprint": key_fingerprint(key),
    }


def _refuse_foreign(out: Path) -> None:
    """Raise if what lies at `out` is neither a prepared folder nor nothing: it is not prepare's to replace."""
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not (out / MANIFEST_NAME).is_file():
        raise ValueError(f"{out} exists and is not a prepared folder; choose another --out or move it away")


def _content(
    reader_of: Any, origin: Origin, folder: Path, key: str, options: PrepareOptions, progress: Callable[[str], None]
) -> dict[str, Any]:
    # The engine takes most of a second to import: not before the settings and the input are known to be sound.
    from data_pipelines.prepare.engine import Engine
    from data_pipelines.prepare.pipeline import write_content
    from data_pipelines.sources.reading import Reader

    work = folder / _WORK_NAME
    (work / "text").mkdir(parents=True)
    engine = Engine(work, options.memory_limit)
    try:
        raw = reader_of.read(origin, Reader(engine.connection, work / "text", progress))
        return write_content(raw, folder, engine, key, options, progress)
    finally:
        engine.close()
        shutil.rmtree(work)


@contextlib.contextmanager
def _unpublished(out: Path) -> Iterator[Path]:
    """A folder beside `out`, renamed to it on success and removed otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.preparing"
    folder.mkdir(exist_ok=True)
    with (folder / _LOCK_NAME).open("w") as lock:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(f"another run is preparing {out}; wait for it to end") from error
        try:
            _clear(folder)
            yield folder
            (folder / _LOCK_NAME).unlink()
            _publish(folder, out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _clear(folder: Path) -> None:
    """Remove what an interrupted run left."""
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK_NAME:
            entry.unlink()


def _publish(folder: Path, out: Path) -> None:
    replaced = out.parent / f".{out.name}.replaced"
    if replaced.exists():
        shutil.rmtree(replaced)
    if out.exists():
        os.rename(out, replaced)
    os.rename(folder, out)
    if replaced.exists():
        shutil.rmtree(replaced)
