"""The quality report of an index as one HTML page that needs no network: tables, histograms and a map of the blocks."""

import base64
from html import escape
from itertools import pairwise
from string import Template
from typing import Any

import numpy as np
import plotly.graph_objects as go
from matplotlib.colors import to_hex
from plotly.offline import get_plotlyjs

from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import areas_km2
from spacetime_gr.index.quality import SHARES, Usage, top_categories
from spacetime_gr.reports.index_map import FAINT, GROUND, INK, LEGENDS, PALETTE, central_view

MAX_INTERACTIVE = 20_000  # more rectangles than this make a browser slow; the picture is shown instead
VIOLET, ORANGE, RULE = "#5b2a86", "#ee7752", "#e3e6ee"
_FONT = {"family": "Inter, system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "color": INK, "size": 13}
_CATEGORIES = {"type": "category", "showgrid": False, "tickangle": 0}
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "displayModeBar": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light; }
  body { margin: 0; background: #f6f7fa; color: $ink; font: 15px/1.5 Inter, system-ui, -apple-system, "Segoe UI",
    Roboto, sans-serif; }
  main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
  h1 { font-size: 28px; margin: 0; letter-spacing: -0.01em; }
  h2 { font-size: 18px; margin: 0 0 4px; }
  p { margin: 4px 0 12px; color: $faint; }
  section { background: #fff; border: 1px solid $rule; border-radius: 12px; padding: 20px 22px; margin-top: 20px;
    min-width: 0; }
  .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; margin-top: 20px; }
  .card { background: #fff; border: 1px solid $rule; border-radius: 12px; padding: 14px 18px; }
  .card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
  .card span { color: $faint; font-size: 13px; }
  .two { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 20px; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid $rule; }
  th { color: $faint; font-weight: 500; font-size: 13px; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; }
  img { width: 100%; height: auto; border-radius: 6px; }
  .good { border-left: 4px solid #3a9d6a; } .warn { border-left: 4px solid $orange; }
  @media (max-width: 900px) { .two { grid-template-columns: 1fr; } }
</style>
<script>$plotly</script>
</head>
<body>
<main>
<h1>$title</h1>
<p>$subtitle</p>
<div class="cards">$cards</div>
$sections
</main>
</body>
</html>
""")


def build_page(
    index: POIIndex, used: Usage, numbers: dict[str, Any], colour: str, title: str, picture: bytes | None
) -> str:
    """The page as text.

    Args:
        index: the index.
        used: its counts.
        numbers: `quality(index)`.
        colour: `visits` or `pois`, for the map.
        title: heading, plain text.
        picture: the map as PNG, shown where there are more than `MAX_INTERACTIVE` blocks.
    """
    figures = _Figures()
    sections = [
        _map_section(index, used, colour, picture, figures),
        _sizes_and_depths(numbers, figures),
        _use_section(numbers, figures),
        '<div class="two">' + _blocks_section(numbers) + _entropy_section(numbers["entropy_bits"]) + "</div>",
        _depth_table(numbers["depths"]) if len(numbers["depths"]) > 1 else "",
        _growth_section(numbers["growth"]),
    ]
    sizes = numbers["sizes"]
    bound = f", at most {sizes['max_pois_per_block']:,} POIs each" if sizes["max_pois_per_block"] else ""
    square = f" of {sizes['cell_km']:g} km" if "cell_km" in sizes else ""
    return _PAGE.substitute(
        title=escape(title),
        subtitle=f"{sizes['scheme']} blocks{square}{bound}; {sizes['num_visits']:,} training visits",
        plotly=get_plotlyjs(),
        cards=_cards(numbers),
        sections="\n".join(sections),
        ink=INK,
        faint=FAINT,
        rule=RULE,
        orange=ORANGE,
    )


class _Figures:
    """Gives each figure of the page its element id; the same index makes the same bytes."""

    def __init__(self) -> None:
        self.number = 0

    def html(self, figure: go.Figure, **config: Any) -> str:
        self.number += 1
        return figure.to_html(
            full_html=False, include_plotlyjs=False, config=_CONFIG | config, div_id=f"figure-{self.number}"
        )


def _layout(**settings: Any) -> dict[str, Any]:
    axis = {"gridcolor": RULE, "zeroline": False, "linecolor": RULE, "automargin": True}
    return {
        "template": "none",
        "font": _FONT,
        "height": 320,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
        "legend": {"orientation": "h", "y": 1.12, "x": 0},
        "hoverlabel": {"font": {"family": _FONT["family"]}},
    } | {name: axis | value if name in ("xaxis", "yaxis") else value for name, value in settings.items()}


# ---------------------------------------------------------------- map


def _map_section(index: POIIndex, used: Usage, colour: str, picture: bytes | None, figures: _Figures) -> str:
    if index.num_blocks > MAX_INTERACTIVE:
        assert picture is not None
        code = base64.b64encode(picture).decode()
        return _section(
            "Map of the blocks",
            f"A picture, as there are more than {MAX_INTERACTIVE:,} blocks; blocks.png is the same.",
            f'<img alt="Map of the blocks" src="data:image/png;base64,{code}">',
        )
    figure = _map_figure(index, used, colour)
    return _section(
        "Map of the blocks",
        "Every rectangle is a block. Drag to move, scroll to zoom, point at a block to read it."
        + (" Grey: no training visits." if colour == "visits" and (used.block_visits == 0).any() else "")
        + (" Added blocks lie inside older ones; the pointer names either." if index.added is not None else ""),
        figures.html(figure, scrollZoom=True, displayModeBar=True),
    )


def _map_figure(index: POIIndex, used: Usage, colour: str) -> go.Figure:
    """Rectangles as floating bars: each has its own colour and hover text, and the pointer finds the one it is in."""
    # Coarse cells first: a block added later lies inside an older one.
    order = np.argsort(index.blocks.levels, kind="stable")
    bounds = index.block_bounds()[order]
    south, west, north, east = bounds.T
    places, visits = used.block_places[order], used.block_visits[order]
    density = (visits if colour == "visits" else places) / areas_km2(bounds)
    names = np.array([*(escape(name) for name in index.category_names), "no category"], dtype=object)
    some = density[density > 0]
    low, high = np.log10(np.quantile(some, [0.01, 0.995])) if len(some) else (0.0, 1.0)
    ticks = np.arange(np.ceil(low), np.floor(high) + 1)
    view = central_view(index)
    pixel = (view.east - view.west) / 1000.0
    figure = go.Figure(
        go.Bar(
            x=(west + east) / 2.0,
            width=east - west,
            base=south,
            y=north - south,
            customdata=np.stack(
                [
                    np.array(index.block_addresses(order), dtype=object),
                    places,
                    visits,
                    names[top_categories(index)[order]],
                ],
                axis=1,
            ),
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]:,} POIs, %{customdata[2]:,} training visits<br>"
            "mostly %{customdata[3]}<extra></extra>",
            marker={
                "color": np.where(density > 0, np.log10(np.maximum(density, 1e-12)), np.nan),  # NaN is grey
                "cmin": low,
                "cmax": max(high, low + 0.1),
                "colorscale": [[float(at), to_hex(PALETTE(at))] for at in np.linspace(0.0, 1.0, 24)],
                "line": {"width": np.clip((east - west) / pixel / 16.0, 0.1, 0.6), "color": GROUND},
                "colorbar": {
                    "title": {"text": LEGENDS[colour], "side": "right"},
                    "tickvals": ticks,
                    "ticktext": [f"{10.0**tick:,.12g}" for tick in ticks],
                    "thickness": 14,
                    "outlinewidth": 0,
                },
            },
        )
    )
    axis = {"showgrid": False, "zeroline": False, "ticksuffix": "°"}
    figure.update_layout(
        _layout(
            xaxis=axis | {"range": [view.west, view.east], "constrain": "domain"},
            yaxis=axis
            | {
                "range": [view.south, view.north],
                "scaleanchor": "x",
                "scaleratio": view.stretch,
                "constrain": "domain",
            },
            height=int(min(900, max(420, 1000 * view.aspect))),
            plot_bgcolor=GROUND,
            barmode="overlay",
            dragmode="pan",
            hovermode="closest",
        )
    )
    return figure


# ---------------------------------------------------------------- histograms and curves


def _sizes_and_depths(numbers: dict[str, Any], figures: _Figures) -> str:
    sizes = _section(
        "Block sizes",
        "How many POIs the blocks hold. Small blocks leave inner ids unused; full ones have no room to grow.",
        figures.html(_size_figure(numbers["blocks"]["histogram"])),
    )
    if len(numbers["depths"]) == 1:  # the grid: all squares are alike
        return sizes
    depths = _section(
        "Depth",
        "Where POIs and training visits lie among the tile levels; each level halves the side of a tile.",
        figures.html(_depth_figure(numbers["depths"])),
    )
    return f'<div class="two">{sizes}{depths}</div>'


def _size_figure(histogram: dict[str, list[int]]) -> go.Figure:
    edges, blocks = histogram["edges"], histogram["blocks"]
    names = [f"{low:,}" if high == low + 1 else f"{low:,}-{high - 1:,}" for low, high in pairwise(edges)]
    figure = go.Figure(
        go.Bar(x=names, y=blocks, marker_color=VIOLET, hovertemplate="%{x} POIs: %{y:,} blocks<extra></extra>")
    )
    figure.update_layout(
        _layout(
            bargap=0.06,
            xaxis=_CATEGORIES | {"title": "POIs in a block", "dtick": -(-len(names) // 8)},
            yaxis={"title": "blocks", "tickformat": ",d"},
        )
    )
    return figure


def _depth_figure(depths: list[dict[str, Any]]) -> go.Figure:
    levels = [row["level"] for row in depths]
    figure = go.Figure()
    for name, key, colour in (("POIs", "pois", VIOLET), ("training visits", "visits", ORANGE)):
        if depths[0][key] is not None:
            shares = [row[key] for row in depths]
            hover = f"level %{{x}}: %{{y:.1%}} of {name}<extra></extra>"
            figure.add_bar(x=levels, y=shares, name=name, marker_color=colour, hovertemplate=hover)
    figure.update_layout(
        _layout(
            bargap=0.25,
            showlegend=True,
            xaxis=_CATEGORIES | {"title": "tile level"},
            yaxis={"title": "share", "tickformat": ".0%"},
        )
    )
    return figure


def _use_section(numbers: dict[str, Any], figures: _Figures) -> str:
    kinds = {"block": "blocks", "inner": "inner ids"}
    names = [f"{share:.0%}" for share in SHARES]
    rows = []
    for kind, name in kinds.items():
        use = numbers["use"][kind]
        carry = [f"{use['carry'][share]:,}" for share in names] if use["carry"] else ["-"] * len(names)
        unused = f"{use['with_places'] - use['with_visits']:,}"
        rows.append([name, f"{use['ids']:,}", f"{use['with_places']:,}", unused, *carry])
    heads = ["", "ids", "with POIs", "of these never visited", *(f"carry {share} of visits" for share in names)]
    content = _table(heads, rows)
    if numbers["use"]["block"]["curve"]:
        figure = go.Figure()
        for (kind, name), colour in zip(kinds.items(), (VIOLET, ORANGE), strict=True):
            use = numbers["use"][kind]
            hover = f"%{{x:,}} {name} carry %{{y:.1%}} of the visits<extra></extra>"
            figure.add_scatter(
                x=use["curve"]["ids"],
                y=use["curve"]["visits"],
                name=name,
                mode="lines",
                line={"color": colour, "width": 2.5},
                hovertemplate=hover,
            )
        figure.update_layout(
            _layout(
                xaxis={"title": "ids, most visited first", "type": "log", "dtick": 1},
                yaxis={"title": "share of training visits", "tickformat": ".0%", "range": [0, 1.03]},
            )
        )
        content += figures.html(figure)
    return _section("Vocabulary use", "How few ids carry most training visits.", content)


# ---------------------------------------------------------------- tables


def _cards(numbers: dict[str, Any]) -> str:
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
    return "".join(f'<div class="card"><b>{value}</b><span>{name}</span></div>' for value, name in cards)


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
    return _section(
        "Blocks",
        f"{single:,} blocks ({single / num_blocks:.1%}) hold one POI; the mean is {blocks['pois']['mean']:,.1f}.",
        _table(["", "median", "95 %", "largest"], rows),
    )


def _entropy_section(entropy: dict[str, dict[str, float]] | None) -> str:
    if entropy is None:
        return _section("Entropy", "The index knows no training visits.", "")
    names = {"block": "block", "inner_given_block": "inner id, given the block", "place": "place (both)"}
    rows = [[names[key], f"{entropy[key]['bits']:.2f}", f"{entropy[key]['effective']:,.0f}"] for key in names]
    return _section(
        "Entropy",
        "Under training visits; what a guess by popularity alone has to pay for each token.",
        _table(["", "bits", "as many equally likely ids"], rows),
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
    return _section("Depth in numbers", "", _table(heads, rows))


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
    return _section(
        "Room to grow", escape(advice), _table(["", ""], rows), kind="warn" if growth["reasons"] else "good"
    )


def _section(title: str, text: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{title}</h2><p>{text}</p>{content}</section>'


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads) if any(heads) else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
