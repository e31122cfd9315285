"""The stream with the tokenizer of the model package: what it yields is what the tokenizer says of each user alone."""

import tempfile
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import TokenStream
from data_pipelines.stream.modes import segment_modes
from data_pipelines.stream.rows import as_rows
from data_pipelines.stream.sequences import Sequences
from spacetime_gr import POIIndex, SpacetimeGRTokenizer

from .folders import User, write_folder

NUM_POIS = 60
ROW_ACTIONS = 8
Sequence = tuple[tuple[str, tuple[int, ...]], ...]  # fields of one packed sequence, by name


@pytest.fixture(scope="module")
def tokenizer() -> SpacetimeGRTokenizer:
    """Places over a hundred kilometres, some added after the index was built, so that modes differ."""
    rng = np.random.default_rng(0)
    pois = pa.table(
        {
            "poi_id": [f"p{row}" for row in range(NUM_POIS)],
            "latitude": 40 + rng.random(NUM_POIS),
            "longitude": -74 + rng.random(NUM_POIS),
            "category": [f"c{row % 3}" for row in range(NUM_POIS)],
            "train_visits": np.arange(NUM_POIS)[::-1].copy(),
        }
    )
    index = POIIndex.build(pois.slice(0, 50), max_pois_per_block=8, spare_blocks=1.0).add(pois.slice(50))
    return SpacetimeGRTokenizer(index, ["browse", "navigate"])


