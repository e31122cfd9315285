"""From the raw tables of a source to checked, numbered events in one partition per planned shard."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines.prepare import catalogue, embeddings, split
from data_pipelines.prepare.engine import Engine
from data_pipelines.prepare.engine_differences import given
from data_pipelines.prepare.like import SharedFolder
from data_pipelines.prepare.options import PrepareOptions
from data_pipelines.prepare.plan import hash_range, plan_shards, range_counts
from data_pipelines.prepare.validate import checked_events, checked_pois, typed_events
from data_pipelines.prepared import SPLITS
from data_pipelines.sources.base import RawSource

Progress = Callable[[str], None]
_MIN_ROW_GROUP, _MAX_ROW_GROUP, _WANTED_ROW_GROUPS = 8, 128, 32
_POI_SCHEMA = pa.schema(
    [
        ("poi_row", pa.int32()),
        ("poi_id", pa.string()),
        ("latitude", pa.float64()),
        ("longitude", pa.float64()),
        ("category", pa.string()),
        ("name", pa.string()),
        ("train_visits", pa.int64()),
        ("train_visitors", pa.int64()),
    ]
)
_EVENT_COLUMNS = (
    *("user_hash", "part", "timestamp", "tz_offset_minutes"),
    *("user_latitude", "user_longitude", "mode"),
)
_REJECTED_SCHEMA = pa.schema(
    [("source_file", pa.string()), ("source_row", pa.int64()), ("reason", pa.string()), ("user_hash", pa.int64())]
)
_REJECTED_COLUMNS = _REJECTED_SCHEMA.names
# Above any row number of a file.
_ROWS_PER_FILE = 2**40


@dataclass(frozen=True)
class _Checked:
    """Events with reasons, the good ones of them, and the good rows of the POI table."""

    events: ir.Table
    good: ir.Table
    pois: ir.Table | None
    bad_pois: ir.Table | None


def write_content(
    source: RawSource,
    folder: Path,
    buckets: Path | None,
    engine: Engine,
    key: str,
    options: PrepareOptions,
    like: SharedFolder | None,
    progress: Progress,
) -> dict[str, Any]:
    """Write POI list and quarantined rows of a source, and its events in one partition per planned shard.

    Args:
        source: the opened source.
        folder: the prepared folder in the making.
        buckets: where the events go, partition `bucket=<number>`; None only counts and plans.
        engine: runs the expressions.
        key: key of the user hash.
        options: settings.
        like: takes the place of the POI list, the embeddings and the action types of the source.
        progress: told each step.

    Returns:
        The part of the manifest that describes the content, and the planned shards under "shards".

    Raises:
        ValueError: if no event is usable, or none trains, or `like` lacks an action type of the source.
    """
    progress("checking rows")
    shared_pois = None if like is None else engine.small_table(like.poi_rows(), "shared_pois")
    checked = _check(source, engine, key, options, shared_pois)
    good, boundaries = _split(checked.good, source, engine, options)
    good = engine.materialise(good, "good_events")
    progress("listing POIs")
    train = good.filter(good.part == "train")
    if shared_pois is not None:
        # Events at other POIs stay, in training too: no list is made of them, and the tokenizer marks them unknown.
        placed, unplaced = shared_pois, train.limit(0)
    else:
        placed = engine.materialise(catalogue.placed_pois(train, checked.pois), "placed_pois")
        # A training event whose POI is placed by later events only must not train: its place would come from the
        # future.
        unplaced = engine.materialise(train.anti_join(placed, "poi_id"), "unplaced_events")
    progress("writing quarantined rows")
    rejected = _write_rejected(checked, unplaced, source, folder, engine)
    summary = _summary(checked, good, unplaced, engine)
    engine.drop("judged_events")
    kept = _frequent(good, placed, engine, options, keep_unlisted=like is not None)
    engine.drop("good_events")
    if like is None:
        train = kept.filter(kept.part == "train")
        pois = engine.materialise(catalogue.numbered_pois(placed, train, options.catalogue), "poi_list")
        poi_table = engine.table(pois.order_by("poi_row")).select(_POI_SCHEMA.names).cast(_POI_SCHEMA)
        pq.write_table(poi_table, folder / "pois.parquet", compression="zstd")
    else:
        pois, poi_table = placed, like.folder.pois()
        like.copy_pois(folder)

    progress("counting events")
    events, actions = _encode(kept, pois, engine, like)
    ranges = engine.table(range_counts(events))
    counts = _split_counts(ranges)
    if counts["train"]["actions"] == counts["train"]["actions_at_unknown_pois"]:
        unusable = ", ".join(f"{num:,} rows: {reason}" for reason, num in rejected.items())
        remedy = "--min-poi-visits" if like is None else f"that POIs have the ids of --like {like.folder.path}"
        raise ValueError(
            f"no event is left to train on ({unusable or 'no row was rejected'}); check --format, --train-fraction, "
            f"{remedy} and --min-user-events"
        )
    if like is None:
        embedding_size = _carry_embeddings(source, checked, pois, poi_table.num_rows, folder, engine, progress)
    else:
        embedding_size = like.poi_embedding_size
    shards, bucket_of = plan_shards(ranges, options.actions_per_file)
    if buckets is not None:
        progress("ordering events")
        # Spark may give a range as 32 or 64 bits; the join must not depend on it.
        sent = engine.small_table(
            bucket_of.set_column(1, "hash_range", bucket_of["hash_range"].cast("int64")), "buckets"
        )
        ranged = events.mutate(hash_range=hash_range(events.user_hash).cast("int64"))
        engine.write_parquet(
            ranged.join(sent, ["part", "hash_range"]).drop("part", "hash_range"), buckets, partition_by="bucket"
        )
    num_kept = sum(part["actions"] for part in counts.values())
    return {
        "counts": {
            "rows_read": summary["rows_read"] + len(source.malformed),
            "rows_rejected": sum(rejected.values()),
            "rows_filtered": summary["good"] - summary["unplaced"] - num_kept,
            "actions": num_kept,
            "users": engine.row(kept.agg(users=kept.user_hash.nunique()))["users"],
            "most_actions_of_a_user": max(ranges["largest"].to_pylist()),
            "pois": poi_table.num_rows,
            "categories": len(poi_table["category"].drop_null().unique()),
            # Where no event has coordinates, all places come from the POI table and none had to be recovered.
            "places_recovered": summary["placeless"] - summary["unplaced"] if summary["placed"] else 0,
            "offsets_replaced": summary["offsets_replaced"],
            "splits": counts,
        },
        "rejected": rejected,
        "split": boundaries,
        "actions": actions,
        "poi_embedding_size": embedding_size,
        "users_per_row_group": options.users_per_row_group or _row_group_size(counts["train"]["users"]),
        "shards": [shard.as_dict() for shard in shards],
    }


def _check(
    source: RawSource, engine: Engine, key: str, options: PrepareOptions, shared_pois: ir.Table | None
) -> _Checked:
    keep = options.duplicates == "keep" or (options.duplicates == "auto" and source.keep_duplicates)
    typed = engine.materialise(typed_events(source.events, engine.secret(key)), "typed_events")
    typed = _without_empty(typed, engine)
    events = engine.materialise(checked_events(typed, options.latest(), keep), "checked_events")
    engine.drop("typed_events")
    pois = bad_pois = None
    if source.pois is not None:
        listed = engine.materialise(checked_pois(source.pois), "checked_pois")
        pois = listed.filter(listed.reason.isnull())
        bad_pois = listed.filter(listed.reason.notnull())
    elif options.catalogue == "all":
        raise ValueError(
            "catalogue is 'all', but the source has no POI table: add pois.csv or pois.parquet, or take 'train'"
        )
    fit = events.filter(events.reason.isnull())
    places = fit.filter(fit.no_place.isnull()).select("poi_id")
    for listing in (pois, shared_pois):
        if listing is not None:
            places = places.union(listing.select("poi_id"))
    reachable = places.distinct().mutate(reachable=ibis.literal(True))
    joined = events.left_join(reachable, "poi_id")
    lost = joined.reason.isnull() & joined.reachable.isnull()
    judged = joined.mutate(reason=ibis.ifelse(lost, joined.no_place, joined.reason)).drop("reachable", "poi_id_right")
    judged = engine.materialise(judged, "judged_events")
    engine.drop("checked_events")
    return _Checked(judged, judged.filter(judged.reason.isnull()), pois, bad_pois)


def _without_empty(typed: ir.Table, engine: Engine) -> ir.Table:
    """Leave out optional columns that no row fills, so shards carry what the source knows and nothing else."""
    optional = [name for name in ("user_latitude", "user_longitude", "mode", "trajectory") if name in typed.columns]
    if not optional:
        return typed
    filled = engine.row(typed.agg(**{name: given(typed[name]).any() for name in optional}))
    empty = {name for name in optional if not filled[name]}
    if empty & {"user_latitude", "user_longitude"}:
        empty |= {"user_latitude", "user_longitude"} & set(optional)
    return typed.drop(*empty) if empty else typed


def _split(
    good: ir.Table, source: RawSource, engine: Engine, options: PrepareOptions
) -> tuple[ir.Table, dict[str, Any]]:
    if "part" in good.columns:
        if options.split == "leave-last-out":
            raise ValueError("split is 'leave-last-out', but this format comes with its own split; leave --split out")
        return good, {"rule": "source", "train_end": None, "validation_end": None}
    if options.split == "leave-last-out":
        return split.with_last_left_out(good), {"rule": options.split, "train_end": None, "validation_end": None}
    boundaries, rule = source.boundaries, "source times"
    if boundaries is None:
        rule = "global time order"
        num_events = engine.row(good.agg(num=good.count()))["num"]
        last_fraction = options.train_fraction + options.validation_fraction
        boundaries = split.boundaries_of(
            engine.row(split.boundaries_expression(good, num_events or 0, options.train_fraction, last_fraction))
        )
    stated = {"rule": rule, "train_end": boundaries.train_end, "validation_end": boundaries.validation_end}
    return split.with_parts(good, boundaries), stated


def _frequent(
    good: ir.Table, placed: ir.Table, engine: Engine, options: PrepareOptions, keep_unlisted: bool
) -> ir.Table:
    """The events that stay: training ones at listed POIs, all later ones; of users with enough training events.

    With `keep_unlisted`, training events at other POIs stay too, but do not count for a user.
    """
    train = good.filter(good.part == "train").semi_join(placed, "poi_id")
    pois, users = catalogue.frequent(train, options.min_poi_visits, options.min_user_events)
    if options.min_poi_visits > 1:
        train = train.semi_join(pois, "poi_id")
    kept = good if keep_unlisted else train.union(good.filter(good.part != "train"))
    if options.min_user_events > 0:
        kept = kept.semi_join(users, "user_hash")
    return engine.materialise(kept, "kept_events")


def _carry_embeddings(
    source: RawSource,
    checked: _Checked,
    pois: ir.Table,
    num_pois: int,
    folder: Path,
    engine: Engine,
    progress: Progress,
) -> int | None:
    """Write the embeddings of the source's POI table in the order of the POI list; returns their size, if any."""
    if source.poi_embeddings is None:
        return None
    assert checked.pois is not None
    progress("carrying POI embeddings")
    rows = pois.select("poi_id", "poi_row").join(checked.pois, "poi_id").select("poi_row", "source_file", "source_row")
    return embeddings.carry(source.poi_embeddings, engine.table(rows), num_pois, folder / embeddings.FILE_NAME)


