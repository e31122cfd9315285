"""Which part of the data an event belongs to: the source's own split, exact global time order, or each user's last."""

import ibis
import ibis.expr.types as ir

from data_pipelines.sources.base import TimeBoundaries

Row = dict[str, int | None]


def boundaries_expression(events: ir.Table, num_events: int, train_fraction: float, last_fraction: float) -> ir.Table:
    """One row with train_end and validation_end (unix seconds) of a split by global time order.

    A boundary is the time of the event whose rank in time order is the fraction times the number of events. Parts are
    cut strictly before a boundary, so events of the same second stay together and no later part starts before an
    earlier one ends. A boundary is null if no event lies behind it.

    Args:
        events: table with the column timestamp.
        num_events: its number of rows.
        train_fraction: share of events before train_end.
        last_fraction: share of events before validation_end.
    """
    counts = events.group_by("timestamp").agg(num=events.count())
    window = ibis.cumulative_window(order_by=counts.timestamp)
    running = counts.mutate(through=counts.num.sum().over(window))
    return running.agg(
        train_end=running.timestamp.min(where=running.through > int(train_fraction * num_events + 1e-6)),
        validation_end=running.timestamp.min(where=running.through > int(last_fraction * num_events + 1e-6)),
        last=running.timestamp.max(),
    )


def boundaries_of(row: Row) -> TimeBoundaries:
    """The boundaries from the row that `boundaries_expression` gives; behind the last event where it has none."""
    behind = (row["last"] or 0) + 1
    train_end, validation_end = row["train_end"], row["validation_end"]
    return TimeBoundaries(
        behind if train_end is None else train_end, behind if validation_end is None else validation_end
    )


def with_parts(events: ir.Table, boundaries: TimeBoundaries) -> ir.Table:
    """Add the column part: train, validation or test."""
    part = ibis.cases(
        (events.timestamp < boundaries.train_end, "train"),
        (events.timestamp < boundaries.validation_end, "validation"),
        else_="test",
    )
    return events.mutate(part=part)


def with_last_left_out(events: ir.Table) -> ir.Table:
    """Add the column part: each user's last event tests, the one before it validates, the rest trains.

    Users with fewer than three events train only. Parts overlap in time: what others do after a tested event is in the
    training part.
    """
    newest = [events.timestamp.desc(), events.source_file.desc(), events.source_row.desc()]
    from_last = ibis.row_number().over(group_by=events.user_hash, order_by=newest)
    num_events = events.count().over(group_by=events.user_hash)
    ranked = events.mutate(from_last=from_last, num_events=num_events)
    part = ibis.cases(
        (ranked.num_events < 3, "train"),
        (ranked.from_last == 0, "test"),
        (ranked.from_last == 1, "validation"),
        else_="train",
    )
    return ranked.mutate(part=part).drop("from_last", "num_events")
