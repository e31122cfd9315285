"""Results target by target, as one Parquet file: every figure can be recomputed from it, and systems be compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.ranking import Ranking
from spacetime_gr.evaluation.slices import Slicing

# What says that two files are of the same targets.
IDENTITY = ("user_hash", "timestamp", "poi_row", "is_discovery")


def records_path(json_file: Path) -> Path:
    """Where the targets of a result stand: beside its JSON."""
    return json_file.with_suffix(".parquet")


def write_records(
    path: Path,
    instances: Instances,
    target_age: np.ndarray,
    discovery: np.ndarray,
    groups: Sequence[Slicing],
    rankings: Mapping[str, Ranking],
    models: Collection[str],
) -> None:
    """Write one row per target, in rising order of time.

    Columns: `user_hash`, `timestamp`, `tz_offset_minutes`, `poi_row`, `is_discovery`, `age_s` (seconds since the user
    was last there, -1 never), `slice/NAME` (label), and for each system `NAME/rank`, `NAME/new_rank` (null where the
    target is not new), `NAME/places` (the list, best first), `NAME/places_age_s`, and of models `NAME/log_prob`.
    """
    log, target = instances.log, instances.target
    columns: dict[str, pa.Array] = {
        "user_hash": pa.array(log.user_hash[log.user[target]]),
        "timestamp": pa.array(instances.target_time),
        "tz_offset_minutes": pa.array(log.tz_offset_minutes[target].astype(np.int16)),
        "poi_row": pa.array(instances.target_poi.astype(np.int32)),
        "is_discovery": pa.array(discovery),
        "age_s": pa.array(target_age),
    }
    for slicing in groups:
        codes = pa.array(slicing.code.astype(np.int32), mask=slicing.code < 0)
        columns[f"slice/{slicing.name}"] = pa.DictionaryArray.from_arrays(codes, pa.array(slicing.labels, pa.string()))
    for name, ranking in rankings.items():
        columns[f"{name}/rank"] = pa.array(ranking.rank)
        columns[f"{name}/new_rank"] = pa.array(ranking.new_rank, mask=np.isnan(ranking.new_rank))
        if name in models:
            columns[f"{name}/log_prob"] = pa.array(ranking.score)
        k = ranking.places.shape[1]
        columns[f"{name}/places"] = pa.FixedSizeListArray.from_arrays(pa.array(ranking.places.ravel()), k)
        columns[f"{name}/places_age_s"] = pa.FixedSizeListArray.from_arrays(pa.array(ranking.age.ravel()), k)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, compression="zstd")


@dataclass(frozen=True)
class Records:
    """What a comparison needs of such a file.

    identity: the columns that say which targets these are, (n,) each, by name. ranks, new_ranks: (n,) float64 by
    system; new_ranks are NaN where the target is not new.
    """

    identity: dict[str, np.ndarray]
    ranks: dict[str, np.ndarray]
    new_ranks: dict[str, np.ndarray]

    def same_targets(self, other: Records) -> bool:
        """Whether two files are of the same targets in the same order."""
        return all(np.array_equal(self.identity[name], other.identity[name]) for name in IDENTITY)


def read_records(path: Path) -> Records:
    """Read the file of targets of a result.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        names = pq.read_schema(path).names
        systems = [name.removesuffix("/rank") for name in names if name.endswith("/rank")]
        ranks = [f"{system}/{kind}" for system in systems for kind in ("rank", "new_rank")]
        table = pq.read_table(path, columns=[*IDENTITY, *ranks])
        columns = {name: table[name].to_numpy() for name in table.column_names}
        return Records(
            identity={name: columns[name] for name in IDENTITY},
            ranks={system: columns[f"{system}/rank"] for system in systems},
            new_ranks={system: columns[f"{system}/new_rank"] for system in systems},
        )
    except (pa.ArrowInvalid, KeyError) as error:
        raise ValueError(
            f"{path} is not a file of targets ({error}); expected the Parquet file that `spacetime-gr evaluate --json` "
            "writes beside its JSON: evaluate again"
        ) from error