def _action_types(kept: ir.Table, engine: Engine, like: SharedFolder | None) -> ir.Table:
    """Action types: name, row int16.

    Raises:
        ValueError: if `like` lacks one of the events.
    """
    if like is None:
        return engine.materialise(catalogue.numbered_actions(kept), "action_types")
    actions = engine.small_table(like.action_types(), "action_types")
    missing = kept.anti_join(actions, kept.action == actions["name"]).group_by("action").agg(num=lambda t: t.count())
    unknown = engine.table(missing.order_by("action")).to_pylist()
    if unknown:
        found = ", ".join(f"{row['action']!r} ({row['num']:,} events)" for row in unknown)
        raise ValueError(
            f"action types that --like {like.folder.path} does not know: {found}; expected some of "
            f"{', '.join(map(repr, like.folder.actions))}: rename or leave out these events, or prepare that folder "
            "with a source that has them"
        )
    return actions


def _encode(kept: ir.Table, pois: ir.Table, engine: Engine, like: SharedFolder | None) -> tuple[ir.Table, list[str]]:
    """Events with ids in place of names, and the names of the action types."""
    actions = _action_types(kept, engine, like)
    names = engine.table(actions.order_by("row"))["name"].to_pylist()
    files = engine.materialise(catalogue.numbered_files(kept), "event_files")
    joined = kept.left_join(pois.select("poi_id", "poi_row"), "poi_id")
    joined = joined.join(actions.select(action_name="name", action_row="row"), joined.action == actions["name"])
    joined = joined.join(files.select(file_name="name", file_row="row"), joined.source_file == files["name"])
    columns: dict[str, ir.Value] = {name: joined[name] for name in _EVENT_COLUMNS if name in joined.columns}
    columns["source_order"] = joined.file_row.cast("int64") * _ROWS_PER_FILE + joined.source_row
    columns["poi_row"] = ibis.coalesce(joined.poi_row, -1).cast("int32")
    columns["action"] = joined.action_row
    if "trajectory" in kept.columns:
        trajectories = engine.materialise(catalogue.numbered_trajectories(kept), "trajectories")
        numbered = trajectories.select(trajectory_name="name", trajectory_row="row")
        joined = joined.left_join(numbered, joined.trajectory == numbered.trajectory_name)
        columns["trajectory"] = ibis.coalesce(joined.trajectory_row, -1).cast("int32")
    return joined.select(**columns), names


