"""Plans and shards: sizes are bounded, order and content are right."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.prepare import PrepareOptions, plan_folder, prepare_folder
from data_pipelines.prepare.plan import plan_shards
from data_pipelines.prepare.shards import row_group_sizes, rows_fingerprint

from .cities import START, event_table, write


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 100), st.sampled_from(["train", "test"]))
@settings(deadline=None, max_examples=25)
def test_shards_are_full_but_bounded(actions: list[int], bound: int, split: str) -> None:
    ranges = np.random.default_rng(0).permutation(1000)[: len(actions)]
    counts = pa.table({"part": [split] * len(actions), "hash_range": ranges, "actions": actions})
    shards, bucket_of = plan_shards(counts, bound)
    size = dict(zip(ranges.tolist(), actions, strict=True))
    members = [
        [row["hash_range"] for row in bucket_of.to_pylist() if row["bucket"] == shard.bucket] for shard in shards
    ]
    assert [number for member in members for number in member] == sorted(size)
    for shard, member, later in zip(shards, members, [*members[1:], None], strict=True):
        assert shard.actions == sum(size[number] for number in member)
        assert shard.actions <= bound or len(member) == 1
        assert later is None or shard.actions + size[later[0]] > bound
    assert [shard.path for shard in shards] == [f"{split}/part-{number:05d}.parquet" for number in range(len(shards))]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 8), st.integers(1, 40))
def test_row_groups_are_full_but_bounded(lengths: list[int], most_users: int, most_actions: int) -> None:
    sizes = row_group_sizes(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), most_users, most_actions)
    assert sum(sizes) == len(lengths)
    ends = np.cumsum(sizes, dtype=int)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        group = lengths[start:end]
        assert 1 <= len(group) <= most_users
        assert sum(group) <= most_actions or len(group) == 1
        full = len(group) == most_users or end == len(lengths) or sum(lengths[start : end + 1]) > most_actions
        assert full


def test_one_huge_user_is_whole_and_alone(tmp_path: Path) -> None:
    small = event_table(num_events=300, num_users=40)
    huge = event_table(num_events=5000, num_users=1)
    huge = huge.set_column(0, "user_id", pa.array(["giant"] * 5000))
    huge = huge.set_column(3, "timestamp", pa.array(START + np.arange(5000)))
    source = write(pa.concat_tables([small, huge]), tmp_path / "in")
    options = PrepareOptions(
        train_fraction=1.0,
        validation_fraction=0.0,
        actions_per_file=100,
        actions_per_row_group=50,
        users_per_row_group=5,
    )
    planned = plan_folder(source, "tables", options, key="k")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]
    folder = prepare_folder(source, "tables", tmp_path / "out", options, key="k").folder
    files = folder.manifest["files"]
    assert [shard["actions"] for shard in planned["shards"]] == [entry["actions"] for entry in files]
    assert planned["counts"] == folder.manifest["counts"]
    assert planned["counts"]["most_actions_of_a_user"] == 5000
    assert sorted(entry["actions"] for entry in files)[-1] == 5000
    assert all(entry["actions"] <= 100 for entry in files if entry["actions"] != 5000)
    for file, group, users in folder.row_groups("train"):
        table = pq.ParquetFile(file).read_row_group(group)
        lengths = [len(times) for times in table["timestamp"].to_pylist()]
        assert len(lengths) == users <= 5
        assert sum(lengths) <= 50 or len(lengths) == 1


def test_the_fingerprint_is_of_the_rows_alone(tmp_path: Path) -> None:
    rows = {"user_hash": [1, 2], "timestamp": pa.array([[1, 2], [3]], pa.list_(pa.int64()))}
    table = pa.table(rows)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1, compression="none", use_dictionary=False)
    assert rows_fingerprint(pq.read_table(tmp_path / "a.parquet")) == rows_fingerprint(table)
    moved = pa.table(rows | {"timestamp": pa.array([[1], [2, 3]], pa.list_(pa.int64()))})
    assert rows_fingerprint(moved) != rows_fingerprint(table)
