"""A map that can be moved and read: rectangles on a canvas, drawn by a short script of the page's own."""

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap, to_hex
from numpy.typing import NDArray

from spacetime_gr.reports.cells import Cells, View

PALETTE = ListedColormap(mpl.colormaps["magma"](np.linspace(0.14, 1.0, 256)))  # black is left to the ground
UNVISITED, GROUND = "#3d465c", "#10131f"
_NUM_SHADES = 64
_NO_SHADE = 255
_COLOURS = [to_hex(PALETTE(at)) for at in np.linspace(0.0, 1.0, _NUM_SHADES)]

STYLES = """
  .map { position: relative; border-radius: 6px; overflow: hidden; background: #10131f; }
  .map canvas { display: block; width: 100%; cursor: grab; touch-action: pan-y; }
  .map canvas:focus-visible { outline: 2px solid var(--second); outline-offset: -2px; }
  .map .tools { position: absolute; top: 10px; right: 10px; display: grid; gap: 4px; }
  .map .tools button { font: 16px/1 inherit; width: 30px; height: 30px; border: 0; border-radius: 6px; cursor: pointer;
    background: #ffffffd9; color: #1c2333; }
  .map output { position: absolute; pointer-events: none; background: #fffffff2; color: #1c2333; font-size: 13px;
    padding: 6px 10px; border-radius: 6px; white-space: pre; max-width: 300px; overflow: hidden; }
  .scale { display: flex; gap: 10px; align-items: center; font-size: 13px; color: var(--faint); margin-top: 8px; }
  .scale i { flex: 0 1 260px; min-width: 60px; height: 10px; border-radius: 3px; }
"""

