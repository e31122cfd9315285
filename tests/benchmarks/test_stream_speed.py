"""The folder that the benchmark of the stream makes for itself is one that the stream reads."""

from pathlib import Path

from benchmarks.stream_speed import make_folder
from data_pipelines import PreparedFolder, TokenStream
from spacetime_gr import SpacetimeGRTokenizer


def test_the_folder_it_makes_is_read_whole(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", num_users=150, mean_actions=5, num_pois=300)
    folder = PreparedFolder(tmp_path / "data")
    tokenizer = SpacetimeGRTokenizer.from_pretrained(folder.tokenizer_path)
    stream = TokenStream(folder.path, tokenizer, num_lanes=2, row_length=64)
    assert [users for _, _, users in folder.row_groups("train")] == [128, 22]
    supervised = sum(int((batch["labels"][:, 1::4] != -100).sum()) for batch in stream.rows_once())
    assert supervised == folder.manifest["files"][0]["actions"]
