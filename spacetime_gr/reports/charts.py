"""Charts as inline SVG: no script, a few kB each, colours of the page in light and dark, values as tooltips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

STYLES = """
  svg.chart { width: 100%; height: auto; display: block; }
  svg.chart text { fill: var(--faint); font-size: 12px; }
  svg.chart .grid { stroke: var(--rule); } svg.chart .cell { fill: var(--first); }
  svg.chart .bar:hover, svg.chart .cell:hover { stroke: var(--ink); }
  svg.chart .bar0, .key0 { fill: var(--first); background: var(--first); }
  svg.chart .bar1, .key1 { fill: var(--second); background: var(--second); }
  svg.chart .bar2, .key2 { fill: var(--good); background: var(--good); }
  svg.chart .bar3, .key3 { fill: var(--faint); background: var(--faint); }
  svg.chart .whisker { stroke: var(--ink); stroke-width: 1.5; pointer-events: none; }
  svg.chart .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; }
  svg.chart .line0 { stroke: var(--first); } svg.chart .line1 { stroke: var(--second); stroke-dasharray: 7 3; }
  svg.chart .line2 { stroke: var(--good); } svg.chart .line3 { stroke: var(--faint); stroke-dasharray: 2 4; }
  svg.chart .mark { stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 4 4; opacity: .6; }
  svg.chart .dot { fill: transparent; } svg.chart .dot:hover { fill: var(--ink); }
  svg.chart .dot0 { fill: var(--first); } svg.chart .dot1 { fill: var(--second); }
  svg.chart .dot2 { fill: var(--good); } svg.chart .dot3 { fill: var(--faint); }
  .keys { font-size: 13px; color: var(--faint); margin: 0 0 6px; }
  .keys i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin: 0 6px 0 0; }
  .keys span { margin-right: 16px; white-space: nowrap; }
  @media (max-width: 600px) { svg.chart text { font-size: 16px; } }
