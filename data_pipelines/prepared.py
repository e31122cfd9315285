"""Read access to a prepared folder: the Parquet shards, the POI list and the manifest that `prepare` wrote."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA_VERSION = 3
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "validation", "test")
# What readers need of the manifest, and the type of each.
_MANIFEST_KEYS = {"protocol": str, "actions": list, "modes": list, "files": list}
_FILE_KEYS = {"split": str, "path": str, "rows": int, "row_groups": list}


class PreparedFolder:
    """A finished prepared folder.

    Args:
        path: the folder that `spacetime-gr prepare` wrote.

    Raises:
        ValueError: if the folder does not exist, is not finished, was written by another schema version, has a damaged
            manifest, or lacks a file that its manifest lists.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise ValueError(
                f"no prepared folder at {self.path}: expected a folder written by `spacetime-gr prepare --out ...`"
            )
        manifest_path = self.path / MANIFEST_NAME
        if not manifest_path.is_file():
            raise ValueError(
                f"{self.path} is not a finished prepared folder: it holds no {MANIFEST_NAME}; "
                "run `spacetime-gr prepare` again"
            )
        try:
            manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{manifest_path} is not readable JSON ({error}); run `spacetime-gr prepare --overwrite`"
            ) from error
        version = manifest.get("schema_version") if isinstance(manifest, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{manifest_path} has schema_version {version}, this version reads {SCHEMA_VERSION}; "
                "prepare the source again with this version"
            )
        require_keys(manifest, _MANIFEST_KEYS, str(manifest_path))
        for number, entry in enumerate(manifest["files"]):
            require_keys(entry, _FILE_KEYS, f"{manifest_path}, files[{number}]")
        self.manifest: dict[str, Any] = manifest
        missing = [name for name in self._listed_files() if not (self.path / name).is_file()]
        if missing:
            raise ValueError(
                f"{self.path} is incomplete: {len(missing)} file(s) that its manifest lists are missing, "
                f"the first is {missing[0]}; copy the folder again or run `spacetime-gr prepare --overwrite`"
            )

    def _listed_files(self) -> list[str]:
        return ["pois.parquet", *(entry["path"] for entry in self.manifest["files"])]

    def __repr__(self) -> str:
        return f"PreparedFolder({str(self.path)!r})"

    @property
    def protocol(self) -> str:
        """Format of the source, which decides the public protocol of evaluation."""
        return str(self.manifest["protocol"])

    @property
    def actions(self) -> list[str]:
        """Names of the action types; the `action` column of the shards is an index into this list."""
        return list(self.manifest["actions"])

    @property
    def modes(self) -> list[str]:
        """Names of the modes; the `mode` column of the shards, where present, is an index into this list."""
        return list(self.manifest["modes"])

    @property
    def tokenizer_path(self) -> Path:
        """Folder of the tokenizer that was built from these POIs."""
        return self.path / "tokenizer"

    def pois(self) -> pa.Table:
        """The POI list in `poi_row` order, P rows: see `docs/prepare.md` for the columns.

        Raises:
            ValueError: if the file is damaged.
        """
        return _read(pq.read_table, self.path / "pois.parquet")

    def _entries(self, split: str) -> list[dict[str, Any]]:
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
        return [entry for entry in self.manifest["files"] if entry["split"] == split]

    def files(self, split: str) -> list[Path]:
        """Shard files of a split in their fixed order; empty if the split has no events.

        Raises:
            ValueError: if `split` is not train, validation or test.
        """
        return [self.path / entry["path"] for entry in self._entries(split)]

    def row_groups(self, split: str) -> list[tuple[Path, int, int]]:
        """(file, number of the row group in it, users in it) of every row group, in file order.

        Taken from the manifest, so it opens no file.
        """
        return [
            (self.path / entry["path"], group, users)
            for entry in self._entries(split)
            for group, users in enumerate(entry["row_groups"])
        ]

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the shards, the same for all splits. Raises ValueError if the first is damaged."""
        return _read(pq.read_schema, self.path / self.manifest["files"][0]["path"])

    def read(self, split: str, columns: list[str] | None = None) -> pa.Table:
        """A whole split in memory, one row per user; meant for evaluation at benchmark size.

        Args:
            split: train, validation or test.
            columns: names of the columns wanted; all if None.

        Raises:
            ValueError: if the split or a column is unknown, or a file is damaged.
        """
        names = self.schema.names
        unknown = [name for name in columns or [] if name not in names]
        if unknown:
            raise ValueError(f"{self.path} has no column {unknown[0]!r}: expected some of {', '.join(names)}")
        files = self.files(split)
        if not files:
            wanted = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
            return wanted.empty_table()
        return pa.concat_tables([self.read_file(file, columns) for file in files])

    def read_file(self, file: Path, columns: list[str] | None = None) -> pa.Table:
        """One of `files(...)` in memory, one row per user. Raises ValueError if it is damaged."""
        return _read(pq.read_table, file, columns=columns)


def require_keys(entry: Any, keys: Mapping[str, type], where: str) -> None:
    """Check that an object of a manifest has keys with values of these types.

    Raises:
        ValueError: naming the first that is missing or of another type.
    """
    for key, kind in keys.items():
        if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
            raise ValueError(
                f"{where} has no {key} ({kind.__name__}): it is damaged; run `spacetime-gr prepare --overwrite`"
            )


def _read(reader: Callable[..., Any], file: Path, **options: Any) -> Any:
    """What a Parquet reader makes of a file; ValueError with the file's name if it cannot be read."""
    try:
        return reader(file, **options)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{file} is damaged: {error}; copy it again or run `spacetime-gr prepare --overwrite`"
        ) from error
