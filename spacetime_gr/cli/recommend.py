"""`spacetime-gr recommend`: a history, a time and a place in; a table of places out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

REQUEST = "Request"
FILTERS = "Filters"
COLUMNS = ("poi_id", "timestamp")
OPTIONAL_COLUMNS = ("action", "tz_offset_minutes", "user_latitude", "user_longitude", "mode")


def recommend(
    run: Annotated[Path, typer.Argument(help="Run directory of a training, or an exported model folder.")],
    history: Annotated[
        Path,
        typer.Option(
            help="One person's actions: CSV, JSONL or Parquet (.gz too) with the columns poi_id and timestamp (UTC; "
            "ISO or unix seconds); optional action, tz_offset_minutes, user_latitude, user_longitude, mode."
        ),
    ],
    at: Annotated[str, typer.Option(help="Time of the request, UTC: ISO or unix seconds.", rich_help_panel=REQUEST)],
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
    k: Annotated[int, typer.Option("--k", "-k", help="Places to return.", rich_help_panel=REQUEST)] = 10,
    num_beams: Annotated[int, typer.Option(help="Blocks opened; all make it exact.", rich_help_panel=REQUEST)] = 50,
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
    exclude_visited: Annotated[
        bool,
        typer.Option("--exclude-visited", help="Only places that are not in the history.", rich_help_panel=FILTERS),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result to this file.")] = None,
) -> None:
    """Recommend the next places of one person."""
    import json

    import numpy as np
    import torch
    from rich.console import Console
    from rich.table import Table

    from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer
    from spacetime_gr.evaluation.model_files import exported_folder
    from spacetime_gr.index.geometry import haversine_km
    from spacetime_gr.tokens.histories import unix_seconds

    if (lat is None) != (lon is None):
        raise ValueError("--lat and --lon go together: give both, or neither to stand at the last place")
    torch.set_flush_denormal(True)
    events = read_history(history)
    folder = exported_folder(run)
    tokenizer = SpacetimeGRTokenizer.from_pretrained(folder)
    model = SpacetimeGRForCausalLM.from_pretrained(folder).eval()
    columns: dict[str, Any] = {name: events[name].to_numpy() for name in events.columns}
    columns["poi_id"] = columns["poi_id"].astype(str)
    if user_id is not None:
        from data_pipelines.prepare.users import hash_user_ids, user_key

        columns["user_hash"] = int(hash_user_ids([user_id.strip()], user_key())[0])
    when = unix_seconds(float(at) if at.replace(".", "", 1).isdigit() else at)
    if len(events) and int(events["timestamp"].iloc[-1]) > int(when[0]):
        late = int((events["timestamp"] > int(when[0])).sum())
        raise ValueError(
            f"--history {history}: {late} actions lie after --at {at}; remove them, or ask for a later time"
        )
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
        exclude_visited=exclude_visited,
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
            str(record["rank"]), str(record["poi_id"]), str(record["category"] or ""), away,
            str(record["visits_before"]), f"{np.exp(record['log_prob']):.4f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"blocks opened hold {result['coverage']:.1%} of the probability", highlight=False)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps({"places": records, "coverage": result["coverage"]}, indent=1) + "\n")


def read_history(file: Path) -> "pd.DataFrame":
    """One person's actions in time order.

    Raises:
        ValueError: the file is missing or unreadable, or a column is missing or holds nulls.
    """
    import pandas as pd
    import pyarrow as pa

    from spacetime_gr.tokens.histories import unix_seconds

    if not file.is_file():
        raise ValueError(f"--history {file}: no such file")
    kind = (file.with_suffix("") if file.suffix == ".gz" else file).suffix
    try:
        if kind == ".parquet":
            events = pd.read_parquet(file)
        elif kind in (".jsonl", ".json"):
            events = pd.read_json(file, lines=True, dtype=False)
        else:
            events = pd.read_csv(file, dtype={"poi_id": str})
    except (ValueError, pa.ArrowInvalid) as error:
        raise ValueError(f"--history {file}: cannot be read as {kind or 'CSV'}: {error}") from error
    for name in COLUMNS:
        if name not in events.columns:
            raise ValueError(f"--history {file}: no column {name!r}; it has {', '.join(map(str, events.columns))}")
        if events[name].isna().any():
            row = int(events[name].isna().to_numpy().argmax())
            raise ValueError(f"--history {file}: row {row} has no {name}; remove or complete it")
    events = events[[name for name in (*COLUMNS, *OPTIONAL_COLUMNS) if name in events.columns]]
    return events.assign(timestamp=unix_seconds(events["timestamp"])).sort_values("timestamp", kind="stable")