SCRIPT = """
function cellMap(holder) {
  const data = JSON.parse(holder.querySelector("script").textContent);
  const bytes = text => Uint8Array.from(atob(text), sign => sign.charCodeAt(0));
  const boxes = new Float32Array(bytes(data.boxes).buffer), corner = {west: data.view[1], north: data.view[2]};
  const stretch = data.stretch, num = boxes.length / 4;
  let shades = bytes(data.shades), shown = data.view, over = () => {}, above = () => null, more = () => [];
  const canvas = holder.querySelector("canvas"), pen = canvas.getContext("2d"), tip = holder.querySelector("output");
  const whole = {x: 0, y: 0, span: 1};  // west and north edge from the corner of the boxes, and width, in degrees
  let at = {...whole}, width = 0, height = 0, waiting = false, grip = null;

  function draw() {
    waiting = false;
    const zoom = width / at.span, tall = zoom * stretch, dots = devicePixelRatio || 1;
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.fillStyle = data.ground;
    pen.fillRect(0, 0, width, height);
    for (let i = 0; i < num; i++) {  // south, west, north, east from the window's north-west corner
      const left = (boxes[4 * i + 1] - at.x) * zoom, right = (boxes[4 * i + 3] - at.x) * zoom;
      const top = (at.y - boxes[4 * i + 2]) * tall, bottom = (at.y - boxes[4 * i]) * tall;
      if (right < 0 || left > width || bottom < 0 || top > height) continue;
      const gap = right - left > 8 ? 0.5 : 0;
      pen.fillStyle = shades[i] === 255 ? data.none : data.colours[shades[i]];
      pen.fillRect(left, top, Math.max(right - left - gap, 0.7), Math.max(bottom - top - gap, 0.7));
    }
    over(pen, place);
    const perPixel = at.span / width * 111.195 / stretch, power = 10 ** Math.floor(Math.log10(perPixel * width / 6));
    const km = [5, 2, 1].map(step => step * power).find(length => length <= perPixel * width / 6);
    pen.fillStyle = "#10131fcc"; pen.fillRect(12, height - 38, km / perPixel + 16, 28);
    pen.fillStyle = "#fff"; pen.fillRect(20, height - 18, km / perPixel, 3);
    pen.font = "12px sans-serif";
    pen.fillText(km >= 1 ? km.toLocaleString("en") + " km" : Math.round(km * 1000) + " m", 20, height - 24);
  }
  const place = (lat, lon) => [(lon - corner.west - at.x) * width / at.span,
    (at.y - lat + corner.north) * width / at.span * stretch];  // degrees to pixels
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };
  function resize() {
    width = holder.clientWidth; height = Math.round(Math.min(760, Math.max(340, width * data.aspect)));
    const [south, west, north, east] = shown;
    whole.span = Math.max(east - west, (north - south) * stretch * width / height);
    whole.x = (east + west - whole.span) / 2 - corner.west;
    whole.y = (north + south + whole.span / stretch * height / width) / 2 - corner.north;
    at = {...whole};
    canvas.width = width * (devicePixelRatio || 1); canvas.height = height * (devicePixelRatio || 1);
    canvas.style.height = height + "px";
    draw();
  }
  function zoomTo(factor, x, y) {
    const span = Math.min(360, Math.max(whole.span / 5000, at.span / factor)), change = (at.span - span) / width;
    at = {x: at.x + x * change, y: at.y - y * change / stretch, span}; redraw();
  }
  function move(x, y) { at.x -= x * at.span / width; at.y += y * at.span / width / stretch; redraw(); }
  function read(x, y) {
    const lon = at.x + x * at.span / width, lat = at.y - y * at.span / width / stretch;
    const words = above(x, y, place);
    let found = num - 1;  // the finest are last
    while (found >= 0 && !(boxes[4 * found] <= lat && lat <= boxes[4 * found + 2] &&
      boxes[4 * found + 1] <= lon && lon <= boxes[4 * found + 3])) found--;
    tip.hidden = found < 0 && !words;
    if (tip.hidden) return;
    tip.textContent = words || [data.addresses[found], ...data.columns.map(column => column.name + ": " +
      (column.words ? column.words[column.values[found]] : column.values[found].toLocaleString("en"))),
      ...more(found)].join("\\n");
    tip.style.left = Math.min(x + 14, Math.max(0, width - tip.offsetWidth - 4)) + "px";
    tip.style.top = Math.min(y + 14, Math.max(0, height - tip.offsetHeight - 4)) + "px";
  }
  canvas.onpointerdown = event => { grip = [event.offsetX, event.offsetY]; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = canvas.onpointercancel = () => { grip = null; };
  canvas.onpointermove = event => {
    const here = [event.offsetX, event.offsetY];
    if (grip) { move(here[0] - grip[0], here[1] - grip[1]); grip = here; tip.hidden = true; } else read(...here);
  };
  canvas.onpointerleave = () => { tip.hidden = true; };
  canvas.addEventListener("wheel", event => {  // the page scrolls until the map was clicked
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoomTo(1.0015 ** -event.deltaY, event.offsetX, event.offsetY);
  }, {passive: false});
  const middle = factor => zoomTo(factor, width / 2, height / 2), back = () => { at = {...whole}; redraw(); };
  canvas.onkeydown = event => {
    const keys = {ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60),
      ArrowDown: () => move(0, -60), "+": () => middle(1.6), "-": () => middle(1 / 1.6), "0": back};
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  };
  const [closer, farther, home] = holder.querySelectorAll(".tools button");
  closer.onclick = () => middle(1.6); farther.onclick = () => middle(1 / 1.6); home.onclick = back;
  addEventListener("resize", resize);
  resize();
  // Another picture on the same map: shades of the cells, the window, what is drawn over the cells, and two texts:
  // of what lies under the pointer above the cells (null: the cell's own is shown), and more lines on a cell.
  function show(next) { ({shades, shown, over, above, more} = next); resize(); }
  return {data, show};
}
document.querySelectorAll(".map:not(.steps)").forEach(cellMap);
"""


