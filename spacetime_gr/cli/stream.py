"""`spacetime-gr stream`: any row of any lane as readable actions, and what cleaning does to a prepared folder."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

if TYPE_CHECKING:
    from rich.console import Console

    from spacetime_gr.training.config import PretrainConfig

ROWS = "Rows"
_FILE_WIDTH = 160  # columns of tables that go to a file or a pipe


def stream(
    folder: Annotated[
        Path | None, typer.Argument(help="A prepared folder.", show_default="data.path of --config")
    ] = None,
    inspect: Annotated[
        bool, typer.Option("--inspect", help="Show rows of a lane, decoded, with the supervised actions marked.")
    ] = False,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Show what cleaning drops, what the rules decide, and the modes with examples."),
    ] = False,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="Configuration of a run: cleaning, curriculum, lanes and seed. Given again, a file laid over those "
            "before.",
            show_default="no cleaning",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    lane: Annotated[int, typer.Option(min=0, help="Lane: a row of the global batch.", rich_help_panel=ROWS)] = 0,
    row: Annotated[int, typer.Option(min=0, help="First row of the lane to show.", rich_help_panel=ROWS)] = 0,
    num_rows: Annotated[int, typer.Option(min=1, help="Rows to show.", rich_help_panel=ROWS)] = 1,
    num_examples: Annotated[int, typer.Option(min=0, help="Example sequences of each mode for --stats.")] = 2,
) -> None:
    """Show what training reads: rows of a lane, or the effect of cleaning on a whole split.

    Both see the folder as the run of --config would: the same lanes, seed, cleaning and curriculum. A FOLDER stands in
    place of its `data.path`.
    """
    from rich.console import Console

    from spacetime_gr.training.data import load_tokenizer

    if inspect == stats:
        raise ValueError("choose one of --inspect (rows of a lane) and --stats (effect of cleaning)")
    settings = _run_config(folder, config)
    tokenizer = load_tokenizer(settings)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    if inspect:
        _show_rows(settings, tokenizer, split, lane, row, num_rows, console)
    else:
        _show_stats(settings, tokenizer, split, num_examples, console)


def _run_config(folder: Path | None, config: Sequence[Path] | None) -> "PretrainConfig":
    from spacetime_gr.training.config import DataSection, PretrainConfig, RunSection, TrainSection
    from spacetime_gr.training.loading import load_config

    if config:
        # Quoted, as an override is YAML.
        path = [] if folder is None else [f"data.path={json.dumps(str(folder), ensure_ascii=False)}"]
        return load_config(config, path)
    if folder is None:
        raise ValueError("nothing to read: give a prepared folder, or a run's settings with --config")
    return PretrainConfig(run=RunSection(dir="."), data=DataSection(path=str(folder)), train=TrainSection(max_steps=1))


def _show_rows(
    config: "PretrainConfig", tokenizer: Any, split: str, lane: int, row: int, num_rows: int, console: "Console"
) -> None:
    from spacetime_gr.training.data import open_stream

    num_lanes = config.data.num_lanes
    if lane >= num_lanes:
        raise ValueError(f"--lane {lane}: the stream has lanes 0 to {num_lanes - 1} (data.num_lanes)")
    # As many ranks as lanes: only this lane is read.
    lanes = open_stream(config, tokenizer, rank=lane, world_size=num_lanes, split=split)
    names = _place_names(config)
    for number in range(row + num_rows):
        batch = next(lanes)
        if number >= row:
            view = "multi-mode" if lanes.lane_views[0] == "multi" else "single-mode"
            fields = {name: values[0] for name, values in batch.items()}
            print_row(fields, tokenizer, names, f"lane {lane}, row {number}, {view}", console)
    lanes.close()


def print_row(fields: dict[str, Any], tokenizer: Any, names: Any, title: str, console: "Console") -> None:
    """Print a row of the stream, one table for each sequence in it.

    Args:
        fields: name -> (row_length,).
        names: pyarrow column of place names in `poi_row` order, or None.
        title: of the row.
    """
    from rich.table import Table

    real = fields["input_ids"] != tokenizer.pad_token_id
    starts = np.append(np.flatnonzero(real & (fields["position_ids"] == 0)), np.count_nonzero(real))
    console.print(f"{title}: {len(starts) - 1} sequences, {real.mean():.0%} full", style="bold", highlight=False)
    for number, (start, stop) in enumerate(pairwise(starts)):
        part = {name: values[start:stop] for name, values in fields.items()}
        table = Table(title=f"sequence {number}", title_justify="left")
        for column in ("loss", "local time", "mode", "place", "name", "category", "tile", "action"):
            table.add_column(column, overflow="fold")
        for line in readable_actions(part, tokenizer, names):
            table.add_row(*line)
        console.print(table)
    console.print("* supervised; the others are context", highlight=False)


def readable_actions(fields: dict[str, Any], tokenizer: Any, names: Any) -> list[list[str]]:
    """One line per action of a sequence: mark of supervision, local time, mode, place, name, category, tile, action."""
    width, index = tokenizer.tokens_per_action, tokenizer.index
    actions = tokenizer.decode(fields["input_ids"])
    ids = fields["input_ids"].reshape(-1, width)
    supervised = (fields["labels"].reshape(-1, width) != -100).any(axis=1)
    # The last token keeps its clock where the time of the request is hidden.
    times = fields["local_time"].reshape(-1, width)[:, -1]
    start = tokenizer.vocabulary.block_start
    known = np.array([action["poi_id"] is not None for action in actions], dtype=bool)
    rows = np.full(len(actions), -1, dtype=np.int64)
    tiles = np.full(len(actions), "", dtype=object)
    if known.any():
        rows[known] = index.rows([action["poi_id"] for action in actions if action["poi_id"] is not None])
        tiles[known] = index.block_addresses(ids[known, 1] - start)
    return [
        [
            "*" if supervised[number] else "",
            _time(int(times[number])) + (" (hidden)" if action["hour_of_week"] is None else ""),
            action["mode"],
            "(unknown)" if action["poi_id"] is None else str(action["poi_id"]),
            _name(names, int(rows[number])),
            _category(index, int(rows[number])),
            str(tiles[number]),
            action["action"],
        ]
        for number, action in enumerate(actions)
    ]


def _show_stats(config: "PretrainConfig", tokenizer: Any, split: str, num_examples: int, console: "Console") -> None:
    from rich.table import Table

    from data_pipelines.stream.report import decided, dropped, summary, survey
    from spacetime_gr.training.data import open_stream

    source = open_stream(config, tokenizer, split=split)
    found = survey(source.makers, num_examples)
    counts, rules = found.counts, {rule.name: rule.behaviour for rule in source.cleaning.rules}
    read = max(1, counts["actions_read"])
    console.print(summary(counts), highlight=False)
    console.print(f"rows of a user who has another row: {found.repeated_users:,}", highlight=False)

    table = Table("reason", "sequences", "actions", "share", title="dropped", title_justify="left")
    for reason, (sequences, actions) in dropped(counts).items():
        table.add_row(reason, f"{sequences:,}", f"{actions:,}", f"{actions / read:.2%}")
    console.print(table)

    judged = decided(counts) or {"default": read - sum(actions for _, actions in dropped(counts).values())}
    table = Table("rule", "behaviour", "actions", "share", title="behaviour by rule", title_justify="left")
    for rule, actions in judged.items():
        of_rule = source.cleaning.default_behaviour if rule == "default" else rules.get(rule, "by classifier")
        table.add_row(rule, of_rule, f"{actions:,}", f"{actions / max(1, sum(judged.values())):.2%}")
    console.print(table)

    modes, total = source.makers[0].units.folder.modes, max(1, int(found.mode_actions.sum()))
    table = Table("mode", "runs", "actions", "share", title="modes (whole sequence known)", title_justify="left")
    for mode, runs, actions in zip(modes, found.mode_runs.tolist(), found.mode_actions.tolist(), strict=True):
        table.add_row(mode, f"{runs:,}", f"{actions:,}", f"{actions / total:.2%}")
    console.print(table)

    names, index = _place_names(config), tokenizer.index
    for mode, examples in zip(modes, found.examples, strict=True):
        for example in examples:
            columns = example.columns
            times = columns["timestamp"] + 60 * columns["tz_offset_minutes"].astype(np.int64)
            title = f"{mode}: {len(times)} of a sequence of {example.sequence_length} actions"
            table = Table("local time", "place", "name", "category", "action", title=title, title_justify="left")
            rows = columns["poi_row"].tolist()
            for number in range(min(_MAX_LINES, len(rows))):
                place = "(unknown)" if rows[number] < 0 else str(index.ids(np.array([rows[number]]))[0])
                action = tokenizer.actions[int(columns["action"][number])]
                table.add_row(
                    _time(int(times[number])), place, _name(names, rows[number]), _category(index, rows[number]), action
                )
            console.print(table)


_MAX_LINES = 8  # of an example sequence


def _place_names(config: "PretrainConfig") -> Any:
    from data_pipelines import PreparedFolder

    pois = PreparedFolder(config.data.corpora[0].path).pois()
    return pois["name"] if "name" in pois.column_names else None


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%a %Y-%m-%d %H:%M")


def _name(names: Any, row: int) -> str:
    return "" if names is None or not 0 <= row < len(names) else names[row].as_py() or ""


def _category(index: Any, row: int) -> str:
    number = int(index.categories(np.array([row]))[0])
    return "" if number < 0 else index.category_names[number]
