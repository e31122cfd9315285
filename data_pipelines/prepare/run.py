"""One run of prepare: checks what is there, writes beside the target, and renames at the end."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.durable import sync, sync_tree
from data_pipelines.prepare import embeddings, remote
from data_pipelines.prepare.engine_choice import check_engine, open_engine
from data_pipelines.prepare.fingerprint import content_fingerprint, input_fingerprints, settings_fingerprint
from data_pipelines.prepare.journal import Journal
from data_pipelines.prepare.like import SharedFolder
from data_pipelines.prepare.options import PrepareOptions
from data_pipelines.prepare.users import key_fingerprint, user_key
from data_pipelines.prepare.validate import MODES
from data_pipelines.prepared import MANIFEST_NAME, SCHEMA_VERSION, SPLITS, PreparedFolder
from data_pipelines.sources import adapter
from data_pipelines.sources.base import Origin, Progress

try:
    import fcntl
except ImportError:  # not a POSIX system: two runs on one target are not told apart there
    fcntl = None  # type: ignore[assignment]

_LOCK_NAME = "in-progress.lock"
_WORK_NAME = "work"
# What the journal vouches for; all else is made again.
_KEPT_NAMES = {_LOCK_NAME, _WORK_NAME, "pois.parquet", "rejected.parquet", embeddings.FILE_NAME, *SPLITS}


@dataclass(frozen=True)
class PrepareResult:
    """Outcome of a run.

    Attributes:
        location: path or URL of the finished prepared folder.
        manifest: its manifest.
        already_prepared: the folder was there already, made from the same input with the same settings.
    """

    location: str
    manifest: dict[str, Any]
    already_prepared: bool

    @property
    def folder(self) -> PreparedFolder:
        """The folder, if it is not at a URL."""
        return PreparedFolder(self.location)


@dataclass(frozen=True)
class _Job:
    """A source, and how it is to be prepared."""

    format: str
    origin: Origin
    options: PrepareOptions
    like: SharedFolder | None
    key: str
    engine: str
    engine_options: Mapping[str, str]
    finish: Callable[[Path, list[str]], None] | None
    finish_settings: Mapping[str, Any]
    progress: Progress


def prepare_folder(
    source: str | Path,
    format: str,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    like: str | Path | None = None,
    key: str | None = None,
    engine: str = "duckdb",
    engine_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    finish: Callable[[Path, list[str]], None] | None = None,
    finish_settings: Mapping[str, Any] | None = None,
    progress: Progress = lambda step: None,
) -> PrepareResult:
    """Prepare a source for training.

    The content is written to a hidden folder beside `out` that is renamed when it is complete, so an interrupted run
    leaves nothing at `out`. The same input and settings give the same bytes, on any engine.

    Args:
        source: file or folder of the source, or an fsspec URL of one.
        format: a name in `data_pipelines.sources.FORMATS`.
        out: the prepared folder to write, or its URL.
        options: settings; the defaults if None.
        like: a prepared folder whose POI list, embeddings, action types and tokenizer are taken over as they are.
        key: key of the user hash; None takes `user_key()`.
        engine: "duckdb" or "spark".
        engine_options: settings of the Spark session.
        overwrite: replace a prepared folder, whatever it was made from and in whatever state it is.
        resume: go on where an interrupted run of the same input and settings ended, and keep what this one has finished
            if it fails. Without an interrupted run, it is a run like any other.
        finish: called with the unpublished folder, complete but for its manifest, and the names of the action types, to
            add to the folder (the tokenizer).
        finish_settings: what decides the result of `finish`; part of the fingerprint of the settings.
        progress: told each step.

    Raises:
        ValueError: if the source is not as its format says, `out` is in the way, another run writes it, or what is to
            be resumed had other input or settings; with `like`, also as `SharedFolder.open` and `write_content` do.
    """
    options = options or PrepareOptions()
    check_engine(engine, engine_options or {})
    if like is not None and not remote.is_url(out) and Path(out).resolve() == Path(like).resolve():
        raise ValueError(f"--out and --like are both {out}: choose another folder to write")
    shared = None if like is None else SharedFolder.open(like, options)
    reader_of = adapter(format)
    key = user_key() if key is None else key
    with remote.local_source(source, progress) as path:
        job = _Job(
            *(format, reader_of.locate(path), options, shared, key, engine, engine_options or {}),
            *(finish, finish_settings or {}, progress),
        )
        progress("fingerprinting the input")
        identity = _identity(job)
        if not remote.is_url(out):
            return _prepare(job, identity, Path(out), overwrite, resume)
        return _prepare_at_url(job, identity, str(out), overwrite, resume)


def plan_folder(
    source: str | Path,
    format: str,
    options: PrepareOptions | None = None,
    *,
    like: str | Path | None = None,
    key: str | None = None,
    engine: str = "duckdb",
    engine_options: Mapping[str, str] | None = None,
    progress: Progress = lambda step: None,
) -> dict[str, Any]:
    """What `prepare_folder` would write: counts, rejected rows and planned shards. Leaves nothing behind.

    Intermediate tables go to a temporary folder (TMPDIR) while it runs.

    Returns:
        The content of the manifest, with `shards` (split, path, actions of each) in place of `files`.

    Raises:
        ValueError: as `prepare_folder` does of the source and the settings.
    """
    options = options or PrepareOptions()
    check_engine(engine, engine_options or {})
    shared = None if like is None else SharedFolder.open(like, options)
    reader_of = adapter(format)
    key = user_key() if key is None else key
    with (
        remote.local_source(source, progress) as path,
        tempfile.TemporaryDirectory(prefix="spacetime-gr-") as folder,
    ):
        job = _Job(
            *(format, reader_of.locate(path), options, shared, key, engine, engine_options or {}, None, {}, progress)
        )
        return _check_events(job, Path(folder), Path(folder) / _WORK_NAME, buckets=None)


def _present(manifest: dict[str, Any], identity: dict[str, Any], location: str) -> PrepareResult:
    if manifest.get("fingerprints") == identity["fingerprints"]:
        return PrepareResult(location, manifest, already_prepared=True)
    raise ValueError(
        f"{location} was prepared from other input or with other settings; choose another --out, "
        "or replace it with --overwrite"
    )


def _prepare(job: _Job, identity: dict[str, Any], out: Path, overwrite: bool, resume: bool) -> PrepareResult:
    _refuse_foreign(out)
    if not overwrite and (out / MANIFEST_NAME).is_file():
        return _present(PreparedFolder(out).manifest, identity, str(out))
    with _unpublished(out, resume) as folder:
        _build(job, identity, folder)
        shutil.rmtree(folder / _WORK_NAME)
        (folder / _LOCK_NAME).unlink()
        _publish(folder, out)
    return PrepareResult(str(out), PreparedFolder(out).manifest, already_prepared=False)


def _prepare_at_url(job: _Job, identity: dict[str, Any], url: str, overwrite: bool, resume: bool) -> PrepareResult:
    """Build in a place of this machine and upload from there; the place is locked until the upload has ended."""
    remote.refuse_foreign(url)
    present = None if overwrite else remote.published_manifest(url)
    if present is not None:
        return _present(present, identity, url)
    with _unpublished(remote.build_place(url), resume) as folder:
        if not _is_finished(folder, identity):
            _build(job, identity, folder)
        if (folder / _WORK_NAME).exists():  # also where a run was killed between its manifest and this
            shutil.rmtree(folder / _WORK_NAME)
        manifest = PreparedFolder(folder).manifest
        remote.publish(folder, url, job.progress, leave_out=_LOCK_NAME)
        shutil.rmtree(folder)
    return PrepareResult(url, manifest, already_prepared=False)


def _is_finished(folder: Path, identity: dict[str, Any]) -> bool:
    """Whether a run of the same input and settings had built all of an unpublished folder."""
    return (folder / MANIFEST_NAME).is_file() and (
        PreparedFolder(folder).manifest.get("fingerprints") == identity["fingerprints"]
    )


def _build(job: _Job, identity: dict[str, Any], folder: Path) -> None:
    """Fill an unpublished folder; the manifest appears when all else is on the disk."""
    content, files = _content(job, folder, identity)
    for file in job.origin.extra:
        shutil.copyfile(file, folder / file.name)
    if job.like is not None:
        job.like.copy_tokenizer(folder)
    if job.finish is not None:
        job.progress("building the tokenizer")
        job.finish(folder, content["actions"])
    del content["shards"]
    described = {**identity, **content, "content_fingerprint": content_fingerprint(files), "files": files}
    manifest = {"schema_version": SCHEMA_VERSION, **described}
    unfinished = folder / _WORK_NAME / MANIFEST_NAME
    unfinished.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sync_tree(folder)
    os.replace(unfinished, folder / MANIFEST_NAME)
    sync(folder)


def _identity(job: _Job) -> dict[str, Any]:
    settings = {"format": job.format, **job.options.content_settings(), **job.finish_settings}
    if job.like is not None:
        settings["like"] = job.like.fingerprints
    key = key_fingerprint(job.key)
    fingerprints = {
        "inputs": input_fingerprints(job.origin),
        "settings": settings_fingerprint({**settings, "key": key, "schema": SCHEMA_VERSION}),
    }
    return {
        "format": job.format,
        "protocol": job.format,
        "modes": list(MODES),
        "settings": settings,
        "like": None if job.like is None else job.like.content_fingerprint,
        "fingerprints": fingerprints,
        "user_key_fingerprint": key,
    }


def _refuse_foreign(out: Path) -> None:
    """Raise if what lies at `out` is neither a prepared folder nor nothing: it is not prepare's to replace."""
    empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not empty and not (out / MANIFEST_NAME).is_file():
        raise ValueError(f"{out} exists and is not a prepared folder; choose another --out or move it away")


