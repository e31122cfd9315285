"""The quality report of an index as one HTML page that needs no network: tables, histograms and a map of the blocks."""

from itertools import pairwise
from typing import Any

import numpy as np

from spacetime_gr.index import POIIndex
from spacetime_gr.index.quality import SHARES, Usage, top_categories
from spacetime_gr.reports import cell_map, charts
from spacetime_gr.reports.cells import MAX_CELLS, block_cells, central_view
from spacetime_gr.reports.charts import Axis, Series, percent
from spacetime_gr.reports.index_map import LEGENDS
from spacetime_gr.reports.page import page, section, side_by_side, table

_COUNTS = {"visits": "training visits", "pois": "POIs"}


def build_page(index: POIIndex, used: Usage, numbers: dict[str, Any], colour: str, title: str) -> str:
    """The page as text.

    Args:
        index: the index.
        used: its counts.
        numbers: `quality(index)`.
        colour: `visits` or `pois`, for the map.
        title: heading, plain text.
    """
    sizes = numbers["sizes"]
    bound = f", at most {sizes['max_pois_per_block']:,} POIs each" if sizes["max_pois_per_block"] else ""
    square = f" of {sizes['cell_km']:g} km" if "cell_km" in sizes else ""
    return page(
        title,
        f"{sizes['scheme']} blocks{square}{bound}; {sizes['num_visits']:,} training visits",
        _cards(numbers),
        [
            _map_section(index, used, colour),
            _sizes_and_depths(numbers),
            _use_section(numbers),
            side_by_side(_blocks_section(numbers), _entropy_section(numbers["entropy_bits"])),
            _depth_table(numbers["depths"]) if len(numbers["depths"]) > 1 else "",
            _growth_section(numbers["growth"]),
        ],
        [charts.STYLES, cell_map.STYLES],
        [cell_map.SCRIPT],
    )


def _map_section(index: POIIndex, used: Usage, colour: str) -> str:
    cells = block_cells(index, {"POIs": used.block_places, "training visits": used.block_visits}, MAX_CELLS)
    merged = f" The deepest of {index.num_blocks:,} blocks are drawn together." if len(cells) < index.num_blocks else ""
    words = []
    if index.category_names:
        # The largest block speaks for those drawn together: written last, it stays.
        top = np.empty(len(cells), np.int64)
        largest_last = np.argsort(used.block_places, kind="stable")
        top[cells.group[largest_last]] = top_categories(index)[largest_last]
        words = [("mostly", [*index.category_names, "no category"], top)]
    return section(
        "Map of the blocks",
        "Every rectangle is a block. Drag to move; click and scroll, or press + and -, to zoom; point at a block to "
        f"read it.{merged}" + (" Added blocks lie inside older ones." if index.added is not None else ""),
        cell_map.cell_map(
            cells,
            central_view(index, index.block_sizes),
            _COUNTS[colour],
            LEGENDS[colour],
            f"Map of {index.num_blocks:,} blocks by {LEGENDS[colour]}",
            words,
        ),
    )


# ---------------------------------------------------------------- histograms and curves


def _sizes_and_depths(numbers: dict[str, Any]) -> str:
    edges, blocks = numbers["blocks"]["histogram"]["edges"], numbers["blocks"]["histogram"]["blocks"]
    names = [f"{low:,}" if high == low + 1 else f"{low:,}-{high - 1:,}" for low, high in pairwise(edges)]
    sizes = section(
        "Block sizes",
        "How many POIs the blocks hold. Small blocks leave inner ids unused; full ones have no room to grow.",
        charts.bars([Series("blocks", blocks)], names, Axis("POIs in a block"), Axis("blocks")),
    )
    depths = numbers["depths"]
    if len(depths) == 1:  # the grid: all squares are alike
        return sizes
    kinds = [kind for kind in ("pois", "visits") if depths[0][kind] is not None]
    return side_by_side(
        sizes,
        section(
            "Depth",
            "Where POIs and training visits lie among the tile levels; each level halves the side of a tile.",
            charts.bars(
                [Series(_COUNTS[kind], [row[kind] for row in depths]) for kind in kinds],
                [str(row["level"]) for row in depths],
                Axis("tile level"),
                Axis("share", percent),
            ),
        ),
    )


