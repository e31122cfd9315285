"""The report of a prepared folder: reads it once, and writes the page and the figures."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_pipelines import PreparedFolder, TokenStream
from data_pipelines.prepared import SPLITS
from data_pipelines.stream.report import survey
from spacetime_gr.index import POIIndex
from spacetime_gr.reports.cells import MAX_CELLS, Cells, View, block_cells, central_view, place_cells
from spacetime_gr.reports.data_page import build_page
from spacetime_gr.reports.data_pass import whole_people
from spacetime_gr.reports.data_profile import Profile
from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer

_TOP_PLACES = 25
_CELLS = MAX_CELLS // 2  # two maps share the page
_CLEANING_KINDS = ("sequences_", "actions_")
_PACKING = "actions_in_rows"  # counts the overlap of windows too: no matter of cleaning

Progress = Callable[[str, int, int], None]


def report_on(
    folder: PreparedFolder, split: str, cleaning: Mapping[str, Any] | None, seed: int, progress: Progress
) -> tuple[dict[str, Any], str]:
    """The figures, ready for JSON, and the page.

    Args:
        folder: a prepared folder.
        split: `train`, or `all` for the three together.
        cleaning: settings of the stream's cleaning, whose drops are then counted over the training split; None for no
            such count.
        seed: of the run, which `soft_richness` draws from.
        progress: told the stage, and how many of how many row groups are done.

    Raises:
        ValueError: a damaged shard, POI list or tokenizer; no training events; settings that do not fit the data.
    """
    if not folder.row_groups("train"):
        raise ValueError(f"{folder.path} has no training events to report on; run prepare --overwrite")
    tokenizer = SpacetimeGRTokenizer.from_pretrained(folder.tokenizer_path)
    index = tokenizer.index
    chosen = (0,) if split == "train" else tuple(range(len(SPLITS)))
    profile = Profile(index, len(folder.actions), len(folder.modes), chosen)
    for people in whole_people(folder, lambda done, total: progress("reading events", done, total)):
        profile.add(people)
    numbers = {
        "folder": folder.path.resolve().name,
        "split": split,
        "source": _source(folder.manifest),
        "rows": {name: num for name, num in folder.manifest.get("counts", {}).items() if isinstance(num, int)},
        "rejected": folder.manifest.get("rejected", {}),
        "num_pois": index.num_pois,
        "num_blocks": index.num_blocks,
        "block_scheme": index.scheme.name,
        "max_pois_per_block": index.max_pois_per_block,
        "action_names": folder.actions,
        "mode_names": folder.modes,
        **profile.figures(),
        "top_places": _top_places(folder, index, profile.poi_visits),
        "cleaning": None if cleaning is None else _cleaning(folder, tokenizer, cleaning, seed, progress),
    }
    progress("drawing", 0, 1)
    return numbers, build_page(numbers, *_maps(index, profile))


def write_figures(numbers: dict[str, Any], file: Path) -> None:
    """Write the figures as JSON."""
    file.write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _source(manifest: dict[str, Any]) -> dict[str, Any]:
    names = ("format", "protocol", "split", "fingerprints", "user_key_fingerprint", "schema_version")
    return {name: manifest[name] for name in names if name in manifest}


def _cleaning(
    folder: PreparedFolder, tokenizer: SpacetimeGRTokenizer, settings: Mapping[str, Any], seed: int, progress: Progress
) -> dict[str, Any]:
    # Neither the length of a row nor the number of lanes bears on what cleaning drops.
    stream = TokenStream(folder.path, tokenizer, num_lanes=1, row_length=512, seed=seed, cleaning=settings)
    counts = survey(stream.makers, 0, lambda done, total: progress("cleaning", done, total)).counts
    return {
        "settings": dict(settings),
        "counts": {
            name: num for name, num in sorted(counts.items()) if name.startswith(_CLEANING_KINDS) and name != _PACKING
        },
    }


def _top_places(folder: PreparedFolder, index: POIIndex, visits: NDArray[np.uint32]) -> list[dict[str, Any]]:
    """The most visited places, with names where the POI list has them."""
    rows = np.argpartition(visits, -min(_TOP_PLACES, len(visits)))[-_TOP_PLACES:]
    rows = rows[np.lexsort((rows, -visits[rows].astype(np.int64)))]
    rows = rows[visits[rows] > 0]
    file = folder.path / "pois.parquet"
    try:
        stored = pq.read_schema(file).names
        columns = [name for name in ("poi_row", "poi_id", "name") if name in stored]
        listed = pq.read_table(file, columns=columns, filters=pc.field("poi_row").isin(rows))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}; copy it again or run prepare --overwrite") from error
    known = {place["poi_row"]: place for place in listed.to_pylist()}
    names = [*index.category_names, None]
    return [
        {
            "poi_id": str(known[row].get("poi_id", row)),
            "name": known[row].get("name"),
            "category": names[category],
            "visits": int(visits[row]),
        }
        for row, category in zip(rows.tolist(), index.categories(rows), strict=True)
        if row in known
    ]


def _maps(index: POIIndex, profile: Profile) -> tuple[View, Cells, Cells]:
    block_visits = profile.block_visits()
    view = central_view(index, block_visits)
    counts = {"POIs": index.block_sizes, "visits": block_visits}
    return view, place_cells(index, profile.poi_visits, view, _CELLS), block_cells(index, counts, _CELLS)
