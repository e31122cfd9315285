"""`spacetime-gr recommend`: a history, a time and a place in; a table of places out."""

from pathlib import Path
from typing import Annotated, Any

import typer

REQUEST = "Request"
FILTERS = "Filters"


def recommend(
    run: Annotated[Path, typer.Argument(help="Run directory of a training, or an exported model folder.")],
    history: Annotated[
        Path,
        typer.Option(
            help="One person's actions: CSV, JSONL or Parquet (.gz too) with the columns poi_id and timestamp (as "
            "`prepare` reads them); optional action, tz_offset_minutes, user_latitude, user_longitude, mode."
        ),
    ],
    at: Annotated[
        str,
        typer.Option(help="Time of the request: ISO (UTC without an offset) or unix seconds.", rich_help_panel=REQUEST),
    ],
    lat: Annotated[
        float | None,
        typer.Option(help="Latitude of the person; default: the last place.", rich_help_panel=REQUEST),
    ] = None,
    lon: Annotated[float | None, typer.Option(help="Longitude of the person.", rich_help_panel=REQUEST)] = None,
    tz_offset_minutes: Annotated[
        int | None,
        typer.Option(help="Local time minus UTC; default: that of the last action.", rich_help_panel=REQUEST),
    ] = None,
    user_id: Annotated[
        str | None,
        typer.Option(
            help="Who asks, if this id was in training; hashed with the key in SPACETIME_GR_USER_KEY, never stored.",
            rich_help_panel=REQUEST,
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Places to return.", rich_help_panel=REQUEST)] = 10,
    num_beams: Annotated[
        int, typer.Option(min=1, help="Blocks opened; all make it exact.", rich_help_panel=REQUEST)
    ] = 50,
    explore_odds: Annotated[
        float,
        typer.Option(
            help="The discovery knob: factor on the odds of exploring (1: as learnt).", rich_help_panel=REQUEST
        ),
    ] = 1.0,
    category: Annotated[
        list[str] | None, typer.Option(help="Only this category (may be repeated).", rich_help_panel=FILTERS)
    ] = None,
    within_km: Annotated[
        float | None, typer.Option(help="Only places this near to --lat, --lon.", rich_help_panel=FILTERS)
    ] = None,
    within: Annotated[
        Path | None,
        typer.Option(
            help="Only places inside the polygons of this GeoJSON file (Polygon, MultiPolygon, or features of these).",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    exclude_visited: Annotated[
        bool,
        typer.Option("--exclude-visited", help="Only places that are not in the history.", rich_help_panel=FILTERS),
    ] = False,
    min_novelty_days: Annotated[
        float | None,
        typer.Option(
            help="Only places not visited within so many days before --at (--exclude-visited: ever).",
            rich_help_panel=FILTERS,
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
) -> None:
    """Recommend the next places of one person."""
    import json

    import numpy as np
    import torch
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from data_pipelines.prepare.history import parse_time, read_history
    from spacetime_gr.evaluation.model_files import exported_folder, load_exported
    from spacetime_gr.index.geometry import haversine_km

    if (lat is None) != (lon is None):
        raise ValueError("--lat and --lon go together: give both, or neither to stand at the last place")
    if lat is not None and lon is not None and not (abs(lat) <= 90 and abs(lon) <= 180):
        raise ValueError(f"--lat {lat:g} --lon {lon:g}: expected degrees within -90..90 and -180..180")
    if within_km is not None and (lat is None or not within_km > 0):
        raise ValueError(f"--within-km {within_km:g}: expected a distance above 0, and --lat and --lon")
    if min_novelty_days is not None and not min_novelty_days > 0:
        raise ValueError(f"--min-novelty-days {min_novelty_days:g}: expected a number of days above 0")
    fence = None if within is None else _read_fence(within)
    exported_folder(run)
    try:
        when = parse_time(at)
    except ValueError as error:
        raise ValueError(f"--at {error}") from None
    columns: dict[str, Any] = {**read_history(history)}
    late = int((columns["timestamp"] > when).sum())
    if late:
        raise ValueError(
            f"--history {history}: {late} actions lie after --at {at}; remove them, or ask for a later time"
        )
    torch.set_flush_denormal(True)
    tokenizer, model = load_exported(run)
    if user_id is not None:
        from data_pipelines.prepare.users import hash_user_ids, user_key

        columns["user_hash"] = int(hash_user_ids([user_id.strip()], user_key())[0])
    known = tokenizer.index.rows(columns["poi_id"])
    result = model.recommend(
        tokenizer,
        columns,
        when=when,
        where=None if lat is None or lon is None else (lat, lon),
        k=k,
        num_beams=num_beams,
        tz_offset_minutes=tz_offset_minutes,
        categories=category,
        within_km=within_km,
        within=fence,
        exclude_visited=exclude_visited,
        min_novelty_days=min_novelty_days,
        explore_odds=explore_odds,
    )[0]

    index = tokenizer.index
    rows = index.rows(result["poi_id"]) if result["poi_id"] else np.empty(0, np.int64)
    latitude, longitude = index.coordinates(rows)
    if lat is None or lon is None:
        lat, lon = (float(axis[0]) for axis in index.coordinates(known[-1:])) if len(known) else (np.nan, np.nan)
    distance = haversine_km(np.asarray(lat), np.asarray(lon), latitude, longitude)
    visits = (known[:, None] == rows).sum(0)
    categories = index.categories(rows)
    records = [
        {
            "rank": number + 1,
            "poi_id": result["poi_id"][number],
            "category": index.category_names[categories[number]] if categories[number] >= 0 else None,
            "latitude": round(float(latitude[number]), 6),
            "longitude": round(float(longitude[number]), 6),
            "distance_km": None if np.isnan(distance[number]) else round(float(distance[number]), 3),
            "visits_before": int(visits[number]),
            "log_prob": result["log_prob"][number],
        }
        for number in range(len(rows))
    ]
    table = Table(
        title=f"Next places ({len(columns['poi_id'])} actions read, {int((known < 0).sum())} at unknown places)"
    )
    for name in ("rank", "poi_id", "category", "distance_km", "visits_before", "probability"):
        table.add_column(name, justify="left" if name in ("poi_id", "category") else "right")
    for record in records:
        away = "" if record["distance_km"] is None else f"{record['distance_km']:.2f}"
        table.add_row(
            str(record["rank"]), escape(str(record["poi_id"])), escape(str(record["category"] or "")), away,
            str(record["visits_before"]), f"{np.exp(record['log_prob']):.4f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    filtered = category is not None or within_km is not None or within is not None
    filtered = filtered or exclude_visited or min_novelty_days is not None
    of = " (of blocks with allowed places)" if filtered else ""
    console.print(f"blocks opened hold {result['coverage']:.1%} of the probability{of}", highlight=False)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"places": records, "coverage": result["coverage"]}, indent=1) + "\n")


def _read_fence(file: Path) -> dict[str, Any]:
    """The polygons of a GeoJSON file, checked before anything is loaded."""
    import json

    from spacetime_gr.generation.polygons import fences

    if not file.is_file():
        raise ValueError(f"--within {file} does not exist: expected a GeoJSON file")
    try:
        fence = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"--within {file} is no JSON: {error}") from None
    if not isinstance(fence, dict):
        raise ValueError(f"--within {file} holds a {type(fence).__name__}; expected a GeoJSON object")
    try:
        fences(fence, 1)
    except ValueError as error:
        raise ValueError(f"--within {file}: {error}") from None
    return fence
