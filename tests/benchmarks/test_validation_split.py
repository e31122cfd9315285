"""The validation file becomes the test file, in order of time; the test file is not opened."""

import gzip
from pathlib import Path

import pytest

from benchmarks.validation_split import main

HEAD = "user_id,UTC_time\n"


def test_later_rows_become_the_test_part(tmp_path: Path) -> None:
    rows = [f"{number},2012-11-{1 + number // 24:02d} {number % 24:02d}:00:00+00:00\n" for number in range(100)]
    for part, kept in (("train", [rows[0]]), ("val", [*rows[50:], *rows[:50]]), ("test", ["none of this"])):
        with gzip.open(tmp_path / f"NYC_{part}.csv.gz", "wt") as file:
            file.write("".join([HEAD, *kept]))
    main([str(tmp_path), str(tmp_path / "out")])
    history, test = ((tmp_path / "out" / f"NYC_{part}.csv").read_text() for part in ("val", "test"))
    assert history == "".join([HEAD, *rows[:2]])
    assert test == "".join([HEAD, *rows[2:]])
    assert (tmp_path / "out" / "NYC_train.csv.gz").is_file()


def test_a_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds 0 files like"):
        main([str(tmp_path), str(tmp_path / "out")])
