"""Checkpoint folders on disk: complete or absent, never half there. Knows nothing of what is inside them."""

import json
import shutil
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipelines.durable import sync

MANIFEST = "manifest.json"
_PREFIX = "step-"
_UNFINISHED = ".unfinished-"
_DAMAGED = "damaged-"
_CHUNK = 1 << 22

# Size in bytes and CRC-32 of a file.
Seal = tuple[int, int]


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: every file of its manifest is there with the size it was written with."""

    path: Path
    step: int
    permanent: bool
    meta: dict[str, Any]
    seals: dict[str, Seal]

    def damage(self, part: int = 0, parts: int = 1) -> str | None:
        """Read files and compare them with their checksums.

        Args:
            part, parts: of how many readers this is which; they share the files.

        Returns:
            The first file that is not what was written and why, or None.
        """
        for name in sorted(self.seals)[part::parts]:
            try:
                if seal(self.path / name) != self.seals[name]:
                    return f"{name} is not what was written (its checksum differs)"
            except OSError as error:
                return f"{name} cannot be read ({error})"
        return None


class CheckpointStore:
    """Names, completeness and retention of the checkpoints of one run.

    A checkpoint is written into `.unfinished-step-N` by all ranks, each of which flushes its files to the disk and
    seals them; then rank 0 lists them in `manifest.json` and renames the folder to `step-N`. So a folder named `step-N`
    is complete, unless files were lost or changed afterwards, which the seals tell. The newest two always stay: were
    the newest damaged, there is still one to go back to.
    """

    def __init__(self, folder: str | Path, keep: int | None = None, pinned: Collection[int] = ()) -> None:
        """
        Args:
            folder: `RUN/checkpoints`.
            keep: permanent checkpoints that stay; None: all.
            pinned: steps whose permanent checkpoints stay in any case.
        """
        self.folder = Path(folder)
        self.keep = keep
        self.pinned = frozenset(pinned)

    def start(self, step: int) -> Path:
        """The folder to write the checkpoint of `step` into. Any rank may call."""
        path = self._unfinished(step)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, step: int, permanent: bool, meta: dict[str, Any], seals: dict[str, Seal]) -> Checkpoint:
        """Make a checkpoint visible and remove those it supersedes. Call on one rank, after all have written.

        Args:
            step: the step given to `start`.
            permanent: False marks it as ephemeral: removed once two newer checkpoints are complete.
            meta: JSON-able; comes back as `Checkpoint.meta`.
            seals: of all files, from `seal_files` of all ranks.
        """
        unfinished, final = self._unfinished(step), self._final(step)
        manifest = {"step": step, "permanent": permanent, "files": seals, "meta": meta}
        (unfinished / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        sync(unfinished / MANIFEST)
        for folder in {(unfinished / name).parent for name in (*seals, MANIFEST)}:
            sync(folder)
        if final.exists():
            shutil.rmtree(final)
        unfinished.rename(final)
        sync(self.folder)
        self._remove_superseded()
        return Checkpoint(final, step, permanent, meta, seals)

    def abandon(self, step: int) -> None:
        """Remove what a failed save of `step` left. Call on one rank."""
        shutil.rmtree(self._unfinished(step), ignore_errors=True)

    def set_aside(self, step: int) -> Path:
        """Rename a damaged checkpoint, so that it is none any more; returns where it lies now. Call on one rank."""
        path = self._final(step)
        aside = path.with_name(f"{_DAMAGED}{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        return path.rename(aside)

    def steps(self) -> list[int]:
        """Steps of all checkpoint folders, damaged ones too, in order."""
        names = (path.name.removeprefix(_PREFIX) for path in self.folder.glob(f"{_PREFIX}*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def open(self, step: int) -> Checkpoint:
        """The checkpoint of a step, its contents not read.

        Raises:
            ValueError: it is not complete; says what is wrong with it.
        """
        path = self._final(step)
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            seals = {name: (int(size), int(checksum)) for name, (size, checksum) in manifest["files"].items()}
            checkpoint = Checkpoint(path, manifest["step"], manifest["permanent"], manifest["meta"], seals)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{MANIFEST} is missing or damaged ({type(error).__name__})") from error
        for name, (size, _) in checkpoint.seals.items():
            file = path / name
            if not file.is_file():
                raise ValueError(f"{name} is missing")
            if file.stat().st_size != size:
                raise ValueError(f"{name} has {file.stat().st_size} bytes of {size}")
        return checkpoint

    def damage(self, step: int, part: int = 0, parts: int = 1) -> str | None:
        """What is wrong with the checkpoint of a step, or None; see `Checkpoint.damage`."""
        try:
            return self.open(step).damage(part, parts)
        except ValueError as error:
            return str(error)

    def complete(self) -> list[Checkpoint]:
        """All complete checkpoints, oldest first; their contents are not read."""
        found = []
        for step in self.steps():
            try:
                found.append(self.open(step))
            except ValueError:
                continue
        return found

    def newest(self) -> Checkpoint | None:
        """The complete checkpoint with the highest step; its contents are not read."""
        return next(reversed(self.complete()), None)

    def newest_name(self) -> str:
        """Name of the folder of `newest`, or `none`: for messages."""
        newest = self.newest()
        return newest.path.name if newest else "none"

    def remove_unfinished(self) -> list[str]:
        """Remove what an interrupted save left; returns the names. Call on one rank, before training."""
        left = sorted(self.folder.glob(f"{_UNFINISHED}*"))
        for path in left:
            shutil.rmtree(path)
        return [path.name for path in left]

    def _remove_superseded(self) -> None:
        complete = self.complete()
        permanent = [item for item in complete if item.permanent and item.step not in self.pinned]
        expired = permanent[: -self.keep] if self.keep is not None else []
        ephemeral = [item for item in complete[:-2] if not item.permanent]
        for checkpoint in [*ephemeral, *expired]:
            # Renamed first: a removal that is interrupted must not leave a folder that looks like a checkpoint.
            doomed = checkpoint.path.rename(self.folder / f"{_UNFINISHED}{checkpoint.path.name}")
            shutil.rmtree(doomed)

    def _final(self, step: int) -> Path:
        return self.folder / f"{_PREFIX}{step:08d}"

    def _unfinished(self, step: int) -> Path:
        return self.folder / f"{_UNFINISHED}{_PREFIX}{step:08d}"


def seal_files(folder: Path, files: Iterable[Path]) -> dict[str, Seal]:
    """Flush files to the disk and seal them.

    Returns:
        By path relative to `folder`.
    """
    seals = {}
    for path in files:
        sync(path)
        seals[str(path.relative_to(folder))] = seal(path)
    return seals


def seal(path: Path) -> Seal:
    """Size and CRC-32 of a file. It guards against faults, not against people."""
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return size, checksum
