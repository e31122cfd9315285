"""The published splits as event logs, read from the CSV files with nothing in between."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spacetime_gr.evaluation.events import TEST, TRAIN, EventLog

DATA = Path(os.environ.get("SPACETIME_GR_DATA", Path(__file__).parents[4] / "shared" / "data"))
NYC = DATA / "nyc_foursquare"
needs_data = pytest.mark.skipif(not NYC.is_dir(), reason=f"no real check-ins at {NYC}; set SPACETIME_GR_DATA")


def poi_rows(places: pd.Series, training: pd.Series) -> tuple[np.ndarray, int]:
    """Row of each place among the places of training, -1 for the others; and their number."""
    known = pd.Index(sorted(places[training].unique()))
    return known.get_indexer(pd.Index(places)), len(known)


def lessismore_log() -> EventLog:
    events = pd.read_csv(NYC / "splits" / "lessismore" / "checkins.csv.gz")
    rows, num_pois = poi_rows(events.poi_idx, events.block == "T0")
    # 1970-01-01 was a Thursday, day 3; local time is at most 14 h from UTC.
    hours_ahead = (events.dow * 24 + events.hour - (events.unix_s // 3600 + 72) + 14) % 168 - 14
    return EventLog.from_arrays(
        user=events.user_idx.to_numpy(),
        poi_row=rows,
        timestamp=events.unix_s.to_numpy(),
        tz_offset_minutes=hours_ahead.to_numpy() * 60,
        split=np.where(events.block == "T0", TRAIN, TEST),
        trajectory=pd.factorize(events.traj_id)[0],
        num_pois=num_pois,
    )


def getnext_frame() -> pd.DataFrame:
    folder = NYC / "splits" / "getnext"
    names = ("NYC_train.reconstructed", "NYC_val", "NYC_test")
    parts = [pd.read_csv(folder / f"{name}.csv.gz").assign(split=code) for code, name in enumerate(names)]
    events = pd.concat(parts, ignore_index=True)
    events["unix_s"] = (pd.to_datetime(events.UTC_time) - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    # Numbers in the train file have nothing to do with those in the other two.
    events["trajectory"] = pd.factorize(np.where(events.split == TRAIN, "t", "") + events.trajectory_id)[0]
    return events


def getnext_log(events: pd.DataFrame) -> EventLog:
    rows, num_pois = poi_rows(events.POI_id, events.split == TRAIN)
    return EventLog.from_arrays(
        user=events.user_id.to_numpy(),
        poi_row=rows,
        timestamp=events.unix_s.to_numpy(),
        tz_offset_minutes=events.timezone.to_numpy(),
        split=events.split.to_numpy(),
        trajectory=events.trajectory.to_numpy(),
        num_pois=num_pois,
    )
