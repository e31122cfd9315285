"""The stream with the tokenizer of the model package: what it yields is what the tokenizer says of each user alone."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_pipelines import TokenStream
from spacetime_gr import POIIndex, SpacetimeGRTokenizer

from .folders import make_users, write_folder


def test_rows_are_the_tokens_of_whole_users(tmp_path: Path) -> None:
    # two days from place to place, so that hours and gaps differ; unknown places among them
    users = make_users([5, 9, 3, 7], poi_row=lambda t: np.where(t % 8 == 7, -1, t % 60))
    for user in users:
        user["timestamp"] = 1_700_000_000 + user["timestamp"] * 7_919
    folder = write_folder(tmp_path / "data", [users], users_per_row_group=2)
    rng = np.random.default_rng(0)
    pois = pa.table(
        {
            "poi_id": [f"p{row}" for row in range(60)],
            "latitude": 40 + rng.random(60),
            "longitude": -74 + rng.random(60),
            "category": [f"c{row % 3}" for row in range(60)],
            "train_visits": np.arange(60)[::-1].copy(),
        }
    )
    tokenizer = SpacetimeGRTokenizer(POIIndex.build(pois, max_pois_per_block=8), ["browse", "navigate"])
    assert pq.read_metadata(folder / "train" / "part-00000.parquet").num_row_groups == 2

    stream = TokenStream(folder, tokenizer, num_lanes=2, row_length=64)
    fields = {"position_ids", *tokenizer.token_fields}
    expected = set()
    for user in users:
        columns = {name: np.asarray(values) for name, values in user.items() if name != "user_hash"}
        columns["user_hash"] = np.array([user["user_hash"]])
        tokens = tokenizer.encode_actions(columns, np.array([0, len(user["timestamp"])]))
        tokens["position_ids"] = np.arange(tokens["input_ids"].size)
        expected.add(tuple((name, tuple(tokens[name].ravel().tolist())) for name in sorted(fields)))

    found = set()
    for batch in stream.rows_once():
        assert set(batch) == fields
        assert all(values.dtype == np.int64 for values in batch.values())
        for row in range(2):
            real = batch["input_ids"][row] != 0
            starts = np.flatnonzero(real & (batch["position_ids"][row] == 0))
            for start, end in zip(starts, [*starts[1:], int(real.sum())], strict=True):
                found.add(tuple((name, tuple(batch[name][row, start:end].tolist())) for name in sorted(fields)))
    assert found == expected

    blind = next(TokenStream(folder, tokenizer, num_lanes=2, row_length=64, blind_share=1.0))
    supervised = (blind["labels"] != -100).reshape(2, -1, 4).any(axis=-1)
    assert (blind["local_time"].reshape(2, -1, 4)[:, :, :2][supervised] == 0).all()

    single = next(TokenStream(folder, tokenizer, num_lanes=2, row_length=64, curriculum={"final_share": 0.0}))
    for row in range(2):
        ids, segment = single["input_ids"][row], (single["position_ids"][row] == 0).cumsum()
        for number in np.unique(segment[ids != 0]):
            context = ids[(segment == number) & (ids != 0)][::4] - tokenizer.vocabulary.context_start
            assert len(set((context // 169).tolist())) == 1  # one mode in each packed sequence