def _content(job: _Job, folder: Path, identity: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Everything but what comes from elsewhere: the content of the manifest, and its files. Goes on with a journal.

    Raises:
        ValueError: also if a shard does not hold as many actions as were counted for it.
    """
    # The engine takes most of a second to import: not before the settings and the input are known to be sound.
    from data_pipelines.prepare.shards import is_whole, write_shard

    work = folder / _WORK_NAME
    work.mkdir(exist_ok=True)
    buckets = work / "buckets"
    journal = Journal(work / "journal.jsonl", identity)
    if journal.content is None:
        _clear(folder, keep={_LOCK_NAME, _WORK_NAME})
        checked = _check_events(job, folder, work, buckets)
        sync_tree(folder)
        journal.record_content(checked)
    _clear(folder, keep=_KEPT_NAMES)
    content = dict(journal.content or {})
    files = []
    for number, shard in enumerate(content["shards"], start=1):
        recorded = journal.files.get(shard["path"])
        if recorded is None or not is_whole(folder / shard["path"], recorded):
            job.progress(f"writing shard {number} of {len(content['shards'])}: {shard['path']}")
            described = write_shard(
                buckets / f"bucket={shard['bucket']}",
                folder / shard["path"],
                content["users_per_row_group"],
                job.options.actions_per_row_group,
            )
            if described["actions"] != shard["actions"]:
                raise ValueError(
                    f"{shard['path']}: {shard['actions']:,} actions were counted for this shard, but its intermediate "
                    f"files in {buckets} hold {described['actions']:,}; run again without --resume, on a disk that "
                    "nothing else changes"
                )
            journal.record_shard({"split": shard["split"], "path": shard["path"], **described})
        files.append(journal.files[shard["path"]])
    return content, files


def _check_events(job: _Job, folder: Path, work: Path, buckets: Path | None) -> dict[str, Any]:
    """Run the engine: see `write_content`. Its intermediate tables are gone afterwards."""
    from data_pipelines.prepare.pipeline import write_content
    from data_pipelines.sources.reading import Reader

    scratch = work / "engine"
    if scratch.exists():
        shutil.rmtree(scratch)
    (scratch / "text").mkdir(parents=True)
    engine = open_engine(job.engine, scratch, job.options.memory_limit, job.engine_options)
    try:
        raw = adapter(job.format).read(job.origin, Reader(engine, scratch / "text", job.progress))
        return write_content(raw, folder, buckets, engine, job.key, job.options, job.like, job.progress)
    finally:
        engine.close()
        shutil.rmtree(scratch)


@contextlib.contextmanager
def _unpublished(out: Path, resume: bool) -> Iterator[Path]:
    """A locked folder beside `out`, for the caller to move; removed on failure, unless the run is to be resumed."""
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
            if not resume:
                _clear(folder, keep={_LOCK_NAME})
            yield folder
        except BaseException:
            if not resume:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def _clear(folder: Path, keep: set[str]) -> None:
    """Remove what an interrupted run left, but for these names."""
    for entry in folder.iterdir():
        if entry.name in keep:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
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
