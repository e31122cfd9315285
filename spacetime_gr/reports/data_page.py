"""The page of a data report: sections, each with a line on how to read it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np

from spacetime_gr.reports import cell_map, charts
from spacetime_gr.reports.cells import Cells, View
from spacetime_gr.reports.charts import Axis, Series, percent
from spacetime_gr.reports.data_profile import BINS_PER_DECADE, DISTANCE_KM, GAP_SECONDS
from spacetime_gr.reports.page import page, section, side_by_side, table

_WEEK = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_UNITS = (("y", 31_557_600), ("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
_GAP_TICKS = (1, 60, 3600, 86_400, 2_629_800, 31_557_600)
_GAP_NAMES = ("1 s", "1 min", "1 h", "1 day", "1 month", "1 year")
_MAX_CATEGORIES = 1000
_UNKNOWN = "place not in the training list"


def build_page(numbers: dict[str, Any], view: View, places: Cells, blocks: Cells) -> str:
    """The page as text.

    Args:
        numbers: the figures of `report_on`.
        view: the window of both maps.
        places, blocks: visits on tiles of one size, and the index's blocks.
    """
    splits = numbers["splits"]
    used = splits["train"] if numbers["split"] == "train" else splits
    of = "the training split" if numbers["split"] == "train" else "all splits together"
    times = [used] if numbers["split"] == "train" else [one for one in splits.values() if one["actions"]]
    first, last = min(one["first_time"] for one in times), max(one["last_time"] for one in times)
    cards = [
        (_whole(numbers["num_events"]), "events"),
        (_whole(numbers["num_users"]), "users"),
        (_whole(numbers["popularity"]["visited"]), f"POIs visited, of {numbers['num_pois']:,} listed"),
        (_whole(numbers["num_blocks"]), "blocks"),
        (_share(_return_share(numbers)), "of visits return to a place"),
        (_duration(last - first), "from first to last event"),
    ]
    return page(
        f"Data report: {numbers['folder']}",
        f"Figures of {of}, {_date(first)} to {_date(last)} (UTC), unless a section says otherwise.",
        cards,
        [
            _splits_section(splits),
            side_by_side(_rows_section(numbers), _source_section(numbers)),
            _cleaning_section(numbers["cleaning"]),
            _week_section(numbers["hours_of_week"]),
            side_by_side(_distance_section(numbers["distance_km"]), _gap_section(numbers["gap_seconds"])),
            side_by_side(_activity_section(numbers["actions_per_user"]), _popularity_section(numbers["popularity"])),
            _returns_over_time(numbers["returns_by_time"]),
            _returns_over_history(numbers["returns_by_history"]),
            _visit_map(places, view),
            _block_map(blocks, view, numbers),
            side_by_side(
                _names_section("Action types", "What the events are.", numbers["action_names"], numbers["actions"]),
                _modes_section(numbers),
            ),
            _categories_section(numbers["categories"]),
            _places_section(numbers["top_places"], numbers["num_events"]),
        ],
        [charts.STYLES, cell_map.STYLES],
        [cell_map.SCRIPT],
    )


# ---------------------------------------------------------------- what it is


def _splits_section(splits: dict[str, dict[str, Any]]) -> str:
    rows = []
    for name, one in splits.items():
        if not one["actions"]:
            rows.append([name, "0", "0", *["-"] * 6])
            continue
        rows.append(
            [
                name,
                f"{one['users']:,}",
                f"{one['actions']:,}",
                _share(one["actions_at_unknown_pois"] / one["actions"]),
                _date(one["first_time"]),
                _date(one["last_time"]),
                _share(one["return_share"]),
                "-" if one["median_km"] is None else f"{one['median_km']:.2g}",
                "-" if one["median_gap_seconds"] is None else _duration(one["median_gap_seconds"]),
            ]
        )
    heads = ["split", "users", "events", "at POIs not in training", "first (UTC)", "last (UTC)", "returns"]
    return section(
        "Splits",
        "Do the parts resemble each other? Returns are visits to a place that the person visited before, in any split, "
        "of all visits to listed places. Distance and time are from the person's event before; distances leave out "
        "repeated visits to one place.",
        table([*heads, "median distance, km", "median gap"], rows),
    )


def _rows_section(numbers: dict[str, Any]) -> str:
    rows, rejected = numbers["rows"], numbers["rejected"]
    names = {
        "rows_read": "rows read",
        "rows_filtered": "left out by the selection (minimum visits, minimum events)",
        "places_recovered": "without coordinates, placed by the POI's other rows",
        "offsets_replaced": "with an unusable time zone offset, taken as 0",
        "rows_rejected": "rejected",
    }
    lines = [[text, f"{rows[name]:,}"] for name, text in names.items() if name in rows]
    lines += [[f"\u2003{reason}", f"{num:,}"] for reason, num in rejected.items()]
    kind = "warn" if rejected else "good"
    none = "" if rejected else " None was."
    return section(
        "Rows of the source",
        f"Rejected rows could not be used; rejected.parquet names each.{none}",
        table(["", ""], lines),
        kind,
    )


def _source_section(numbers: dict[str, Any]) -> str:
    source = numbers["source"]
    split, prints = source.get("split", {}), source.get("fingerprints", {})
    bound = numbers["max_pois_per_block"]
    rows = [
        ["format of the source", source.get("format", "-")],
        ["split by", split.get("rule", "-")],
        *(
            [name.replace("_", " "), f"{_date(split[name])} UTC"]
            for name in ("train_end", "validation_end")
            if split.get(name)
        ),
        ["blocks", numbers["block_scheme"] + (f", at most {bound:,} POIs each" if bound else "")],
        ["fingerprint of the settings", prints.get("settings", "-")],
        ["fingerprint of the user key", source.get("user_key_fingerprint", "-")],
        *([f"fingerprint of {name}", value] for name, value in list(prints.get("inputs", {}).items())[:20]),
    ]
    more = len(prints.get("inputs", {})) - 20
    return section(
        "Where it comes from",
        "Equal fingerprints mean equal inputs and settings."
        + (f" {more:,} more inputs are not shown." if more > 0 else ""),
        table(["", ""], rows),
    )


def _cleaning_section(cleaning: dict[str, Any] | None) -> str:
    if cleaning is None:
        return section(
            "Cleaning",
            "Not counted: cleaning belongs to a training run. Give its configuration with --config to see what it "
            "drops and what it marks as functional.",
            "",
        )
    counts = cleaning["counts"]
    rows = []
    for name, num in counts.items():
        kind, reason = name.split("_", 1)
        whole = counts.get(f"{kind}_read", 0)
        rows.append([f"{kind}: {reason.replace('_', ' ')}", f"{num:,}", _share(num / whole) if whole else "-"])
    settings = ", ".join(f"{name} = {value}" for name, value in cleaning["settings"].items()) or "defaults"
    functional = sum(num for name, num in counts.items() if name.startswith("actions_functional_"))
    read = counts.get("actions_read", 0)
    told = f" Functional: {_share(functional / read)} of the actions read." if read else ""
    return section(
        "Cleaning",
        f"One pass of the training split under {settings}. Dropped sequences count under the first rule they fail; "
        f"functional actions stay as context and are not learned from; supervised ones are.{told}",
        table(["", "number", "of those read"], rows),
    )


# ---------------------------------------------------------------- figures


def _week_section(hours: Sequence[int]) -> str:
    shares = np.array(hours, float).reshape(7, 24) / max(1, sum(hours))
    return section(
        "Hour of the week",
        "When events happen, in local time: a row per day, a column per hour. Stripes at the same hours on working "
        "days are commuting and lunch; an even night may be a wrong time zone.",
        charts.heat_map(
            shares, _WEEK, [f"{hour:02d}:00" for hour in range(24)], "events", "Share of events by hour of the week"
        ),
    )


def _distance_section(distances: dict[str, Any]) -> str:
    counts, same = distances["counts"], distances["same_place"]
    total = max(1, sum(counts) + same)
    names = _bin_names([_length(edge) for edge in DISTANCE_KM])
    ticks = _decades(DISTANCE_KM, {10.0**power: _length(10.0**power) for power in range(-2, 5)})
    median = (
        "" if distances["median"] is None else f" The median of the others is about {_length(distances['median'])}."
    )
    return section(
        "Distance between consecutive places",
        f"Each bar spans a fifth of a decade. {_share(same / total)} of steps stay at the same place and are not drawn."
        f"{median}",
        charts.bars(
            [Series("", np.array(counts) / total)],
            names,
            Axis("distance (logarithmic)"),
            Axis("share of steps", percent),
            ticks,
        ),
    )


def _gap_section(gaps: dict[str, Any]) -> str:
    counts = np.array(gaps["counts"])
    used = max(len(_GAP_TICKS), int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0)
    names = _bin_names([_duration(edge) for edge in GAP_SECONDS])
    ticks = _decades(GAP_SECONDS, dict(zip(map(float, _GAP_TICKS), _GAP_NAMES, strict=True)))
    median = "" if gaps["median"] is None else f" The median is about {_duration(gaps['median'])}."
    return section(
        "Time between consecutive events",
        "Each bar spans a fifth of a decade; humps at days are daily habits, a heap at seconds may be doubled rows."
        f"{median}",
        charts.bars(
            [Series("", counts[:used] / max(1, counts.sum()))],
            names[:used],
            Axis("gap (logarithmic)"),
            Axis("share of steps", percent),
            [(at, name) for at, name in ticks if at <= used],
        ),
    )


def _activity_section(activity: dict[str, Any]) -> str:
    lows = activity["at_least"]
    names = [str(low) if low == 1 else f"{low:,}-{2 * low - 1:,}" for low in lows]
    ticks = [(i + 0.5, charts.number(low)) for i, low in enumerate(lows)]
    return section(
        "Events per user",
        f"Bars double in width: 1, 2-3, 4-7, ... The mean is {activity['mean']:,.1f}. Short histories teach little "
        "about returning; a far right tail may be machines.",
        charts.bars([Series("", activity["users"])], names, Axis("events of a user, at least"), Axis("users"), ticks),
    )


def _popularity_section(popularity: dict[str, Any]) -> str:
    top = popularity["share_of_visits"]
    text = (
        "Both axes are logarithmic: a straight line is a power law. The top 1 % of visited POIs carry "
        f"{_share(top['1%'])} of visits, the top 10 % {_share(top['10%'])}; {popularity['visited_once']:,} have one "
        f"visit, {popularity['pois'] - popularity['visited']:,} none."
    )
    curve = Series("", popularity["visits"], popularity["rank"])
    chart = charts.lines([curve], Axis("rank of the POI", log=True), Axis("visits", log=True))
    return section("Popularity of POIs", text, chart)


def _returns_over_time(periods: dict[str, Any]) -> str:
    returns, discoveries = np.array(periods["returns"]), np.array(periods["discoveries"])
    length = {1: "day", 7: "week"}.get(periods["days"], f"{periods['days']} days")
    names = [_date(start) for start in periods["start"]]
    every = max(1, -(-len(names) // 9))
    ticks = [(i + 0.5, name) for i, name in enumerate(names) if i % every == 0]
    x = Axis(f"{length} that begins on (UTC)")
    share = Series("", returns / np.maximum(1, returns + discoveries))
    return section(
        "Returns and discoveries over time",
        f"Above, the share of visits, by {length}, to a place the person had visited before: it rises while histories "
        "fill, and what it levels off at is how much a memory of the past can answer. Below, the visits to listed "
        "places: a gap is a time without data.",
        charts.bars([share], names, x, Axis("share of returns", percent), ticks, wide=True)
        + charts.bars([Series("", returns + discoveries)], names, x, Axis("visits"), ticks, wide=True),
    )


def _returns_over_history(history: dict[str, Any]) -> str:
    lows = history["earlier_at_least"]
    total = np.maximum(1, np.array(history["returns"]) + np.array(history["discoveries"]))
    names = [f"after {low:,} to {2 * low:,} visits" if low else "first visit" for low in lows]
    return section(
        "Returns by length of history",
        "Share of returns by how many visits to listed places the person had made before. Always 0 for the first.",
        charts.bars(
            [Series("", np.array(history["returns"]) / total)],
            names,
            Axis("earlier visits, at least"),
            Axis("share of returns", percent),
            [(i + 0.5, charts.number(low)) for i, low in enumerate(lows)],
            wide=True,
        ),
    )


# ---------------------------------------------------------------- maps


_MOVING = "Drag to move; click and scroll, or press + and -, to zoom; point at a rectangle to read it."


def _visit_map(places: Cells, view: View) -> str:
    return section(
        "Map of visits",
        f"Visits per square km on map tiles of one size. The window holds the central 99 % of visits. {_MOVING}",
        cell_map.cell_map(places, view, "visits", "visits per km²", "Map of visits per square kilometre"),
    )


def _block_map(blocks: Cells, view: View, numbers: dict[str, Any]) -> str:
    merged = numbers["num_blocks"] - len(blocks)
    together = " Some rectangles are several blocks drawn together." if merged else ""
    return section(
        "Map of blocks",
        f"The {numbers['num_blocks']:,} blocks of the POI index, by visits per square km: small where POIs are dense."
        f"{together} {_MOVING}",
        cell_map.cell_map(blocks, view, "visits", "visits per km²", "Map of the blocks of the POI index"),
    )


# ---------------------------------------------------------------- tables


def _names_section(title: str, text: str, names: Sequence[str], counts: Sequence[int]) -> str:
    total = max(1, sum(counts))
    rows = [[name, f"{num:,}", _share(num / total)] for name, num in zip(names, counts, strict=True)]
    return section(title, text, table(["", "events", "share"], rows))


def _modes_section(numbers: dict[str, Any]) -> str:
    if numbers["modes"] is None:
        return section("Modes", "The source states none; the stream infers them.", "")
    names = [*numbers["mode_names"], "unknown"]
    return _names_section("Modes", "As the source states them.", names, numbers["modes"])


def _categories_section(categories: list[dict[str, Any]]) -> str:
    rows = [
        [
            (row["category"] or "no category") if row["known_place"] else _UNKNOWN,
            f"{row['visits']:,}",
            f"{row['pois']:,}",
            f"{row['users']:,}",
            _share(row["return_share"]),
        ]
        for row in categories[:_MAX_CATEGORIES]
    ]
    hidden = (
        f" The {_MAX_CATEGORIES:,} most visited of {len(categories):,}." if len(categories) > _MAX_CATEGORIES else ""
    )
    return section(
        "Categories",
        f"A click on a head sorts by it. Many returns: habits such as home and work; few: leisure and travel.{hidden}",
        table(["category", "visits", "POIs", "users", "returns"], rows, sortable=True),
    )


def _places_section(places: list[dict[str, Any]], num_events: int) -> str:
    rows = [
        [
            place["name"] or place["poi_id"],
            place["category"] or "-",
            f"{place['visits']:,}",
            _share(place["visits"] / num_events),
        ]
        for place in places
    ]
    return section(
        "Most visited places",
        "By name, or by id where the POI list has no names. A place that should not be here is often a "
        "default location.",
        table(["place", "category", "visits", "of events"], rows),
    )


# ---------------------------------------------------------------- words


def _return_share(numbers: dict[str, Any]) -> float | None:
    history = numbers["returns_by_history"]
    visits = sum(history["returns"]) + sum(history["discoveries"])
    return sum(history["returns"]) / visits if visits else None


def _whole(count: int) -> str:
    return f"{count:,}" if count < 10_000_000 else charts.number(count)


def _share(value: float | None) -> str:
    return "-" if value is None else percent(value)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def _duration(seconds: float) -> str:
    """Seconds in the largest unit that fits, three digits."""
    for name, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.3g} {name}"
    return "0 s"


def _length(km: float) -> str:
    return f"{km:,.3g} km" if 1.0 <= km < 1000 else f"{km:,.0f} km" if km >= 1000 else f"{1000 * km:.3g} m"


def _bin_names(edges: Sequence[str]) -> list[str]:
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"below {edges[0]}", *between, f"{edges[-1]} and more"]


def _decades(edges: Any, labels: dict[float, str]) -> list[tuple[float, str]]:
    """Where values lie below the bars; bar 0 ends at the first edge."""
    start = np.log10(edges[0])
    return [(1.0 + (np.log10(value) - start) * BINS_PER_DECADE, label) for value, label in labels.items()]