def cell_map(
    cells: Cells,
    view: View,
    colour: str,
    legend: str,
    label: str,
    words: Sequence[tuple[str, Sequence[str], NDArray[np.integer]]] = (),
) -> str:
    """The map as HTML; the page needs `STYLES` and `SCRIPT` once.

    Args:
        cells: what is drawn; each tells its address and counts under the pointer.
        view: the window shown first.
        colour: the count whose density per km² gives the colours, on a logarithmic scale; cells without any are grey.
        legend: name of that density with its unit.
        label: what the map shows, for who cannot see it.
        words: more to tell of each cell: name, words, and the number of the word, shape (n,).
    """
    density = cells.density(colour)
    low, high = shade_range(density)
    steps = (np.log10(np.maximum(density, 1e-300)) - low) / (high - low)
    shades = np.where(density > 0, np.clip(steps * _NUM_SHADES, 0, _NUM_SHADES - 1), _NO_SHADE).astype(np.uint8)
    columns: list[dict[str, Any]] = [{"name": name, "values": cells.counts[name].tolist()} for name in cells.counts]
    columns += [{"name": name, "words": list(texts), "values": which.tolist()} for name, texts, which in words]
    grey = "; grey: none" if (density == 0).any() else ""
    unit = f"{_short(10.0**high)} {legend} (logarithmic{grey})"
    return canvas(cells, view, label, columns, shades) + scale(_short(10.0**low), unit)


def canvas(
    cells: Cells,
    view: View,
    label: str,
    columns: Sequence[dict[str, Any]],
    shades: NDArray[np.uint8] | None = None,
    more: dict[str, Any] | None = None,
) -> str:
    """The map without its scale.

    Args:
        cells, view, label: as for `cell_map`.
        columns: what is told of each cell: name, values, and perhaps words that the values are numbers of.
        shades: number of each cell's colour; None for a map of class `steps`, whose pictures a script shows.
        more: data for that script.
    """
    # Single precision would move small boxes by a metre; measured from the window's corner it does not.
    boxes = (cells.bounds - np.array([view.north, view.west] * 2)).astype("<f4")
    data = {
        "view": [view.south, view.west, view.north, view.east],
        "stretch": view.stretch,
        "aspect": view.aspect,
        "ground": GROUND,
        "none": UNVISITED,
        "colours": _COLOURS,
        "boxes": base64.b64encode(boxes.tobytes()).decode(),
        "shades": "" if shades is None else base64.b64encode(shades.tobytes()).decode(),
        "addresses": cells.addresses,
        "columns": columns,
        **(more or {}),
    }
    tools = "".join(
        f'<button title="{name}" aria-label="{name}">{sign}</button>'
        for sign, name in (("+", "zoom in"), ("\u2212", "zoom out"), ("\u2302", "whole map"))
    )
    return (
        f'<div class="map{" steps" if shades is None else ""}">'
        f'<canvas tabindex="0" role="img" aria-label="{escape(label)}"></canvas>'
        f'<div class="tools">{tools}</div><output hidden></output>'
        f'<script type="application/json">{_json(data)}</script></div>'
    )


def scale(low: str, high: str) -> str:
    """The scale of colours, with what its ends stand for."""
    return (
        f'<div class="scale"><span>{escape(low)}</span>'
        f'<i style="background:linear-gradient(90deg,{",".join(_COLOURS[::7])})"></i><span>{escape(high)}</span></div>'
    )


def shade_range(density: NDArray[np.floating]) -> tuple[float, float]:
    """Decimal logarithms of the densities that get the first and the last colour.

    A few cells far above or below all others would leave one colour to these, so the outermost 1.5 % share the ends.
    """
    some = density[density > 0]
    low, high = np.log10(np.quantile(some, [0.01, 0.995])) if len(some) else (0.0, 1.0)
    return float(low), float(max(high, low + np.log10(2.0)))


def _json(data: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
