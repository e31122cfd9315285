"""`spacetime-gr prepare`: raw events to a folder that training and evaluation read."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from data_pipelines.prepare import PrepareOptions

SPLITTING = "Split and selection"
TOKENIZER = "Tokenizer"
RUNNING = "Running"
_DISK_BYTES_PER_ACTION = 10
_MEMORY_BYTES_PER_ACTION = 100


class SourceFormat(StrEnum):
    """Known formats of raw events."""

    FOURSQUARE = "foursquare"
    GOWALLA = "gowalla"
    GETNEXT = "getnext"
    LESSISMORE = "lessismore"
    TABLES = "tables"
    SIMULATED = "simulated"


class EngineName(StrEnum):
    """Engines that run the expressions."""

    DUCKDB = "duckdb"
    SPARK = "spark"


class Split(StrEnum):
    """How a source without its own split is cut."""

    TIME = "time"
    LEAVE_LAST_OUT = "leave-last-out"


class Catalogue(StrEnum):
    """Which POIs the prepared folder lists."""

    TRAIN = "train"
    ALL = "all"


class Duplicates(StrEnum):
    """What becomes of exact repetitions."""

    AUTO = "auto"
    DROP = "drop"
    KEEP = "keep"


class Scheme(StrEnum):
    """How POIs are grouped into blocks."""

    QUADTREE = "quadtree"
    GRID = "grid"


def prepare(
    context: typer.Context,
    source: Annotated[str, typer.Option(help="File or folder of the raw events, or a URL of it (s3://...).")],
    format: Annotated[
        SourceFormat,
        typer.Option(
            help="foursquare and gowalla: as published; getnext, lessismore: ready splits; see docs/prepare.md."
        ),
    ],
    out: Annotated[str, typer.Option(help="The prepared folder to write, or its URL.")],
    like: Annotated[
        str | None,
        typer.Option(
            help="A prepared folder whose POIs, action types and tokenizer to use, so that one run can train on both.",
            show_default="its own",
        ),
    ] = None,
    engine: Annotated[
        EngineName,
        typer.Option(help="duckdb runs in this process; spark on a cluster, or locally if no master is set."),
    ] = EngineName.DUCKDB,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(help="Setting of Spark as NAME=VALUE, such as spark.master=spark://host:7077; may be repeated."),
    ] = None,
    split: Annotated[
        Split,
        typer.Option(
            help="Cut by global time, or test each user's last event. Unused if the source states its split.",
            rich_help_panel=SPLITTING,
        ),
    ] = Split.TIME,
    train_fraction: Annotated[
        float,
        typer.Option(
            help="Share of events, in global time order, that train. Unused if the source states its split.",
            rich_help_panel=SPLITTING,
        ),
    ] = 0.8,
    validation_fraction: Annotated[
        float, typer.Option(help="Share of events that validate; the rest tests.", rich_help_panel=SPLITTING)
    ] = 0.1,
    min_poi_visits: Annotated[
        int, typer.Option(help="Training visits a POI needs to be listed; 1 keeps all.", rich_help_panel=SPLITTING)
    ] = 1,
    min_user_events: Annotated[
        int, typer.Option(help="Training events a user needs to stay; 0 keeps all.", rich_help_panel=SPLITTING)
    ] = 0,
    catalogue: Annotated[
        Catalogue,
        typer.Option(
            help="POIs listed: those that training visits, or all of the POI table.", rich_help_panel=SPLITTING
        ),
    ] = Catalogue.TRAIN,
    duplicates: Annotated[
        Duplicates,
        typer.Option(
            help="Exact repetitions of user, POI, action and time; auto keeps them in ready splits only.",
            rich_help_panel=SPLITTING,
        ),
    ] = Duplicates.AUTO,
    latest_time: Annotated[
        datetime | None,
        typer.Option(
            help="UTC time after which an event lies in the future.", show_default="now", rich_help_panel=SPLITTING
        ),
    ] = None,
    scheme: Annotated[
        Scheme, typer.Option(help="Blocks: adaptive map tiles, or equal squares.", rich_help_panel=TOKENIZER)
    ] = Scheme.QUADTREE,
    max_pois_per_block: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most POIs in a block.",
            show_default="512 for quadtree, no bound for grid",
            rich_help_panel=TOKENIZER,
        ),
    ] = None,
    cell_km: Annotated[float, typer.Option(help="Side of a square of the grid.", rich_help_panel=TOKENIZER)] = 5.0,
    users_per_row_group: Annotated[
        int | None,
        typer.Option(
            help="Users in a row group, the unit of the stream.",
            show_default="8 to 128, by number of users",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    actions_per_row_group: Annotated[
        int, typer.Option(help="Most actions in a row group, but for one user with more.", rich_help_panel=RUNNING)
    ] = 50_000,
    actions_per_file: Annotated[
        int, typer.Option(help="Most actions in a shard file, but for one user with more.", rich_help_panel=RUNNING)
    ] = 2_000_000,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            help='Memory of the engine, such as "8GB"; it spills to disk beside OUT.',
            show_default="80 % of the machine",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the prepared folder at OUT, whatever it was made from.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on where an interrupted run of the same command ended; keep the work if this one is interrupted.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check the rows and report counts and planned shards; write nothing.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
) -> None:
    """Validate raw events, split them, and write shards, POI list and tokenizer.

    Rows that cannot be used are set aside in **rejected.parquet** with a reason and counted. User ids do not reach the
    output: a hash keyed by the environment variable SPACETIME_GR_USER_KEY takes their place. The folder appears only
    when it is complete. The same input with the same settings is not prepared twice.
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from data_pipelines.prepare import PrepareOptions, plan_folder, prepare_folder
    from data_pipelines.prepare.users import KEY_VARIABLE, PUBLIC_DEFAULT_KEY, user_key

    if like is not None:
        _refuse_tokenizer_options(context, like)
    if not 0 < cell_km < math.inf:
        raise ValueError(f"--cell-km is {cell_km:g}; expected a length above 0")
    options = PrepareOptions(
        split=split.value,
        train_fraction=train_fraction,
        validation_fraction=validation_fraction,
        min_poi_visits=min_poi_visits,
        min_user_events=min_user_events,
        catalogue=catalogue.value,
        duplicates=duplicates.value,
        latest_time=None if latest_time is None else int(latest_time.replace(tzinfo=UTC).timestamp()),
        users_per_row_group=users_per_row_group,
        actions_per_row_group=actions_per_row_group,
        actions_per_file=actions_per_file,
        memory_limit=memory_limit,
    )
    engine_options = _settings(engine_option or [])
    console = Console(stderr=True, soft_wrap=True)
    key = user_key(warn=False)
    if key == PUBLIC_DEFAULT_KEY:
        console.print(
            f"[yellow]{KEY_VARIABLE} is not set: user ids are hashed with the public default key. "
            "Set it for data that is not public.[/]",
            highlight=False,
        )

    def build_tokenizer(folder: Path, actions: list[str]) -> None:
        import pyarrow.parquet as pq

        from spacetime_gr import POIIndex, SpacetimeGRTokenizer

        index = POIIndex.build(
            pq.read_table(folder / "pois.parquet"),
            scheme=scheme.value,
            max_pois_per_block=max_pois_per_block,
            cell_km=cell_km,
        )
        SpacetimeGRTokenizer(index=index, actions=actions).save_pretrained(folder / "tokenizer")

    finishing: dict[str, Any] = {}
    if like is None:
        blocks = {"scheme": scheme.value, "max_pois_per_block": max_pois_per_block, "cell_km": cell_km}
        finishing = {"finish": build_tokenizer, "finish_settings": blocks}

    with Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), console=console
    ) as bar:
        task = bar.add_task("starting", total=None)

        def progress(step: str) -> None:
            bar.update(task, description=step)

        running: dict[str, Any] = {
            "key": key,
            "engine": engine.value,
            "engine_options": engine_options,
            "like": like,
            "progress": progress,
        }
        if dry_run:
            content = plan_folder(source, format.value, options, **running)
        else:
            result = prepare_folder(
                source,
                format.value,
                out,
                options,
                overwrite=overwrite,
                resume=resume,
                **finishing,
                **running,
            )
            content = result.manifest
        bar.update(task, description="done", total=1, completed=1)
    report = Console(soft_wrap=True)
    if dry_run:
        _report(f"{source} (dry run: nothing was written)", content, report)
        _report_plan(content, options, report)
        return
    if result.already_prepared:
        console.print(f"already prepared: {out}", highlight=False, markup=False)
    _report(result.location, content, report)