"""
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 8, 46
_MOST_DOTS = 25  # so many points of a line are seen without a pointer
Format = Callable[[float], str]
Values = Sequence[float] | NDArray[np.number]


def number(value: float) -> str:
    """A count with a thousands separator; large round ones as k and M."""
    for size, sign in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if value >= size:
            return f"{value / size * (10 if sign == ' k' else 1):,.4g}{sign}"
    return f"{value:,.4g}"


def percent(value: float) -> str:
    """A share in percent, three digits at most."""
    return f"{100 * value:.3g} %"


@dataclass(frozen=True)
class Axis:
    """An axis: title with unit, how to write a value, and whether its scale is logarithmic."""

    title: str
    form: Format = number
    log: bool = False


@dataclass(frozen=True)
class Series:
    """One set of values.

    x, labels, joined: of line charts: positions, names of points (written beside them), and whether a line joins them.
    intervals: low and high of each bar or point, drawn as a whisker, None for none.
    """

    name: str
    y: Values
    x: Values = ()
    intervals: Sequence[tuple[float, float] | None] = ()
    labels: Sequence[str] = ()
    joined: bool = True


def bars(
    series: Sequence[Series],
    names: Sequence[str],
    x: Axis,
    y: Axis,
    ticks: Sequence[tuple[float, str]] | None = None,
    wide: bool = False,
) -> str:
    """Bars of equal width, side by side where there are several series.

    Args:
        series: one to four, each of a value per bar.
        names: what each bar stands for, for its tooltip.
        x, y: the axes; x has no scale.
        ticks: (position, label) below the bars, where bar i spans i to i + 1; default: names of some bars.
        wide: for the whole width of the page, not half.
    """
    frame = _Frame(wide)
    num = max(1, len(names))
    ends = [*(float(np.max(one.y, initial=0.0)) for one in series)]
    ends += [pair[1] for one in series for pair in one.intervals if pair]
    top = max(ends, default=0.0) or 1.0
    step = _nice_step(top)
    top = step * np.ceil(top / step - 1e-9)
    if ticks is None:
        every = -(-num // (16 if wide else 8))
        ticks = [(i + 0.5, name) for i, name in enumerate(names) if i % every == 0]
    parts = [frame.y_ticks([(value / top, y.form(value)) for value in np.arange(0.0, top + step / 2, step)])]
    parts.append(frame.x_ticks([(at / num, label) for at, label in ticks]))
    slot = frame.width / num
    thick = slot * (0.92 if num > 12 else 0.8) / len(series)
    for kind, one in enumerate(series):
        for i, value in enumerate(one.y):
            height = float(value) / top * frame.height
            left = _LEFT + i * slot + (slot - thick * len(series)) / 2 + kind * thick
            tip = f"{names[i]}: {y.form(float(value))}" + (f" {one.name}" if one.name else "")
            interval = one.intervals[i] if one.intervals else None
            tip += f" ({y.form(interval[0])} to {y.form(interval[1])})" if interval else ""
            parts.append(
                f'<rect class="bar bar{kind}" x="{left:.1f}" y="{_TOP + frame.height - height:.1f}" '
                f'width="{thick:.1f}" height="{height:.1f}"><title>{escape(tip)}</title></rect>'
            )
            if interval:
                parts.append(frame.whisker(left + thick / 2, interval[0] / top, interval[1] / top))
    return _keys(series) + frame.svg(parts, x, y, f"Bar chart: {y.title} by {x.title}")


def lines(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    x_ticks: Sequence[tuple[float, str]] | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    wide: bool = False,
    marks: Sequence[tuple[float, str]] = (),
) -> str:
    """Lines through points; each point has a tooltip.

    Args:
        series: one to four, of x and y.
        x, y: the axes.
        x_ticks: (value, label); default: round values.
        x_range, y_range: lowest and highest value; default: those of the points.
        wide: for the whole width of the page, not half.
        marks: (x, what happened there), drawn as upright lines.
    """
    frame = _Frame(wide)
    xs, ys = (np.concatenate([np.asarray(getattr(one, name), float) for one in series]) for name in ("x", "y"))
    across = _Scale(xs if x_range is None else np.array(x_range), x.log)
    up = _Scale(ys if y_range is None else np.array(y_range), y.log)
    below = [(float(across(value)), label) for value, label in x_ticks or [(v, x.form(v)) for v in across.ticks()]]
    parts = [frame.y_ticks([(float(up(value)), y.form(value)) for value in up.ticks()]), frame.x_ticks(below)]
    for kind, one in enumerate(series):
        left = _LEFT + across(np.asarray(one.x, float)) * frame.width
        top = _TOP + (1.0 - up(np.asarray(one.y, float))) * frame.height
        if one.joined:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(left, top, strict=True))
            parts.append(f'<polyline class="line line{kind}" points="{path}"/>')
        seen = f" dot{kind}" if len(left) <= _MOST_DOTS else ""
        for i, (a, b, value_x, value_y) in enumerate(zip(left, top, one.x, one.y, strict=True)):
            label = one.labels[i] if one.labels else ""
            said = " ".join(word for word in (one.name, label) if word)
            tip = f"{x.form(float(value_x))}: {y.form(float(value_y))}" + (f" {said}" if said else "")
            parts.append(
                f'<circle class="dot{seen}" cx="{a:.1f}" cy="{b:.1f}" r="4"><title>{escape(tip)}</title></circle>'
            )
            interval = one.intervals[i] if one.intervals else None
            if interval:
                parts.append(frame.whisker(a, *(float(up(end)) for end in interval)))
            if label:  # above and below in turn: neighbours would overlap
                side, shift = ("end", -7) if a > _LEFT + 0.8 * frame.width else ("start", 7)
                spot = f'x="{a + shift:.1f}" y="{b + (16 if i % 2 else -6):.1f}"'
                parts.append(f'<text {spot} text-anchor="{side}">{escape(label)}</text>')
    for at, text in marks:
        left_of = _LEFT + float(across(at)) * frame.width
        parts.append(
            f'<path class="mark" d="M{left_of:.1f},{_TOP}v{frame.height}"><title>{escape(text)}</title></path>'
        )
    return _keys(series) + frame.svg(parts, x, y, f"Line chart: {y.title} by {x.title}")


def heat_map(values: NDArray[np.floating], rows: Sequence[str], columns: Sequence[str], unit: str, label: str) -> str:
    """Cells whose colour is as strong as their share, with a scale below.

    Args:
        values: shares, shape (rows, columns).
        rows, columns: names; every third column's is written.
        unit: what the shares are of.
        label: what the picture shows, for who cannot see it.
    """
    num_rows, num_columns = values.shape
    width, side = 1116.0, 30.0
    cell = (width - _LEFT) / num_columns
    highest = float(values.max()) or 1.0
    parts = []
    for i, row in enumerate(rows):
        parts.append(f'<text x="{_LEFT - 10}" y="{i * side + 20:.0f}" text-anchor="end">{escape(row)}</text>')
        for j, column in enumerate(columns):
            share = float(values[i, j])
            tip = f"{row} {column}: {percent(share)} of {unit}"
            parts.append(
                f'<rect class="cell" x="{_LEFT + j * cell:.1f}" y="{i * side:.0f}" width="{cell - 2:.1f}" '
                f'height="{side - 2:.0f}" rx="2" fill-opacity="{0.04 + 0.96 * share / highest:.3f}">'
                f"<title>{escape(tip)}</title></rect>"
            )
    base = num_rows * side
    for j in range(0, num_columns, 3):
        parts.append(f'<text x="{_LEFT + j * cell:.1f}" y="{base + 16:.0f}">{escape(columns[j])}</text>')
    for step in range(20):
        parts.append(
            f'<rect class="cell" x="{_LEFT + step * 12}" y="{base + 32:.0f}" width="12" height="10" '
            f'fill-opacity="{0.04 + 0.96 * step / 19:.3f}"/>'
        )
    parts.append(
        f'<text x="{_LEFT + 250}" y="{base + 42:.0f}">0 to {percent(highest)} of {escape(unit)} in an hour</text>'
    )
    return _svg(width, base + 50, parts, label)


class _Frame:
    """Where the plot lies in the picture, and its ticks and titles."""

    def __init__(self, wide: bool) -> None:
        self.outer, self.height = (1116, 230) if wide else (540, 230)
        self.width = self.outer - _LEFT - _RIGHT

    def x_ticks(self, ticks: Sequence[tuple[float, str]]) -> str:
        base = _TOP + self.height
        parts = []
        for at, label in ticks:
            x = _LEFT + at * self.width
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
            place = f'x="{self.outer - 1}" text-anchor="end"' if at > 0.98 else f'x="{x:.1f}" text-anchor="middle"'
            parts.append(f'<text {place} y="{base + 17}">{escape(label)}</text>')
        return "".join(parts)

    def y_ticks(self, ticks: Sequence[tuple[float, str]]) -> str:
        return "".join(
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + self.width}" y1="{_TOP + (1 - at) * self.height:.1f}" '
            f'y2="{_TOP + (1 - at) * self.height:.1f}"/><text x="{_LEFT - 7}" '
            f'y="{_TOP + (1 - at) * self.height + 4:.1f}" text-anchor="end">{escape(label)}</text>'
            for at, label in ticks
        )

    def whisker(self, x: float, low: float, high: float) -> str:
        """An upright line between two shares of the height."""
        bottom, top = (_TOP + (1 - share) * self.height for share in (low, high))
        return f'<path class="whisker" d="M{x:.1f},{bottom:.1f}V{top:.1f}"/>'

    def svg(self, parts: Sequence[str], x: Axis, y: Axis, label: str) -> str:
        middle = _TOP + self.height / 2
        titles = (
            f'<text x="{_LEFT + self.width / 2:.0f}" y="{_TOP + self.height + 38}" text-anchor="middle">'
            f'{escape(x.title)}</text><text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(y.title)}</text>"
        )
        return _svg(self.outer, _TOP + self.height + _BOTTOM, [*parts, titles], label)


class _Scale:
    """Maps values to 0 .. 1."""

    def __init__(self, values: NDArray[np.floating], log: bool) -> None:
        self.log = log
        seen = values[values > 0] if log else values
        low, high = (float(seen.min()), float(seen.max())) if len(seen) else (1.0, 10.0)
        self.low, self.high = (float(np.log10(low)), float(np.log10(high))) if log else (low, high)
        if self.high <= self.low:
            self.high = self.low + 1.0

    def __call__(self, values: NDArray[np.floating] | float) -> NDArray[np.floating]:
        shown = np.log10(np.maximum(values, 1e-300)) if self.log else np.asarray(values)
        return np.clip((shown - self.low) / (self.high - self.low), 0.0, 1.0)

    def ticks(self) -> list[float]:
        if self.log:
            powers = np.arange(np.ceil(self.low - 1e-9), np.floor(self.high + 1e-9) + 1)
            return [float(10.0**power) for power in powers[:: max(1, -(-len(powers) // 8))]]
        step = _nice_step(self.high - self.low)
        first = np.ceil(self.low / step - 1e-9) * step + 0.0  # never -0
        return [float(value) for value in np.arange(first, self.high + step * 1e-6, step)]


def _nice_step(span: float) -> float:
    """1, 2 or 5 times a power of ten, such that four to eight steps make the span."""
    power = 10.0 ** np.floor(np.log10(span / 4.0))
    return float(next(step * power for step in (1, 2, 5, 10) if span / (step * power) <= 6.0))


def _keys(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    keys = "".join(f'<span><i class="key{kind}"></i>{escape(one.name)}</span>' for kind, one in enumerate(series))
    return f'<div class="keys">{keys}</div>'


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )
