"""`spacetime-gr simulate`: a city whose best reachable result is known."""

from pathlib import Path
from typing import Annotated

import typer

CITY = "City"
BEHAVIOUR = "Behaviour"


def simulate(
    out: Annotated[
        Path,
        typer.Option(help="Folder for events.parquet, pois.parquet, truth.parquet and truth.json (made if missing)."),
    ],
    num_users: Annotated[int, typer.Option(help="People.", rich_help_panel=CITY)] = 400,
    num_pois: Annotated[int, typer.Option(help="Places, at least 60.", rich_help_panel=CITY)] = 600,
    num_events: Annotated[
        int, typer.Option(help="Events in all, spread unevenly over people, at least one each.", rich_help_panel=CITY)
    ] = 50_000,
    seed: Annotated[int, typer.Option(help="Same seed and settings: same bytes.", rich_help_panel=CITY)] = 0,
    num_districts: Annotated[
        int | None,
        typer.Option(help="Clusters of places.", show_default="sqrt(num-pois / 4), at least 4", rich_help_panel=CITY),
    ] = None,
    num_days: Annotated[int, typer.Option(help="Length of the record in days.", rich_help_panel=CITY)] = 90,
    start: Annotated[str, typer.Option(help="First local day, YYYY-MM-DD.", rich_help_panel=CITY)] = "2024-01-01",
    tz_offset_minutes: Annotated[
        int, typer.Option(help="Local time minus UTC, in minutes; one zone, no daylight saving.", rich_help_panel=CITY)
    ] = 480,
    latitude: Annotated[float, typer.Option(help="Latitude of the city centre.", rich_help_panel=CITY)] = 31.23,
    longitude: Annotated[float, typer.Option(help="Longitude of the city centre.", rich_help_panel=CITY)] = 121.47,
    zipf_exponent: Annotated[
        float, typer.Option(help="Concentration of popularity within a category.", rich_help_panel=CITY)
    ] = 1.1,
    decay_km: Annotated[
        float, typer.Option(help="Distance over which the pull of a new place falls by e.", rich_help_panel=BEHAVIOUR)
    ] = 1.6,
    explore_local: Annotated[
        float,
        typer.Option(
            help="rho in everyday life: P(explore) = rho * S^-gamma, S places known.", rich_help_panel=BEHAVIOUR
        ),
    ] = 0.6,
    explore_trip: Annotated[float, typer.Option(help="rho before and in trips.", rich_help_panel=BEHAVIOUR)] = 0.9,
    explore_gamma: Annotated[float, typer.Option(help="gamma of the same law.", rich_help_panel=BEHAVIOUR)] = 0.21,
    taste_sigma: Annotated[
        float, typer.Option(help="Spread of personal taste over categories; 0: all alike.", rich_help_panel=BEHAVIOUR)
    ] = 0.3,
    trip_share: Annotated[
        float, typer.Option(help="Probability that a person travels in a 30-day cycle.", rich_help_panel=BEHAVIOUR)
    ] = 0.8,
    max_truth_events: Annotated[
        int, typer.Option(help="Held-out events on which the ceiling is computed (evenly spaced if there are more).")
    ] = 20_000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a city of other settings in the folder.")
    ] = False,
) -> None:
    """Simulate a city of people and places, and state the best result any model can reach on it.

    The simulator knows its own distribution of the next place. **truth.json** holds the hit rates, the mean reciprocal
    rank and the entropy of that distribution on the held-out last 10 % of events: a ceiling to hold a model against.
    Prepare the folder with `spacetime-gr prepare --format simulated`.
    """
    from rich.console import Console
    from rich.progress import TaskID

    from data_pipelines.simulator import CitySettings
    from data_pipelines.simulator import simulate as simulate_city
    from spacetime_gr.cli.progress import counting_bar

    settings = CitySettings(
        num_users=num_users,
        num_pois=num_pois,
        num_events=num_events,
        seed=seed,
        num_districts=num_districts,
        num_days=num_days,
        start=start,
        tz_offset_minutes=tz_offset_minutes,
        latitude=latitude,
        longitude=longitude,
        zipf_exponent=zipf_exponent,
        decay_km=decay_km,
        explore_local=explore_local,
        explore_trip=explore_trip,
        explore_gamma=explore_gamma,
        taste_sigma=taste_sigma,
        trip_share=trip_share,
        max_truth_events=max_truth_events,
    )
    console = Console(stderr=True)
    with counting_bar(console) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=of)
            bar.update(tasks[stage], completed=done)

        truth = simulate_city(out, settings, overwrite=overwrite, progress=report)
    best = ", ".join(f"{name} {truth[name]:.3f}" for name in ("hr@1", "hr@5", "hr@10", "hr@20", "mrr"))
    where = f"{num_events} events of {num_users} users at {num_pois} POIs in {out}"
    console.print(where, highlight=False, markup=False, soft_wrap=True)
    console.print(f"best possible: {best}; entropy {truth['entropy_nats']:.3f} nats", highlight=False)