@st.composite
def corpora(draw: st.DrawFn) -> list[User]:
    """Users of prepared folders: unknown places, missing user places and modes, time zones, many lengths."""
    lengths = draw(st.lists(st.integers(1, 3 * ROW_ACTIONS), min_size=1, max_size=8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    with_places, with_modes = draw(st.booleans()), draw(st.booleans())
    users = []
    for number, length in enumerate(lengths):
        rows = rng.integers(0, NUM_POIS, length)
        user: User = {
            "user_hash": int(rng.integers(1, 2**62)) if rng.random() < 0.9 else 0,
            "poi_row": np.where(rng.random(length) < 0.2, -1, rows),
            "action": rng.integers(0, 2, length),
            # Times differ between users, so a sequence tells whose it is.
            "timestamp": 1_300_000_000 + 10_000_000 * number + np.cumsum(rng.integers(0, 300_000, length)),
            "tz_offset_minutes": rng.choice([-570, -240, 0, 345, 840], length),
        }
        if with_places:
            missing = rng.random(length) < 0.5
            user["user_latitude"] = np.where(missing, np.nan, 40 + 1.5 * rng.random(length))
            user["user_longitude"] = np.where(missing, np.nan, -74 + 1.5 * rng.random(length))
        if with_modes:
            user["mode"] = rng.integers(-1, 3, length)
        users.append(user)
    return users


def packed_sequences(batch: dict[str, np.ndarray]) -> list[Sequence]:
    """The sequences of a batch of rows, padding aside."""
    found = []
    for row in range(len(batch["input_ids"])):
        real = batch["input_ids"][row] != 0
        starts = np.flatnonzero(real & (batch["position_ids"][row] == 0))
        for start, end in pairwise([*starts, int(real.sum())]):
            found.append(as_sequence({name: values[row, start:end] for name, values in batch.items()}))
    return found


def as_sequence(fields: dict[str, Any]) -> Sequence:
    """Fields in a form that can be counted."""
    return tuple((name, tuple(np.asarray(fields[name]).tolist())) for name in sorted(fields))


def windows(fields: dict[str, np.ndarray]) -> list[Sequence]:
    """What becomes of one sequence in rows of `ROW_ACTIONS`: windows that overlap by half, the half unsupervised."""
    length, half = len(fields["input_ids"]) // 4, ROW_ACTIONS // 2
    starts = range(0, max(1, length - half), half) if length > ROW_ACTIONS else range(1)
    result = []
    for start in starts:
        window = {
            name: values[4 * start : 4 * min(start + ROW_ACTIONS, length)].copy() for name, values in fields.items()
        }
        window["position_ids"] = np.arange(len(window["input_ids"]))
        if start:
            window["labels"][: 4 * half] = -100
        if (window["labels"] != -100).any():
            result.append(as_sequence(window))
    return result


def encoded(tokenizer: SpacetimeGRTokenizer, user: User) -> dict[str, np.ndarray]:
    """What the call says of a user, with names where people have names."""
    history = user | {"action": [tokenizer.actions[action] for action in user["action"]]}
    batch = tokenizer(history, return_tensors="np")
    return {name: values[0] for name, values in batch.items() if name != "attention_mask"}


def whole_modes(tokenizer: SpacetimeGRTokenizer, user: User) -> np.ndarray:
    columns = {name: values for name, values in user.items() if name != "user_hash"}
    length = len(user["poi_row"])
    return segment_modes(Sequences(columns, np.array([0, length]), np.zeros(1, int)), tokenizer.index)


@settings(max_examples=25, deadline=None)
@given(users=corpora(), lanes=st.integers(1, 3), group=st.integers(1, 4))
def test_rows_are_what_the_tokenizer_says(
    tokenizer: SpacetimeGRTokenizer, users: list[User], lanes: int, group: int
) -> None:
    """Whole users and single-mode runs, field by field, whatever shares their rows and row groups."""
    expected = {"multi": Counter[Sequence](), "single": Counter[Sequence]()}
    for user in users:
        fields = encoded(tokenizer, user)
        expected["multi"].update(windows(fields))
        cuts = 4 * (np.flatnonzero(np.diff(whole_modes(tokenizer, user))) + 1)
        runs = {name: np.split(values, cuts) for name, values in fields.items()}
        for number in range(len(cuts) + 1):
            expected["single"].update(windows({name: parts[number] for name, parts in runs.items()}))
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder) / "data", [users[::2], users[1::2]], users_per_row_group=group)
        stream = TokenStream(Path(folder) / "data", tokenizer, num_lanes=lanes, row_length=4 * ROW_ACTIONS)
        if not expected["multi"]:
            with pytest.raises(ValueError, match="not one row is left"):
                next(stream)
            return
        found = Counter[Sequence]()
        for batch in stream.rows_once():
            assert set(batch) == {"position_ids", *tokenizer.token_fields}
            assert all(values.dtype == np.int64 for values in batch.values())
            found.update(packed_sequences(batch))
        assert found == expected["multi"]

        single = TokenStream(
            Path(folder) / "data", tokenizer, num_lanes=1, row_length=4 * ROW_ACTIONS, curriculum={"final_share": 0.0}
        )
        maker = single.makers[0]
        found = Counter()
        for unit in range(len(maker.units)):
            made = maker.make("single", 0, unit)
            batch = made.new_batch(made.num_rows)
            for row in range(made.num_rows):
                made.write(row, batch, row)
            found.update(packed_sequences(as_rows(batch)))
        assert found == expected["single"]
        assert set(packed_sequences(next(single))) <= set(expected["single"])


def test_blind_rows_hide_the_time(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    users = [
        {
            "user_hash": number + 1,
            "poi_row": rng.integers(0, NUM_POIS, 6),
            "action": np.zeros(6, int),
            "timestamp": 1_700_000_000 + 7_919 * np.arange(6),
            "tz_offset_minutes": np.zeros(6, int),
        }
        for number in range(4)
    ]
    folder = write_folder(tmp_path / "data", [users], users_per_row_group=2)
    assert pq.read_metadata(folder / "train" / "part-00000.parquet").num_row_groups == 2
    blind = next(TokenStream(folder, tokenizer, num_lanes=2, row_length=64, blind_share=1.0))
    supervised = (blind["labels"] != -100).reshape(2, -1, 4).any(axis=-1)
    assert (blind["local_time"].reshape(2, -1, 4)[:, :, :2][supervised] == 0).all()
