"""Several views of one thing, of which a click shows one at a time; without a script all stand below each other."""

from collections.abc import Mapping
from html import escape

STYLES = """
  .tabs > nav { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 12px; }
  .tabs > nav button { font: inherit; font-size: 13px; padding: 4px 12px; border-radius: 99px; cursor: pointer;
    border: 1px solid var(--rule); background: none; color: var(--ink); }
  .tabs > nav button[aria-pressed=true] { background: var(--first); border-color: var(--first); color: var(--panel); }
  .scroll { overflow-x: auto; } .scroll svg.chart { min-width: 680px; }
  .scroll svg.chart text { font-size: 12px; }
"""

SCRIPT = """
for (const tabs of document.querySelectorAll(".tabs")) {
  const buttons = [...tabs.querySelectorAll(":scope > nav button")];
  const panels = [...tabs.querySelectorAll(":scope > div")];
  const show = chosen => buttons.forEach((button, i) => {
    button.setAttribute("aria-pressed", i === chosen);
    panels[i].hidden = i !== chosen;
  });
  buttons.forEach((button, i) => button.onclick = () => show(i));
  show(0);
}
"""


def tabs(views: Mapping[str, str]) -> str:
    """Views by name (plain text), as HTML; the first is shown first. The page needs `STYLES` and `SCRIPT` once."""
    if len(views) == 1:
        return next(iter(views.values()))
    buttons = "".join(f'<button type="button">{escape(name)}</button>' for name in views)
    return f'<div class="tabs"><nav>{buttons}</nav>{"".join(f"<div>{view}</div>" for view in views.values())}</div>'


def scroll(content: str) -> str:
    """A wide chart, which narrow screens scroll along rather than shrink beyond reading."""
    return f'<div class="scroll" tabindex="0">{content}</div>'
