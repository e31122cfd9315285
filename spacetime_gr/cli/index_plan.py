"""`spacetime-gr index-plan`: the block size for a vocabulary budget, and what others would cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from spacetime_gr.index.planner import Plan


def index_plan(
    pois: Annotated[
        Path,
        typer.Argument(
            help="Parquet file, or folder of them, with poi_id, latitude, longitude; or a folder with pois.parquet."
        ),
    ],
    vocabulary_budget: Annotated[int, typer.Option(help="Most token ids in all.")] = 400_000,
    num_actions: Annotated[int, typer.Option(help="Number of action types.")] = 1,
    spare_blocks: Annotated[
        float, typer.Option(help="Block ids kept free for later places, as a share of the blocks.")
    ] = 0.1,
    smallest: Annotated[int, typer.Option(help="Smaller bounds are not chosen.")] = 32,
    bound: Annotated[
        list[int] | None,
        typer.Option(help="A bound to report; may be given often.", show_default="powers of two around the choice"),
    ] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Leave bad rows out in place of refusing the table.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the plan as JSON.")] = None,
) -> None:
    """Choose **max_pois_per_block** of a quadtree: the smallest bound whose vocabulary fits the budget.

    Nothing is built: the places are sorted and split once, which takes 8 bytes of memory per place.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from spacetime_gr.index.planner import plan_index

    listed = pois / "pois.parquet"
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, of: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=of)
            bar.update(tasks[stage], completed=done)

        plan = plan_index(
            listed if listed.is_file() else pois,
            vocabulary_budget=vocabulary_budget,
            num_actions=num_actions,
            spare_blocks=spare_blocks,
            smallest=smallest,
            bounds=bound or (),
            bad_rows="quarantine" if quarantine else "error",
            progress=report,
        )
    _print(plan, Console(soft_wrap=True))
    if json_file is not None:
        json_file.write_text(json.dumps(plan.as_dict(), indent=1) + "\n", encoding="utf-8")


def _print(plan: Plan, console: Console) -> None:
    from rich.table import Table

    table = Table(
        title=f"{plan.num_pois:,} places, budget {plan.vocabulary_budget:,} token ids",
        title_justify="left",
        padding=(0, 0, 0, 1),
    )
    headers = (
        "POIs a\nblock",
        "\nblocks",
        "with\nspare",
        "token\nids",
        "\nfits",
        "\nfill",
        "of one\nPOI",
        "corner km\nmedian",
    )
    for header in (*headers, "\n95 %", "\nmax"):
        table.add_column(header, justify="right", no_wrap=True)
    for bound in plan.bounds:
        chosen = bound.max_pois_per_block == plan.max_pois_per_block
        table.add_row(
            f"{bound.max_pois_per_block:,}",
            f"{bound.num_blocks:,}",
            f"{bound.block_capacity:,}",
            f"{bound.vocabulary:,}",
            "yes" if bound.fits else "no",
            f"{bound.fill:.0%}",
            f"{bound.single_poi_blocks:,}",
            *(_km(bound.corner_km[name]) for name in ("median", "q95", "max")),
            style="bold" if chosen else "" if bound.fits else "dim",
        )
    console.print(table)
    if plan.num_rejected:
        console.print(f"{plan.num_rejected:,} bad rows left out", highlight=False)
    chosen_bound = plan.chosen
    console.print(
        f"choice: --max-pois-per-block {plan.max_pois_per_block} ({chosen_bound.block_capacity:,} block ids + "
        f"{chosen_bound.num_inner:,} inner ids + "
        f"{chosen_bound.vocabulary - chosen_bound.block_capacity - chosen_bound.num_inner:,} others)",
        highlight=False,
    )


def _km(distance: float) -> str:
    """About three digits."""
    return f"{distance:,.{2 if distance < 10 else 1 if distance < 100 else 0}f}"
