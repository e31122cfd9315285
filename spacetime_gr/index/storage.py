"""The saved form of an index: memory-mapped arrays, ids as Arrow files, and a description with checksums.

    index.json             what the index is, which folders make it up, and their files' checksums
    base-N/*.npy, *.arrow  the places and blocks that `build` made
    grown-N/*.npy, *.arrow the places added and retired since, and all blocks

A save writes new folders (numbers rise), then replaces `index.json` at once, then removes what it no longer names. So a
reader sees the old state or the new one, never a mixture, and a save that fails leaves the old state.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from spacetime_gr.index.columns import BLOCK_COLUMNS, PLACE_COLUMNS, Blocks, Places
from spacetime_gr.index.ids import IdTable, as_ids
from spacetime_gr.index.schemes import make_scheme

if TYPE_CHECKING:
    from spacetime_gr.index.poi_index import POIIndex

FORMAT_VERSION = 3
DESCRIPTION = "index.json"


def save(index: "POIIndex", folder: Path) -> None:
    """See `POIIndex.save`."""
    try:
        _save(index, folder)
    except OSError as error:
        raise ValueError(
            f"{folder}: the index could not be written ({error}); what was there before is kept"
        ) from error


def _save(index: "POIIndex", folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    base, sums = _base_there(folder)
    if not base or sums != index.base_sums:
        base = _next_name(folder, "base")
        sums = _write_folder(folder, base, _base_arrays(index), index.base.ids.ids)
    grown = None
    if index.added is not None or len(index.retired):
        grown = _next_name(folder, "grown")
        ids = None if index.added is None else index.added.ids.ids
        sums |= _write_folder(folder, grown, _grown_arrays(index), ids)
    description = {
        "format_version": FORMAT_VERSION,
        "scheme": index.scheme.name,
        "settings": index.scheme.settings() | {"max_pois_per_block": index.max_pois_per_block},
        "num_pois": index.num_pois,
        "num_blocks": index.num_blocks,
        "block_capacity": index.block_capacity,
        "num_inner": index.num_inner,
        "category_names": index.category_names,
        "base": base,
        "grown": grown,
        "sha256": dict(sorted(sums.items())),
    }
    description["checksum"] = _checksum(description)
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    unfinished = folder / f".{DESCRIPTION}.unfinished"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, folder / DESCRIPTION)
    for stale in (*_numbered(folder, "base"), *_numbered(folder, "grown"), *folder.glob(".unfinished-*")):
        if stale.name not in (base, grown):
            shutil.rmtree(stale, ignore_errors=True)


def _base_there(folder: Path) -> tuple[str, dict[str, str]]:
    """Name and checksums of the base of the index in a folder; empty where there is none."""
    try:
        description = _read_description(folder)
    except ValueError:
        return "", {}
    sums = _base_sums(description)
    whole = all((folder / name).is_file() for name in sums)
    return (description["base"], sums) if whole else ("", {})


def _base_sums(description: dict[str, Any]) -> dict[str, str]:
    """Checksums of the base's files."""
    return {name: value for name, value in description["sha256"].items() if name.startswith(f"{description['base']}/")}


def _next_name(folder: Path, kind: str) -> str:
    """The first free name `kind-N`."""
    numbers = [int(path.name.removeprefix(f"{kind}-")) for path in _numbered(folder, kind)]
    return f"{kind}-{max(numbers, default=0) + 1}"


def _numbered(folder: Path, kind: str) -> list[Path]:
    """The sub-folders `kind-N`."""
    return [path for path in folder.glob(f"{kind}-*") if path.name.removeprefix(f"{kind}-").isdecimal()]


def _base_arrays(index: "POIIndex") -> dict[str, Any]:
    num_base = len(index.block_starts) - 1
    return {
        **_places_arrays(index.base),
        "rows_by_block": index.rows_by_block,
        "block_starts": index.block_starts,
        **{f"block_{name}": getattr(index.blocks, name)[:num_base] for name in BLOCK_COLUMNS},
    }


