"""A map of the blocks of an index as a picture: every cell a rectangle, coloured by its training visits or its POIs."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import KM_PER_DEGREE, areas_km2
from spacetime_gr.index.quality import Usage
from spacetime_gr.reports.cell_map import GROUND, PALETTE, UNVISITED, shade_range
from spacetime_gr.reports.cells import View, central_view

COLOURS = ("visits", "pois")
LEGENDS = {"visits": "training visits per km²", "pois": "POIs per km²"}
PAPER, INK, FAINT, MARK = "#ffffff", "#1c2333", "#6b7488", "#ffb454"


def draw_map(index: POIIndex, used: Usage, colour: str, title: str) -> Figure:
    """Draw the blocks.

    Args:
        index: the index.
        used: its counts.
        colour: `visits` or `pois`, on a logarithmic scale; blocks without visits are grey.
        title: what the index is about.

    Returns:
        A matplotlib figure of about 11 inches by the shape of the map.
    """
    view, bounds = central_view(index, index.block_sizes), index.block_bounds()
    # Blocks hold about as many places each, so their density is what tells a centre from a suburb.
    values = (used.block_visits if colour == "visits" else used.block_places) / areas_km2(bounds)
    width = 8.6
    height = width * view.aspect
    figure = Figure(figsize=(width + 2.5, height + 1.5), facecolor=PAPER)
    FigureCanvasAgg(figure)
    total_width, total_height = figure.get_size_inches()
    axes = figure.add_axes((0.75 / total_width, 0.5 / total_height, width / total_width, height / total_height))
    inside = view.touches(bounds)
    point = (view.east - view.west) / (width * 72.0)
    blocks = _draw_blocks(axes, view.clip(bounds[inside]), values[inside], index.blocks.levels[inside], point)
    axes.set(xlim=(view.west, view.east), ylim=(view.south, view.north), aspect=view.stretch, facecolor=GROUND)
    axes.xaxis.set_major_formatter(lambda degrees, _: _degrees(degrees, "EW"))
    axes.yaxis.set_major_formatter(lambda degrees, _: _degrees(degrees, "NS"))
    axes.locator_params(nbins=6)
    axes.tick_params(colors=FAINT, labelsize=8, length=3, width=0.6)
    for side in axes.spines.values():
        side.set(color=FAINT, linewidth=0.6)
    _draw_scale_bar(axes, view)

    right = (0.75 + width + 0.2) / total_width
    overview = _draw_overview(
        figure, (right, 0.5 / total_height, 1.35 / total_width, 0.34 * height / total_height), index, view
    )
    low = 0.42 * height if overview else 0.0
    bar = figure.add_axes((right, (0.5 + low) / total_height, 0.17 / total_width, (height - low) / total_height))
    figure.colorbar(blocks, cax=bar, extend="both", extendfrac=0.015)
    bar.yaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    grey = " (grey: none)" if (values[inside] == 0).any() else ""
    bar.set_ylabel(LEGENDS[colour] + grey, color=INK, fontsize=9)
    bar.tick_params(colors=FAINT, labelsize=8, length=3, width=0.6)
    bar.spines[:].set(color=FAINT, linewidth=0.6)

    left = 0.75 / total_width
    figure.text(left, 1 - 0.48 / total_height, title, fontsize=15, fontweight="bold", color=INK)
    figure.text(left, 1 - 0.78 / total_height, _subtitle(index, inside, used), fontsize=9, color=FAINT)
    return figure


def save_map(figure: Figure, path: Path) -> None:
    """Write the picture as PNG."""
    figure.savefig(path, dpi=150, facecolor=PAPER, metadata={"Software": None})


def _draw_blocks(
    axes: Axes, boxes: NDArray[np.float64], values: NDArray[np.float64], levels: NDArray[np.int8], point: float
) -> PolyCollection:
    """The rectangles, coarse cells first: a block added later lies inside an older one. `point`: 1/72" in degrees."""
    order = np.argsort(levels, kind="stable")
    south, west, north, east = boxes[order].T
    corners = ((west, south), (east, south), (east, north), (west, north))
    counts = values[order]
    low, high = np.power(10.0, shade_range(counts))
    blocks = PolyCollection(
        np.stack([np.stack(corner, axis=1) for corner in corners], axis=1),  # type: ignore[arg-type]
        array=np.ma.masked_less_equal(counts, 0.0),
        cmap=PALETTE.with_extremes(bad=UNVISITED),
        norm=LogNorm(low, high),
        edgecolors=GROUND,
        # Outlines as wide as their blocks would hide the colours.
        linewidths=np.clip((east - west) / point / 16.0, 0.0, 0.45),
    )
    axes.add_collection(blocks, autolim=False)
    return blocks


