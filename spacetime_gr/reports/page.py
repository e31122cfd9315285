"""The skeleton that all reports share: one HTML page that needs no network, legible in light and in dark."""

from collections.abc import Sequence
from html import escape
from string import Template

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
  :root { color-scheme: light dark; --ground: #f6f7fa; --panel: #fff; --ink: #1c2333; --faint: #5d6679; --rule: #e3e6ee;
    --first: #5b2a86; --second: #e0653f; --good: #3a9d6a; }
  @media (prefers-color-scheme: dark) { :root { --ground: #10131c; --panel: #191d29; --ink: #e8eaf2; --faint: #9aa3b8;
    --rule: #2b3142; --first: #b58ae0; --second: #f29b76; --good: #55bd89; } }
  body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 Inter, system-ui, -apple-system,
    "Segoe UI", Roboto, sans-serif; }
  main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
  h1 { font-size: 28px; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
  h2 { font-size: 18px; margin: 0 0 4px; }
  p { margin: 4px 0 12px; color: var(--faint); }
  section, .card { background: var(--panel); border: 1px solid var(--rule); border-radius: 12px; }
  section { padding: 20px 22px; margin-top: 20px; min-width: 0; }
  .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 14px; margin-top: 20px; }
  .card { padding: 14px 18px; }
  .card b { display: block; font-size: 24px; font-variant-numeric: tabular-nums; letter-spacing: -0.01em; }
  .card span { color: var(--faint); font-size: 13px; }
  .two { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); column-gap: 20px; }
  .wide { overflow-x: auto; }
  .tall { max-height: 480px; overflow-y: auto; }
  .tall thead th { position: sticky; top: 0; background: var(--panel); }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
  th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--rule); }
  th { color: var(--faint); font-weight: 500; font-size: 13px; }
  th:first-child, td:first-child { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
  th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid var(--first); }
  th[aria-sort=ascending] button::after { content: " \\2191"; }
  th[aria-sort=descending] button::after { content: " \\2193"; }
  .good { border-left: 4px solid var(--good); } .warn { border-left: 4px solid var(--second); }
  @media (max-width: 900px) { .two { grid-template-columns: 1fr; } }
$styles
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p>$subtitle</p>
<div class="cards">$cards</div>
$sections
</main>
<script>
$scripts
</script>
</body>
</html>
""")

_SORTING = """
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead th").forEach((head, column) => head.querySelector("button").onclick = () => {
    const falling = head.getAttribute("aria-sort") !== "descending" && column > 0 ||
      head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const body = table.tBodies[0], sign = falling ? -1 : 1;
    const text = row => row.cells[column].textContent;
    const number = row => parseFloat(text(row).replace(/[, %]/g, ""));
    const low = row => Number.isNaN(number(row)) ? -Infinity : number(row);
    const compare = column ? (a, b) => low(a) - low(b) || 0 : (a, b) => text(a).localeCompare(text(b));
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  });
}
"""


def page(
    title: str,
    subtitle: str,
    cards: Sequence[tuple[str, str]],
    sections: Sequence[str],
    styles: Sequence[str] = (),
    scripts: Sequence[str] = (),
) -> str:
    """The page as text.

    Args:
        title, subtitle, cards: plain text; a card is (value, what it counts).
        sections: HTML, as `section` and `side_by_side` give it.
        styles, scripts: CSS and JavaScript of the parts used.
    """
    return _PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        cards="".join(
            f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in cards
        ),
        sections="\n".join(sections),
        styles="\n".join(styles),
        scripts="\n".join((_SORTING, *scripts)),
    )


def section(title: str, text: str, content: str, kind: str = "") -> str:
    """A panel.

    Args:
        title, text: plain text: the heading, and how to read what follows.
        content: HTML.
        kind: "", `good` or `warn`.
    """
    shown = f"<p>{escape(text)}</p>" if text else ""
    return f'<section class="{kind}"><h2>{escape(title)}</h2>{shown}{content}</section>'


def side_by_side(*sections: str) -> str:
    """Two panels in a row; below each other on narrow screens."""
    return f'<div class="two">{"".join(sections)}</div>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], sortable: bool = False) -> str:
    """A table of plain text; the first column is a name, the others are numbers.

    Args:
        heads: names of the columns, all empty for none.
        rows: as many cells each.
        sortable: a click on a head sorts by it, and a long table scrolls.
    """
    names = [f"<button>{escape(name)}</button>" if sortable else escape(name) for name in heads]
    head = "".join(f'<th scope="col">{name}</th>' for name in names) if any(heads) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    frame = 'class="wide tall" tabindex="0"' if sortable else 'class="wide"'
    return (
        f"<div {frame}><table{' class=sortable' if sortable else ''}>"
        f"{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table></div>"
    )