def _use_section(numbers: dict[str, Any]) -> str:
    kinds = {"block": "blocks", "inner": "inner ids"}
    names = [f"{share:.0%}" for share in SHARES]
    rows = []
    for kind, name in kinds.items():
        use = numbers["use"][kind]
        carry = [f"{use['carry'][share]:,}" for share in names] if use["carry"] else ["-"] * len(names)
        unused = f"{use['with_places'] - use['with_visits']:,}"
        rows.append([name, f"{use['ids']:,}", f"{use['with_places']:,}", unused, *carry])
    heads = ["", "ids", "with POIs", "of these never visited", *(f"carry {share} of visits" for share in names)]
    content = table(heads, rows)
    if numbers["use"]["block"]["curve"]:
        curves = [
            Series(name, numbers["use"][kind]["curve"]["visits"], numbers["use"][kind]["curve"]["ids"])
            for kind, name in kinds.items()
        ]
        x, y = Axis("ids, most visited first", log=True), Axis("share of training visits", percent)
        content += charts.lines(curves, x, y, y_range=(0.0, 1.0), wide=True)
    return section("Vocabulary use", "How few ids carry most training visits.", content)


# ---------------------------------------------------------------- tables


def _cards(numbers: dict[str, Any]) -> list[tuple[str, str]]:
    sizes, entropy = numbers["sizes"], numbers["entropy_bits"]
    cards = [
        (f"{sizes['num_pois']:,}", "POIs"),
        (f"{sizes['num_blocks']:,}", f"blocks, of {sizes['block_capacity']:,} reserved"),
        (f"{sizes['num_inner']:,}", "inner ids"),
        (f"{sizes['block_capacity'] + sizes['num_inner']:,}", "token ids for places"),
        (f"{100 * numbers['blocks']['fill']:.2g} %", "of each block's inner ids used"),
    ]
    if entropy:
        cards.append((f"{entropy['place']['bits']:.1f} bits", "entropy of the visited place"))
    return cards


def _blocks_section(numbers: dict[str, Any]) -> str:
    blocks, num_blocks = numbers["blocks"], numbers["sizes"]["num_blocks"]
    rows = [
        ["POIs in a block", *(f"{blocks['pois'][name]:,.0f}" for name in ("median", "q95", "max"))],
        [
            "km from middle to farthest corner",
            *(f"{blocks['corner_km'][name]:,.2f}" for name in ("median", "q95", "max")),
        ],
    ]
    single = blocks["single_poi_blocks"]
    return section(
        "Blocks",
        f"{single:,} blocks ({single / num_blocks:.1%}) hold one POI; the mean is {blocks['pois']['mean']:,.1f}.",
        table(["", "median", "95 %", "largest"], rows),
    )


def _entropy_section(entropy: dict[str, dict[str, float]] | None) -> str:
    if entropy is None:
        return section("Entropy", "The index knows no training visits.", "")
    names = {"block": "block", "inner_given_block": "inner id, given the block", "place": "place (both)"}
    rows = [[names[key], f"{entropy[key]['bits']:.2f}", f"{entropy[key]['effective']:,.0f}"] for key in names]
    return section(
        "Entropy",
        "Under training visits; what a guess by popularity alone has to pay for each token.",
        table(["", "bits", "as many equally likely ids"], rows),
    )


def _depth_table(depths: list[dict[str, Any]]) -> str:
    rows = [
        [
            str(row["level"]),
            f"{row['blocks']:,}",
            f"{row['pois']:.2%}",
            "-" if row["visits"] is None else f"{row['visits']:.2%}",
            f"{row['corner_km']:,.2f}",
        ]
        for row in depths
    ]
    heads = ["tile level", "blocks", "of POIs", "of training visits", "km to the farthest corner (median)"]
    return section("Depth in numbers", "", table(heads, rows))


def _growth_section(growth: dict[str, Any]) -> str:
    rows = [
        ["POIs added since the build", f"{growth['added_share']:.1%} of all"],
        ["POIs retired", f"{growth['retired_share']:.1%} of all"],
        ["POIs in blocks that were added", f"{growth['child_share']:.1%} of all"],
        ["spare blocks used", f"{growth['spare_blocks_used']:.1%}"],
        ["spare blocks left", f"{growth['spare_blocks_left']:,}"],
        ["free inner ids in the blocks", f"{growth['spare_inner_ids']:,}"],
    ]
    advice = "Rebuild: " + "; ".join(growth["reasons"]) if growth["reasons"] else "No rebuild is due."
    return section("Room to grow", advice, table(["", ""], rows), kind="warn" if growth["reasons"] else "good")
