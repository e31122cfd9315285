"""What a prepared folder takes over from another, so that one model reads both: `prepare --like`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_pipelines.prepare import embeddings
from data_pipelines.prepare.fingerprint import file_fingerprint
from data_pipelines.prepare.options import PrepareOptions
from data_pipelines.prepare.remote import is_url
from data_pipelines.prepared import MANIFEST_NAME, PreparedFolder, require_keys

_POIS_NAME = "pois.parquet"


@dataclass(frozen=True)
class SharedFolder:
    """A prepared folder whose POI list, embeddings, action types and tokenizer another one shares.

    Attributes:
        folder: the prepared folder.
        fingerprints: of each file that is taken over, by its path in the folder.
    """

    folder: PreparedFolder
    fingerprints: dict[str, str]

    @classmethod
    def open(cls, path: str | Path, options: PrepareOptions) -> SharedFolder:
        """Open the folder, and read the files that are taken over for their fingerprints.

        Args:
            path: the folder.
            options: settings of the folder that is to share it.

        Raises:
            ValueError: if it is no finished prepared folder of this machine or has no tokenizer, or a setting selects
                POIs.
        """
        for setting, selects in (
            (f"--min-poi-visits {options.min_poi_visits}", options.min_poi_visits != 1),
            (f"--catalogue {options.catalogue}", options.catalogue != "train"),
        ):
            if selects:
                raise ValueError(
                    f"{setting} selects POIs, but --like {path} takes the POIs as they are there; leave one of them out"
                )
        if is_url(path):
            raise ValueError(f"--like is {path}: expected a folder of this machine; copy it here first")
        folder = PreparedFolder(path)
        require_keys(folder.manifest, {"content_fingerprint": str}, str(folder.path / MANIFEST_NAME))
        if not folder.tokenizer_path.is_dir():
            raise ValueError(
                f"--like: {folder.tokenizer_path} is missing; run `spacetime-gr prepare --overwrite` for {path}"
            )
        files = [folder.path / _POIS_NAME, folder.path / embeddings.FILE_NAME, *folder.tokenizer_path.rglob("*")]
        fingerprints = {
            file.relative_to(folder.path).as_posix(): file_fingerprint(file) for file in sorted(files) if file.is_file()
        }
        return cls(folder, fingerprints)

    @property
    def content_fingerprint(self) -> str:
        """Fingerprint of the folder's own shards, which its POI list was counted from."""
        return str(self.folder.manifest["content_fingerprint"])

    @property
    def poi_embedding_size(self) -> int | None:
        """Size of the embeddings of POIs; None if there are none."""
        return self.folder.manifest.get("poi_embedding_size")

    def poi_rows(self) -> pa.Table:
        """Numbers of the POIs: poi_id, poi_row int32."""
        return self.folder.pois().select(["poi_id", "poi_row"])

    def action_types(self) -> pa.Table:
        """Action types: name, row int16, as `catalogue.numbered_actions` gives them."""
        names = self.folder.actions
        return pa.table({"name": pa.array(names, pa.string()), "row": pa.array(range(len(names)), pa.int16())})

    def copy_pois(self, target: Path) -> None:
        """Copy the POI list, and the embeddings if there are any, into another folder."""
        for name in (_POIS_NAME, embeddings.FILE_NAME):
            if name in self.fingerprints:
                shutil.copyfile(self.folder.path / name, target / name)

    def copy_tokenizer(self, target: Path) -> None:
        """Copy the tokenizer into another folder."""
        shutil.copytree(self.folder.tokenizer_path, target / self.folder.tokenizer_path.name)