def _grown_arrays(index: "POIIndex") -> dict[str, Any]:
    arrays = {"retired": index.retired, **{f"block_{name}": getattr(index.blocks, name) for name in BLOCK_COLUMNS}}
    return arrays if index.added is None else arrays | _places_arrays(index.added)


def _places_arrays(places: Places) -> dict[str, Any]:
    table = {"id_slots": places.ids.slots, "id_starts": places.ids.starts}
    return {name: getattr(places, name) for name in PLACE_COLUMNS} | table


def _write_folder(folder: Path, name: str, arrays: dict[str, Any], ids: pa.Array | None) -> dict[str, str]:
    """Write arrays into a new sub-folder, whole or not at all; returns the checksums of its files."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".unfinished-{name}-", dir=folder))
    try:
        for array_name, values in arrays.items():
            np.save(unfinished / f"{array_name}.npy", np.ascontiguousarray(values), allow_pickle=False)
        if ids is not None:
            table = pa.table({"poi_id": ids})
            with pa.OSFile(str(unfinished / "ids.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        sums = {f"{name}/{file.name}": _sha256(file) for file in sorted(unfinished.iterdir())}
        unfinished.chmod(0o755)
        os.replace(unfinished, folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sums


def load(cls: type["POIIndex"], folder: Path, verify: bool) -> "POIIndex":
    """See `POIIndex.load`."""
    description = _read_description(folder)
    if verify:
        for name, expected in description["sha256"].items():
            if not (folder / name).is_file() or _sha256(folder / name) != expected:
                raise ValueError(
                    f"{folder}/{name}: checksum differs from {DESCRIPTION}; the file is damaged, copy it anew"
                )
    base, grown = folder / description["base"], description["grown"]
    top = base if grown is None else folder / grown
    settings = description["settings"]
    return cls(
        scheme=make_scheme(description["scheme"], settings.get("cell_km", 5.0)),
        max_pois_per_block=settings["max_pois_per_block"],
        num_inner=description["num_inner"],
        block_capacity=description["block_capacity"],
        category_names=description["category_names"],
        base=_places(base),
        rows_by_block=_array(base, "rows_by_block"),
        block_starts=_array(base, "block_starts"),
        blocks=Blocks(**{name: _array(top, f"block_{name}") for name in BLOCK_COLUMNS}),
        added=_places(top) if f"{grown}/codes.npy" in description["sha256"] else None,
        retired=np.empty(0, np.int64) if grown is None else _array(top, "retired"),
        folder=folder,
        base_sums=_base_sums(description),
    )


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"{folder}: no POI index here ({DESCRIPTION} is missing); make one with POIIndex.save")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = int(description["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); copy it anew or build the index again") from error
    if version > FORMAT_VERSION:
        raise ValueError(f"{path}: format version {version}, this release reads {FORMAT_VERSION}; upgrade spacetime-gr")
    if version < FORMAT_VERSION:
        raise ValueError(
            f"{path}: format version {version}, this release reads {FORMAT_VERSION}; build the index again "
            "(spacetime-gr prepare)"
        )
    if description.pop("checksum", None) != _checksum(description):
        raise ValueError(f"{path} is damaged (its checksum differs); copy it anew or build the index again")
    return description


def _checksum(description: dict[str, Any]) -> str:
    """SHA-256 of what a description says."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _places(folder: Path) -> Places:
    try:
        with pa.memory_map(str(folder / "ids.arrow")) as source:
            ids = as_ids(pa.ipc.open_file(source).read_all()["poi_id"])
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{folder / 'ids.arrow'} is missing or damaged ({error}); copy it anew") from error
    table = IdTable(ids, _array(folder, "id_slots"), _array(folder, "id_starts"))
    return Places(ids=table, **{name: _array(folder, name) for name in PLACE_COLUMNS})


def _array(folder: Path, name: str) -> Any:
    path = folder / f"{name}.npy"
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); copy it anew or build the index again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
