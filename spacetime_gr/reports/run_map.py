"""Held-out targets to step through: history, true next place and recommended ones over the blocks' probabilities."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import haversine_km
from spacetime_gr.reports import cell_map
from spacetime_gr.reports.cells import MAX_CELLS, Cells, View, block_cells, central_view
from spacetime_gr.reports.charts import percent
from spacetime_gr.reports.page import section, table
from spacetime_gr.reports.run_targets import Answers

_LOWEST_DECADE = -5  # probabilities below 10^-5 share the darkest colour
_PATH_LENGTH = 8  # last places that a line joins
_MARGIN = 0.2
_NARROWEST_DEGREES = 0.02

STYLES = """
  .picker { display: flex; gap: 8px; align-items: center; margin: 0 0 12px; }
  .picker button, .picker select { font: inherit; padding: 6px 12px; border-radius: 8px; border: 1px solid var(--rule);
    background: var(--ground); color: var(--ink); cursor: pointer; min-width: 0; }
  .picker select { flex: 1 1 auto; max-width: 620px; }
  .beside { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 20px; align-items: start; }
  .beside article h3 { font-size: 15px; margin: 0 0 6px; }
  .beside td { overflow-wrap: anywhere; } .beside .facts td:first-child { white-space: nowrap; }
  .points { display: flex; flex-wrap: wrap; gap: 6px 16px; font-size: 13px; color: var(--faint); margin-top: 8px; }
  .points i { display: inline-block; width: 12px; height: 12px; border-radius: 50%; margin-right: 6px;
    vertical-align: -1px; border: 1px solid #10131f; }
  @media (max-width: 900px) { .beside { grid-template-columns: minmax(0, 1fr); } }
"""

SCRIPT = """
for (const holder of document.querySelectorAll(".targets")) {
  const map = cellMap(holder.querySelector(".map")), {steps, lowest} = map.data;
  const choice = holder.querySelector("select"), texts = [...holder.querySelectorAll("article")];
  const numbers = text => new Float32Array(Uint8Array.from(atob(text), sign => sign.charCodeAt(0)).buffer);
  const colours = {history: "#56c8f2", last: "#fff", place: "#fff", hit: "#4be08c", truth: "#4be08c"};
  function disc(pen, x, y, size, fill) {
    pen.beginPath(); pen.arc(x, y, size, 0, 7);
    pen.fillStyle = fill; pen.fill();
    pen.lineWidth = 1.5; pen.strokeStyle = "#10131f"; pen.stroke();
  }
  function draw(step, pen, place) {
    pen.beginPath();
    step.path.forEach(([lat, lon], i) => pen[i ? "lineTo" : "moveTo"](...place(lat, lon)));
    pen.lineWidth = 1.5; pen.strokeStyle = "#56c8f2b0"; pen.stroke();
    for (const point of step.history) disc(pen, ...place(point.lat, point.lon), point.size, colours.history);
    for (const point of step.last) {
      pen.beginPath(); pen.arc(...place(point.lat, point.lon), 11, 0, 7);
      pen.lineWidth = 3; pen.strokeStyle = colours.last; pen.stroke();
    }
    pen.textAlign = "center"; pen.textBaseline = "middle"; pen.font = "bold 11px sans-serif";
    for (const point of [...step.places].reverse()) {
      const [x, y] = place(point.lat, point.lon);
      disc(pen, x, y, 9, point.hit ? colours.hit : colours.place);
      pen.fillStyle = "#10131f"; pen.fillText(point.rank, x, y + 0.5);
    }
    const [x, y] = place(step.truth.lat, step.truth.lon);
    pen.beginPath(); pen.arc(x, y, 15, 0, 7); pen.lineWidth = 6; pen.strokeStyle = "#10131f"; pen.stroke();
    pen.lineWidth = 3; pen.strokeStyle = colours.truth; pen.stroke();
    if (!step.places.some(point => point.hit)) disc(pen, x, y, 5, colours.truth);
    pen.textAlign = "start"; pen.textBaseline = "alphabetic";
  }
  function show(number) {
    const step = steps[number], probs = numbers(step.blocks);
    texts.forEach((text, i) => { text.hidden = i !== number; });
    choice.selectedIndex = number;
    const share = p => Math.floor((Math.log10(p) - lowest) / -lowest * 64);
    map.show({
      shades: Uint8Array.from(probs, p => p > 0 ? Math.min(63, Math.max(0, share(p))) : 0),
      shown: step.window,
      over: (pen, place) => draw(step, pen, place),
      above: (x, y, place) => [...step.history, ...step.last, ...step.places, step.truth].filter(point => {
        const [a, b] = place(point.lat, point.lon);
        return Math.hypot(a - x, b - y) < 11;
      }).map(point => point.text).join("\\n") || null,
      more: cell => ["probability: " + (100 * probs[cell]).toPrecision(3) + " %"],
    });
  }
  const [back, on] = holder.querySelectorAll(".picker button");
  const turn = by => show((choice.selectedIndex + by + steps.length) % steps.length);
  back.onclick = () => turn(-1); on.onclick = () => turn(1); choice.onchange = () => show(choice.selectedIndex);
  show(0);
}
"""


def examples_section(
    index: POIIndex, names: Sequence[str], instances: Instances, answers: Answers, kinds: Sequence[str]
) -> str:
    """The panel.

    Args:
        index: the places.
        names: what each place is called, by its row.
        instances: the targets, n.
        answers: of the model, with probabilities of the blocks.
        kinds: what each target is an example of, n.
    """
    cells = block_cells(index, {"POIs": index.block_sizes}, MAX_CELLS)
    view = central_view(index, index.block_sizes)
    targets = [
        _Target(index, names, instances.take(slice(number, number + 1)), answers.take(np.array([number])))
        for number in range(len(instances))
    ]
    steps = [one.picture(cells, view) for one in targets]
    titles = [f"{i}. {kind}: {one.local_time}" for i, (kind, one) in enumerate(zip(kinds, targets, strict=True), 1)]
    texts = [one.article(title) for one, title in zip(targets, titles, strict=True)]
    options = "".join(f"<option>{escape(title)}</option>" for title in titles)
    picture = cell_map.canvas(
        cells,
        view,
        "Map of one held-out target: history, true next place, recommended places, probabilities of blocks",
        [{"name": "POIs", "values": cells.counts["POIs"].tolist()}],
        more={"steps": steps, "lowest": _LOWEST_DECADE},
    )
    points = "".join(
        f'<span><i style="background:{colour}"></i>{said}</span>'
        for colour, said in (
            ("#56c8f2", "history, larger where visited often; line: the last places"),
            ("transparent;border:3px solid #9aa3b8", "last known place"),
            ("#fff", "recommended, with its rank"),
            ("#4be08c", "true next place; a green number: recommended too"),
        )
    )
    coverage = float(answers.coverage.min())
    looked_into = "all" if coverage > 0.9995 else f"at least {percent(coverage)}"
    return section(
        "Held-out targets",
        "What the model was asked and what it said, one request at a time. Colours: the probability that the next "
        "place lies in a block. The lists are those that recommend gives: the blocks it looked into hold "
        f"{looked_into} of the probability. Drag to move; click and scroll, or press + and -, to zoom; "
        "point at anything to read it.",
        f'<div class="targets"><div class="picker"><button type="button" aria-label="previous target">&#8592;</button>'
        f'<select aria-label="target">{options}</select>'
        f'<button type="button" aria-label="next target">&#8594;</button></div>'
        f'<div class="beside"><div>{picture}'
        f"{cell_map.scale(f'{percent(10.0**_LOWEST_DECADE)} and less', '100 % of the probability (logarithmic)')}"
        f'<div class="points">{points}</div></div><div>{"".join(texts)}</div></div></div>',
    )


@dataclass(frozen=True)
class _Target:
    """One target: the instance, alone, and the model's answer to it, alone."""

    index: POIIndex
    names: Sequence[str]
    instance: Instances
    answer: Answers

    @cached_property
    def place(self) -> int:
        """POI row of the true next place."""
        return int(self.instance.target_poi[0])

    @cached_property
    def history(self) -> NDArray[np.int64]:
        """POI rows of the known earlier actions, -1 where the place is unknown."""
        return np.asarray(self.instance.log.poi_row[self.instance.history()[0]])

    @cached_property
    def listed(self) -> NDArray[np.int64]:
        """POI rows of the recommended places, best first."""
        rows = self.answer.rows[0]
        return rows[rows >= 0]

    @property
    def local_time(self) -> str:
        """When the request was made."""
        log, event = self.instance.log, int(self.instance.target[0])
        seconds = int(log.timestamp[event]) + 60 * int(log.tz_offset_minutes[event])
        return datetime.fromtimestamp(seconds, UTC).strftime("%a %Y-%m-%d %H:%M local time")

    def picture(self, cells: Cells, view: View) -> dict[str, Any]:
        """What the script draws."""
        names, known = self.names, self.history[self.history >= 0]
        places, visits = np.unique(known, return_counts=True)
        path = known[-_PATH_LENGTH:]
        blocks = np.bincount(cells.group, self.answer.blocks[0], minlength=len(cells))
        picture: dict[str, Any] = {
            "history": self._points(
                places,
                [f"{names[row]}, earlier visits: {count:,}" for row, count in zip(places, visits, strict=True)],
                size=np.round(3 + 1.5 * np.log2(visits), 1),
            ),
            "last": self._points(known[-1:], [f"last known place: {names[row]}" for row in known[-1:]]),
            "path": np.round(np.stack(self.index.coordinates(path), axis=1), 5).tolist(),
            "places": self._points(
                self.listed,
                [f"{i + 1}. {names[row]}: {percent(self.answer.probs[0, i])}" for i, row in enumerate(self.listed)],
                rank=np.arange(1, len(self.listed) + 1),
                hit=self.listed == self.place,
            ),
            "truth": self._points(np.array([self.place]), [f"true next place: {names[self.place]}"])[0],
            "blocks": base64.b64encode(blocks.astype("<f4").tobytes()).decode(),
        }
        shown = [picture["truth"], *picture["last"], *picture["places"]]
        picture["window"] = _window(np.array([[point["lat"], point["lon"]] for point in shown]), view)
        return picture

    def _points(self, rows: NDArray[np.integer], texts: Sequence[str], **more: NDArray[Any]) -> list[dict[str, Any]]:
        """Places with their coordinates, what is told of them, and more about each."""
        latitude, longitude = (np.round(axis, 5).tolist() for axis in self.index.coordinates(rows))
        columns = {"lat": latitude, "lon": longitude, "text": texts} | {name: of.tolist() for name, of in more.items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def article(self, title: str) -> str:
        """The facts and the list, as HTML."""
        log, known = self.instance.log, self.history[self.history >= 0]
        visits = np.bincount(known, minlength=self.index.num_pois)
        before = int(visits[self.place])
        explore, rank = float(self.answer.explore[0]), int(self.answer.rank[0])
        facts = [
            ["person (hash)", str(int(log.user_hash[log.user[self.instance.target[0]]]))],
            ["earlier actions known", f"{len(self.history):,}"],
            ["true next place", self.names[self.place]],
            ["earlier visits there", f"{before:,}"],
            ["its rank", str(rank) if rank else f"not among the first {len(self.listed)}"],
            ["its probability", percent(float(self.answer.target_prob[0]))],
            ["probability of exploring", "no such head" if np.isnan(explore) else percent(explore)],
        ]
        here = self.index.coordinates(known[-1:]) if len(known) else (np.array([np.nan]), np.array([np.nan]))
        latitude, longitude = self.index.coordinates(self.listed)
        away = haversine_km(here[0], here[1], latitude, longitude)
        rows = [
            [
                f"{i + 1}. {self.names[row]}" + (" \u2714" if row == self.place else ""),
                percent(float(self.answer.probs[0, i])),
                "-" if np.isnan(away[i]) else f"{away[i]:.1f}",
                f"{visits[row]:,}",
            ]
            for i, row in enumerate(self.listed.tolist())
        ]
        listed = table(["place", "probability", "km away", "visits"], rows)
        return f'<article><h3>{escape(title)}</h3><div class="facts">{table(["", ""], facts)}</div>{listed}</article>'


def _window(points: NDArray[np.float64], view: View) -> list[float]:
    """South, west, north, east around points (n, 2), with a margin, never a strip."""
    (south, west), (north, east) = points.min(axis=0), points.max(axis=0)
    tall = max(north - south, _NARROWEST_DEGREES / view.stretch) * (1 + 2 * _MARGIN)
    wide = max(east - west, _NARROWEST_DEGREES) * (1 + 2 * _MARGIN)
    lat, lon = (south + north) / 2, (west + east) / 2
    return [round(float(edge), 5) for edge in (lat - tall / 2, lon - wide / 2, lat + tall / 2, lon + wide / 2)]