def _refuse_tokenizer_options(context: typer.Context, like: str) -> None:
    """Raises ValueError if an option of the tokenizer is given beside --like."""
    for name in ("scheme", "max_pois_per_block", "cell_km"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(
                f"--{name.replace('_', '-')} shapes a new tokenizer, but --like {like} takes the one that is there; "
                "leave one of them out"
            )


def _settings(given: list[str]) -> dict[str, str]:
    """Raises ValueError if one is not NAME=VALUE."""
    pairs = [entry.partition("=") for entry in given]
    for entry, (name, equals, _) in zip(given, pairs, strict=True):
        if not name or not equals:
            raise ValueError(f"--engine-option is {entry!r}: expected NAME=VALUE, such as spark.master=local[4]")
    return {name: value for name, _, value in pairs}


def _report_plan(content: dict[str, Any], options: PrepareOptions, console: Console) -> None:
    """Shards to come, and roughly what they cost: see docs/prepare.md for where the two sizes come from."""
    shards = content["shards"]
    largest = max(shard["actions"] for shard in shards)
    for part in content["counts"]["splits"]:
        sizes = [shard["actions"] for shard in shards if shard["split"] == part]
        if sizes:
            console.print(
                f"  {part}: {len(sizes):,} shard(s) of {min(sizes):,} to {max(sizes):,} actions, row groups of at most "
                f"{content['users_per_row_group']:,} users and {options.actions_per_row_group:,} actions",
                highlight=False,
            )
    num_actions = content["counts"]["actions"]
    console.print(
        f"  about {num_actions * _DISK_BYTES_PER_ACTION / 1e6:,.1f} MB of shards; writing the largest takes about "
        f"{largest * _MEMORY_BYTES_PER_ACTION / 1e6:,.0f} MB of memory beside the engine "
        f"({options.memory_limit or 'its default limit'}); the longest user has "
        f"{content['counts']['most_actions_of_a_user']:,} actions",
        highlight=False,
    )


def _report(place: str, content: dict[str, Any], console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    counts = content["counts"]
    table = Table("part", "users", "actions", "at unknown POIs", title=escape(place), title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, split in counts["splits"].items():
        table.add_row(name, f"{split['users']:,}", f"{split['actions']:,}", f"{split['actions_at_unknown_pois']:,}")
    console.print(table)
    console.print(
        f"{counts['pois']:,} POIs in {counts['categories']:,} categories; {counts['users']:,} users; "
        f"{counts['rows_read']:,} rows read, {counts['rows_filtered']:,} filtered, "
        f"{counts['rows_rejected']:,} rejected",
        highlight=False,
    )
    for reason, num in content["rejected"].items():
        console.print(f"  rejected, {reason}: {num:,}", highlight=False)
    for name, what in (
        ("places_recovered", "without coordinates, placed by the POI's other rows"),
        ("offsets_replaced", "with an unusable time zone offset, taken as 0"),
    ):
        if counts[name]:
            console.print(f"  rows {what}: {counts[name]:,}", highlight=False)
