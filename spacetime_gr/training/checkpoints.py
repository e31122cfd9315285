"""Checkpoint folders on disk: complete or absent, never half there. Knows nothing of what is inside them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.durable import sync

MANIFEST = "manifest.json"
_PREFIX = "step-"
_UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: every file of its manifest is there with the size it was written with."""

    path: Path
    step: int
    permanent: bool
    meta: dict[str, Any]


class CheckpointStore:
    """Names, completeness and retention of the checkpoints of one run.

    A checkpoint is written into `.unfinished-step-N` by all ranks; then rank 0 lists its files and their sizes in
    `manifest.json`, flushes them to disk and renames the folder to `step-N`. So a folder named `step-N` is complete,
    unless files were lost afterwards, which the sizes tell.
    """

    def __init__(self, folder: str | Path, keep: int | None = None) -> None:
        """
        Args:
            folder: `RUN/checkpoints`.
            keep: permanent checkpoints that stay; None: all.
        """
        self.folder = Path(folder)
        self.keep = keep

    def start(self, step: int) -> Path:
        """An empty folder to write the checkpoint of `step` into. Call on one rank only."""
        path = self.unfinished_path(step)
        if path.exists():
            shutil.rmtree(path)
        path.mkdir(parents=True)
        return path

    def unfinished_path(self, step: int) -> Path:
        return self.folder / f"{_UNFINISHED}{_PREFIX}{step:08d}"

    def finish(self, step: int, permanent: bool, meta: dict[str, Any]) -> Checkpoint:
        """Make a checkpoint visible and remove those it supersedes. Call on one rank, after all have written.

        Args:
            step: the step given to `start`.
            permanent: False marks it as ephemeral: removed once a newer checkpoint is complete.
            meta: JSON-able; comes back as `Checkpoint.meta`.
        """
        unfinished, final = self.unfinished_path(step), self.folder / f"{_PREFIX}{step:08d}"
        files = sorted(path for path in unfinished.rglob("*") if path.is_file())
        sizes = {str(path.relative_to(unfinished)): path.stat().st_size for path in files}
        manifest = {"step": step, "permanent": permanent, "files": sizes, "meta": meta}
        (unfinished / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        for path in [*files, unfinished / MANIFEST, unfinished]:
            sync(path)
        if final.exists():
            shutil.rmtree(final)
        unfinished.rename(final)
        sync(self.folder)
        self._remove_superseded(step)
        return Checkpoint(final, step, permanent, meta)

    def complete(self) -> list[Checkpoint]:
        """All complete checkpoints, oldest first."""
        found = [_open(path) for path in sorted(self.folder.glob(f"{_PREFIX}*"))]
        return [checkpoint for checkpoint in found if checkpoint is not None]

    def newest(self) -> Checkpoint | None:
        """The complete checkpoint with the highest step."""
        for path in sorted(self.folder.glob(f"{_PREFIX}*"), reverse=True):
            checkpoint = _open(path)
            if checkpoint is not None:
                return checkpoint
        return None

    def remove_unfinished(self) -> list[str]:
        """Remove what an interrupted save left; returns the names. Call on one rank, before training."""
        left = sorted(self.folder.glob(f"{_UNFINISHED}*"))
        for path in left:
            shutil.rmtree(path)
        return [path.name for path in left]

    def _remove_superseded(self, step: int) -> None:
        older = [checkpoint for checkpoint in self.complete() if checkpoint.step < step]
        permanent = [checkpoint for checkpoint in self.complete() if checkpoint.permanent]
        expired = permanent[: -self.keep] if self.keep is not None else []
        for checkpoint in [*(item for item in older if not item.permanent), *expired]:
            # Renamed first: a removal that is interrupted must not leave a folder that looks like a checkpoint.
            doomed = checkpoint.path.rename(self.folder / f"{_UNFINISHED}{checkpoint.path.name}")
            shutil.rmtree(doomed)


def _open(path: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        intact = all((path / name).stat().st_size == size for name, size in manifest["files"].items())
        return Checkpoint(path, manifest["step"], manifest["permanent"], manifest["meta"]) if intact else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
