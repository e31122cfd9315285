"""The POI list: which POIs exist, where they are and how often training visits them.

All of it comes from the training part and the source's POI table, so nothing of later parts can reach training.
Where no table places a POI, its coordinates are those of its first training event that has any (first in time, then in
the order of the files), and its category and name are those of the first training event that states one.
"""

from typing import Literal

import ibis
import ibis.expr.types as ir


def _first_stated(events: ir.Table, values: list[str]) -> ir.StructValue:
    """The values of a group's first event that states them, as a struct that starts with the event's place in time."""
    order = ("timestamp", "source_file", "source_row")
    return ibis.struct({name: events[name] for name in (*order, *values)}).min(where=events[values[0]].notnull())


def placed_pois(events: ir.Table, pois: ir.Table | None) -> ir.Table:
    """POIs with their facts, one row each: poi_id, latitude, longitude, category, name, listed (in the POI table).

    Args:
        events: good training events.
        pois: good rows of the source's POI table, if it has one.
    """
    grouped = events.group_by("poi_id").agg(
        place=_first_stated(events, ["latitude", "longitude"]),
        kind=_first_stated(events, ["category"]),
        title=_first_stated(events, ["name"]),
    )
    seen = grouped.select(
        "poi_id",
        latitude=grouped.place.latitude,
        longitude=grouped.place.longitude,
        category=grouped.kind.category,
        name=grouped.title["name"],
    )
    if pois is None:
        return seen.filter(seen.latitude.notnull()).mutate(listed=ibis.literal(False))
    joined = seen.outer_join(pois, "poi_id", lname="seen_{name}", rname="listed_{name}")
    facts = {
        name: ibis.coalesce(joined[f"listed_{name}"], joined[f"seen_{name}"])
        for name in ("poi_id", "latitude", "longitude", "category", "name")
    }
    merged = joined.select(**facts, listed=joined.listed_poi_id.notnull())
    return merged.filter(merged.latitude.notnull())


def frequent(train: ir.Table, min_poi_visits: int, min_user_events: int) -> tuple[ir.Table, ir.Table]:
    """POIs with enough training visits, and users with enough training events at those: one pass, POIs first.

    Returns:
        Table of poi_id, table of user_hash.
    """
    visits = train.group_by("poi_id").agg(num=train.count())
    pois = visits.filter(visits.num >= min_poi_visits).select("poi_id")
    at_kept = train.semi_join(pois, "poi_id")
    events = at_kept.group_by("user_hash").agg(num=at_kept.count())
    return pois, events.filter(events.num >= min_user_events).select("user_hash")


def numbered_pois(placed: ir.Table, train: ir.Table, catalogue: Literal["train", "all"]) -> ir.Table:
    """The POI list in `poi_row` order: by falling training visits, ties by poi_id.

    Args:
        placed: result of `placed_pois`.
        train: training events that are kept.
        catalogue: "train" for POIs with a training visit, "all" for those of the POI table too.

    Returns:
        poi_row int32, poi_id, latitude, longitude, category, name, train_visits and train_visitors (people) int64.
    """
    counts = train.group_by("poi_id").agg(train_visits=train.count(), train_visitors=train.user_hash.nunique())
    counted = placed.left_join(counts, "poi_id")
    counted = counted.mutate(
        **{name: ibis.coalesce(counted[name], 0).cast("int64") for name in ("train_visits", "train_visitors")}
    )
    wanted = counted.train_visits > 0
    if catalogue == "all":
        wanted = wanted | counted.listed
    counted = counted.filter(wanted)
    row = ibis.row_number().over(order_by=[counted.train_visits.desc(), counted.poi_id])
    columns = ("poi_id", "latitude", "longitude", "category", "name", "train_visits", "train_visitors")
    numbered = counted.select(*columns, poi_row=row.cast("int32"))
    return numbered.order_by("poi_row")


def numbered_actions(events: ir.Table) -> ir.Table:
    """Action types: name, row int16. Those of training come first, each group by name, so later parts move no id."""
    types = events.group_by("action").agg(in_train=(events.part == "train").any())
    row = ibis.row_number().over(order_by=[types.in_train.desc(), types.action])
    return types.select(name=types.action, row=row.cast("int16"))


def numbered_trajectories(events: ir.Table) -> ir.Table:
    """Trajectories: name, row int32, in the order of their names."""
    names = events.filter(events.trajectory.notnull()).select(name="trajectory").distinct()
    return names.mutate(row=ibis.row_number().over(order_by=names["name"]).cast("int32"))


def numbered_files(events: ir.Table) -> ir.Table:
    """Source files: name, row int32, in the order of their names."""
    names = events.select(name="source_file").distinct()
    return names.mutate(row=ibis.row_number().over(order_by=names["name"]).cast("int32"))
