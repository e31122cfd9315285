"""`spacetime-gr index-report`: how good an index is, as numbers, a picture and a page."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Colour(StrEnum):
    """What the map shows."""

    VISITS = "visits"
    POIS = "pois"


def index_report(
    folder: Annotated[Path, typer.Argument(help="A prepared folder, a run, an exported model, or a saved index.")],
    out: Annotated[Path, typer.Option(help="Folder for index.json, blocks.png and index.html (made if missing).")],
    colour: Annotated[
        Colour | None,
        typer.Option(help="Colours of the map, per km².", show_default="visits where the index knows them, else pois"),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading.", show_default="name of FOLDER")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare the checksums of the index's files first.")] = False,
) -> None:
    """Report on a POI index: block sizes, use of the vocabulary, depth, entropy, room to grow, and a map.

    **index.html** needs no network. **index.json** holds the numbers, **blocks.png** the map.
    """
    from rich.console import Console

    index_folder = find_index(folder)
    if (out / "index.json").is_file() and any(out.glob("base-*")):
        raise ValueError(f"{out} holds a POI index, whose index.json the report would replace; choose another --out")

    from spacetime_gr.index import POIIndex
    from spacetime_gr.index.quality import quality, usage
    from spacetime_gr.reports.write import write_report

    errors = Console(stderr=True, soft_wrap=True)
    with errors.status("reading the index") as status:
        index = POIIndex.load(index_folder, verify=verify)
        used = usage(index)
        numbers = quality(index, used)
        status.update("drawing")
        chosen = colour.value if colour else "visits" if used.num_visits else "pois"
        write_report(index, used, numbers, out, chosen, title or f"POI index of {folder.resolve().name}")
    _print(numbers, Console(soft_wrap=True))
    errors.print(f"written: {out / 'index.html'}, {out / 'blocks.png'}, {out / 'index.json'}", highlight=False)


def find_index(folder: Path) -> Path:
    """The folder of the index itself.

    Raises:
        ValueError: there is none.
    """
    candidates = [folder / "tokenizer" / "poi_index", folder / "export" / "poi_index", folder / "poi_index", folder]
    for candidate in candidates:
        if (candidate / "index.json").is_file():
            return candidate
    if not folder.exists():
        raise ValueError(f"{folder} does not exist; expected a prepared folder, a run, an exported model or an index")
    places = ", ".join(str(candidate / "index.json") for candidate in candidates)
    raise ValueError(f"no POI index in {folder}; looked for {places}. Make one with spacetime-gr prepare")


def _print(numbers: dict[str, Any], console: Any) -> None:
    sizes, blocks, entropy = numbers["sizes"], numbers["blocks"], numbers["entropy_bits"]
    lines = [
        f"{sizes['num_pois']:,} POIs in {sizes['num_blocks']:,} {sizes['scheme']} blocks "
        f"({sizes['block_capacity']:,} reserved) with {sizes['num_inner']:,} inner ids",
        f"fill {blocks['fill']:.1%}; {blocks['single_poi_blocks']:,} blocks with one POI; farthest corner "
        f"{blocks['corner_km']['median']:.2f} km (median), {blocks['corner_km']['q95']:.2f} km (95 %)",
    ]
    if entropy:
        carry = numbers["use"]["block"]["carry"]
        lines += [
            "training visits: " + ", ".join(f"{share} in {num:,} blocks" for share, num in carry.items()),
            f"entropy: block {entropy['block']['bits']:.2f} bits, inner given block "
            f"{entropy['inner_given_block']['bits']:.2f} bits",
        ]
    reasons = numbers["growth"]["reasons"]
    lines.append("rebuild: " + "; ".join(reasons) if reasons else "no rebuild is due")
    for line in lines:
        console.print(line, highlight=False)