def _split_counts(ranges: pa.Table) -> dict[str, dict[str, int]]:
    names = ["actions", "users", "actions_at_unknown_pois"]
    grouped = ranges.group_by("part").aggregate([(name, "sum") for name in names])
    found = {row["part"]: {name: int(row[f"{name}_sum"]) for name in names} for row in grouped.to_pylist()}
    return {name: found.get(name, dict.fromkeys(names, 0)) for name in SPLITS}


def _row_group_size(num_users: int) -> int:
    """Users in a row group: about 32 groups of a small source, groups of 128 users of a large one."""
    return min(_MAX_ROW_GROUP, max(_MIN_ROW_GROUP, -(-num_users // _WANTED_ROW_GROUPS)))


def _write_rejected(
    checked: _Checked, unplaced: ir.Table, source: RawSource, folder: Path, engine: Engine
) -> dict[str, int]:
    """Write rejected.parquet; returns the number of rows by reason."""
    events = checked.events.filter(checked.events.reason.notnull()).select(*_REJECTED_COLUMNS)
    rows = events.union(unplaced.mutate(reason=unplaced.no_place).select(*_REJECTED_COLUMNS))
    if checked.bad_pois is not None:
        rows = rows.union(checked.bad_pois.mutate(user_hash=ibis.null("int64")).select(*_REJECTED_COLUMNS))
    if source.malformed:
        files, numbers, reasons = (list(values) for values in zip(*source.malformed, strict=True))
        arrays = [files, pa.array(numbers, pa.int64()), reasons, pa.nulls(len(files), pa.int64())]
        rows = rows.union(engine.small_table(pa.table(arrays, names=list(_REJECTED_COLUMNS)), "malformed"))
    rows = engine.materialise(rows, "rejected_rows")
    table = engine.table(rows.order_by("source_file", "source_row", "reason"))
    pq.write_table(table.cast(_REJECTED_SCHEMA), folder / "rejected.parquet", compression="zstd")
    counts = engine.table(rows.group_by("reason").agg(num=rows.count()).order_by("reason"))
    return dict(zip(counts["reason"].to_pylist(), counts["num"].to_pylist(), strict=True))


def _summary(checked: _Checked, good: ir.Table, unplaced: ir.Table, engine: Engine) -> dict[str, int]:
    counts = checked.events.agg(rows_read=checked.events.count(), placed=checked.events.latitude.count())
    facts = good.agg(good=good.count(), placeless=good.no_place.count(), offsets_replaced=good.bad_offset.sum())
    lost = unplaced.agg(unplaced=unplaced.count())
    row = engine.row(counts.cross_join(facts).cross_join(lost))
    return {name: int(value or 0) for name, value in row.items()}
