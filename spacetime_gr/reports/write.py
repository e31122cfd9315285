"""Writes the report of an index: the numbers, the picture and the page."""

import json
from pathlib import Path
from typing import Any

from spacetime_gr.index import POIIndex
from spacetime_gr.index.quality import Usage
from spacetime_gr.reports.index_map import draw_map, save_map
from spacetime_gr.reports.index_page import build_page


def write_report(index: POIIndex, used: Usage, numbers: dict[str, Any], out: Path, colour: str, title: str) -> None:
    """Write `index.json`, `blocks.png` and `index.html` into a folder.

    Args:
        index, used, numbers: the index, its `usage` and its `quality`.
        out: made if missing; files of these names are replaced.
        colour: `visits` or `pois`, what the map shows per km².
        title: heading, plain text.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "index.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    save_map(draw_map(index, used, colour, title), out / "blocks.png")
    page = build_page(index, used, numbers, colour, title)
    (out / "index.html").write_text(page, encoding="utf-8")