def _degrees(value: float, signs: str) -> str:
    return f"{abs(value):.6g}° {signs[0] if value > 0 else signs[1] if value < 0 else ''}".strip()


def _draw_scale_bar(axes: Axes, view: View) -> None:
    """A bar of 1, 2 or 5 times a power of ten km, about a sixth of the map's width."""
    km_per_degree = KM_PER_DEGREE / view.stretch
    aim = (view.east - view.west) * km_per_degree / 6.0
    power = 10.0 ** np.floor(np.log10(aim))
    km = max(step * power for step in (1, 2, 5) if step * power <= aim)
    share = km / km_per_degree / (view.east - view.west)
    left, bottom, thick = 0.03, 0.035, 0.006
    panel = Rectangle(
        (left - 0.012, bottom - 0.014), share + 0.024, 0.052, transform=axes.transAxes, color=GROUND, alpha=0.75, lw=0
    )
    axes.add_patch(panel)
    axes.add_patch(Rectangle((left, bottom), share, thick, transform=axes.transAxes, color="white", lw=0))
    label = f"{km:,g} km" if km >= 1 else f"{km * 1000:g} m"
    axes.text(left + share / 2, bottom + 0.012, label, transform=axes.transAxes, color="white", fontsize=8, ha="center")


def _draw_overview(figure: Figure, place: tuple[float, float, float, float], index: POIIndex, view: View) -> bool:
    """All blocks as dots with the window among them, if places lie well outside the window; tells whether they do."""
    latitude, longitude = index.block_centers.T
    south, north = min(latitude.min(), view.south), max(latitude.max(), view.north)
    west, east = min(longitude.min(), view.west), max(longitude.max(), view.east)
    if (north - south) < 1.2 * (view.north - view.south) and (east - west) < 1.2 * (view.east - view.west):
        return False
    axes = figure.add_axes(place, facecolor=GROUND, anchor="SW")
    axes.scatter(longitude, latitude, s=0.6, color="#d8d3e8", linewidths=0, rasterized=True)
    axes.add_patch(
        Rectangle((view.west, view.south), view.east - view.west, view.north - view.south, fill=False, ec=MARK, lw=1)
    )
    pad_lat, pad_lon = 0.06 * (north - south), 0.06 * (east - west)
    axes.set(xlim=(west - pad_lon, east + pad_lon), ylim=(south - pad_lat, north + pad_lat), xticks=[], yticks=[])
    axes.set_aspect(View(south, west, north, east).stretch)
    axes.set_title("all blocks; map: frame", fontsize=8, color=FAINT, loc="left", pad=3)
    axes.spines[:].set(color=FAINT, linewidth=0.6)
    return True


def _subtitle(index: POIIndex, inside: NDArray[np.bool_], used: Usage) -> str:
    bound = f", at most {index.max_pois_per_block:,} each" if index.max_pois_per_block else ""
    text = f"{index.num_blocks:,} {index.scheme.name} blocks for {index.num_pois:,} POIs{bound}"
    outside = ~inside
    if outside.any():
        share = used.block_places[outside].sum() / index.num_pois
        text += f"; {int(outside.sum()):,} blocks ({100 * share:.2g} % of POIs) lie outside the map"
    return text
