"""The data report: figures against hand-worked ones, joining of splits, the page, the command and its errors."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data_pipelines import PreparedFolder
from data_pipelines.prepared import SPLITS as NAMES
from data_pipelines.stream.report import survey
from spacetime_gr import SpacetimeGRTokenizer
from spacetime_gr.cli.main import app
from spacetime_gr.reports.data_pass import whole_people
from spacetime_gr.training.data import open_stream
from spacetime_gr.training.loading import load_config
from tests.spacetime_gr.reports.conftest import BAD_CATEGORY, BAD_NAME, HOUR, MONDAY, SPLITS, user, write_folder

CONFIGS = Path(__file__).parents[3] / "configs" / "pretrain"


def report(folder: Path, *options: str | Path) -> tuple[dict[str, Any], str]:
    out, figures = folder.parent / "out" / "page.html", folder.parent / "out" / "figures.json"
    arguments = ["data-report", folder, "--out", out, "--json", figures, *options]
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(figures.read_text()), out.read_text()


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


# ---------------------------------------------------------------- figures


def test_figures_of_the_training_split(tiny: Path) -> None:
    numbers, _ = report(tiny)
    assert (numbers["num_events"], numbers["num_users"], numbers["num_pois"]) == (4, 2, 3)
    hours = np.zeros(168, int)
    hours[[1, 2, 3]] = [2, 1, 1]
    assert numbers["hours_of_week"] == hours.tolist()
    # Twice a degree of the equator, 111.2 km: the bin from 100 to 158 km; twice an hour: from 2512 to 3981 s.
    for name, slot, low, high in (("distance_km", 21, 100.0, 158.5), ("gap_seconds", 18, 2511.9, 3981.1)):
        histogram = numbers[name]
        assert np.flatnonzero(histogram["counts"]).tolist() == [slot]
        assert histogram["counts"][slot] == 2
        assert histogram["edges"][slot - 1 : slot + 1] == pytest.approx([low, high], rel=1e-3)
        assert low < histogram["median"] < high
    assert numbers["distance_km"]["same_place"] == 0
    assert numbers["actions_per_user"] == {"mean": 2.0, "at_least": [1, 2], "users": [1, 1]}
    assert numbers["popularity"] | {"rank": 0, "visits": 0} == {
        "pois": 3,
        "visited": 3,
        "visited_once": 2,
        "share_of_visits": {"1%": 0.5, "10%": 0.5},
        "rank": 0,
        "visits": 0,
    }
    assert numbers["returns_by_time"] == {"days": 1, "start": [MONDAY], "discoveries": [3], "returns": [1]}
    assert numbers["returns_by_history"] == {"earlier_at_least": [0, 1], "discoveries": [2, 1], "returns": [0, 1]}
    row = {"known_place": True, "pois": 1, "users": 1}
    assert numbers["categories"] == [
        row | {"category": "home", "visits": 2, "return_share": 0.5},
        row | {"category": BAD_CATEGORY, "visits": 1, "return_share": 0.0},
        row | {"category": None, "visits": 1, "return_share": 0.0},
    ]
    assert numbers["modes"] == [2, 0, 1, 1]
    assert numbers["actions"] == [4]
    assert [(place["poi_id"], place["name"], place["visits"]) for place in numbers["top_places"]] == [
        ("a", "A", 2),
        ("b", BAD_NAME, 1),
        ("c", None, 1),
    ]


def test_figures_of_all_splits(tiny: Path) -> None:
    numbers, _ = report(tiny, "--split", "all")
    assert (numbers["num_events"], numbers["num_users"]) == (6, 2)
    assert numbers["distance_km"]["same_place"] == 1
    assert numbers["actions_per_user"]["users"] == [0, 1, 1]
    assert numbers["returns_by_time"] == {
        "days": 1,
        "start": [MONDAY, MONDAY + 24 * HOUR],
        "discoveries": [3, 0],
        "returns": [1, 1],
    }
    assert numbers["returns_by_history"]["returns"] == [0, 1, 1]
    assert numbers["categories"][0]["users"] == 1, "a user of two splits counts once"
    assert numbers["categories"][-1] == {
        "category": None,
        "known_place": False,
        "visits": 1,
        "pois": 0,
        "users": 1,
        "return_share": None,
    }


def test_splits_are_those_of_the_manifest_and_know_the_past(tiny: Path) -> None:
    numbers, _ = report(tiny)
    manifest = PreparedFolder(tiny).manifest
    for split, counts in manifest["counts"]["splits"].items():
        assert {name: numbers["splits"][split][name] for name in ("actions", "users")} == counts
    assert numbers["rejected"] == manifest["rejected"]
    shares = {name: split["return_share"] for name, split in numbers["splits"].items()}
    assert shares == {"train": 0.25, "validation": None, "test": 1.0}
    assert numbers["splits"]["validation"]["actions_at_unknown_pois"] == 1
    assert numbers["splits"]["test"]["first_time"] == MONDAY + 30 * HOUR


def test_cleaning_of_a_configuration(tiny: Path) -> None:
    numbers, page = report(tiny, "--config", CONFIGS / "corpus.yaml")
    counts = numbers["cleaning"]["counts"]
    assert numbers["cleaning"]["settings"]["min_actions"] == 4
    assert (counts["sequences_read"], counts["sequences_too_short"], counts["actions_too_short"]) == (2, 2, 4)
    assert "sequences: too short" in page


def test_cleaning_draws_with_the_seed_of_the_run(tmp_path: Path) -> None:
    alike = [user(one, [0] * 8, [MONDAY + HOUR * hour for hour in range(8)]) for one in range(1, 41)]
    folder = write_folder(tmp_path / "alike", {"train": alike})
    base, soft = tmp_path / "base.yaml", tmp_path / "soft.yaml"
    base.write_text(
        "run: {dir: run}\ndata: {path: data, num_lanes: 4, row_length: 64}\ntrain: {max_steps: 1, seed: 7}\n"
    )
    soft.write_text("data: {cleaning: {min_distinct_ratio: 0.25, soft_richness: true}}\n")
    numbers, _ = report(folder, "--config", base, "--config", soft)
    stream = open_stream(
        load_config([base, soft], [f"data.path={folder}"]), SpacetimeGRTokenizer.from_pretrained(folder / "tokenizer")
    )
    counts = survey(stream.makers).counts
    assert 0 < counts["sequences_low_distinct_ratio"] < 40
    assert numbers["cleaning"]["counts"]["sequences_low_distinct_ratio"] == counts["sequences_low_distinct_ratio"]


@pytest.mark.parametrize("seed", range(5))
def test_people_are_whole_and_no_event_is_lost(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    splits = {}
    for split in NAMES:
        hashes = np.sort(rng.choice(40, rng.integers(1, 30), replace=False))
        splits[split] = [
            user(int(one), rng.integers(-1, 3, num).tolist(), np.sort(rng.integers(0, 99, num)).tolist())
            for one, num in zip(hashes, rng.integers(1, 6, len(hashes)), strict=True)
        ]
    folder = write_folder(tmp_path / "folder", splits, users_per_row_group=int(rng.integers(1, 6)))
    wanted: dict[int, list[tuple[int, int]]] = {}
    for part, split in enumerate(NAMES):
        for one in splits[split]:
            wanted.setdefault(one["user_hash"], []).extend((time, part) for time in one["timestamp"])
    read: dict[int, list[tuple[int, int]]] = {}
    told: list[tuple[int, int]] = []
    for people in whole_people(PreparedFolder(folder), lambda done, total: told.append((done, total))):
        for number, one in enumerate(people.user_hash.tolist()):
            assert one not in read, "each person comes once"
            span = slice(people.offsets[number], people.offsets[number + 1])
            times, parts = people.columns["timestamp"][span].tolist(), people.columns["part"][span].tolist()
            read[one] = list(zip(times, parts, strict=True))
    assert read == {one: sorted(events) for one, events in wanted.items()}
    assert told[-1][0] == told[-1][1]


# ---------------------------------------------------------------- page


def test_the_page_needs_no_network_and_holds_no_markup_of_the_data(tiny: Path) -> None:
    numbers, page = report(tiny)
    assert not re.search(r"https?://|<link|@import|<img|<iframe|\bsrc=[\"']|url\(", page)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page
    assert "<b>.csv" not in page
    assert page.count("<script") == page.count("</script>") == 3, "two maps and the script"
    assert "missing time" in page
    assert f"{numbers['num_events']:,}" in page


def test_maps_hold_every_visit(tiny: Path) -> None:
    _, page = report(tiny)
    maps = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)]
    for drawn in maps:
        (visits,) = [column["values"] for column in drawn["columns"] if column["name"] == "visits"]
        assert sum(visits) == 4
        assert len(visits) == len(drawn["addresses"])


def test_a_folder_without_held_out_events(tmp_path: Path) -> None:
    numbers, page = report(write_folder(tmp_path / "train_only", {"train": SPLITS["train"]}), "--split", "all")
    assert numbers["splits"]["test"] == {"actions": 0, "users": 0, "actions_at_unknown_pois": 0}
    assert "nan" not in page.lower().replace("isnan", "")


# ---------------------------------------------------------------- errors


def test_errors(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert "no prepared folder" in refused("data-report", tmp_path / "nowhere", "--out", out)
    (tmp_path / "other").mkdir()
    assert "holds no manifest.json" in refused("data-report", tmp_path / "other", "--out", out)
    assert "is a folder" in refused("data-report", tiny, "--out", tmp_path / "other")
    no_train = write_folder(tmp_path / "no_train", {"train": [], "test": SPLITS["test"]})
    assert "no training events" in refused("data-report", no_train, "--out", out)
    shuffled = write_folder(tmp_path / "shuffled", SPLITS | {"train": SPLITS["train"][::-1]})
    assert "not in the order of user_hash" in refused("data-report", shuffled, "--out", out)
    millis = SPLITS | {"train": [user(10, [0], [MONDAY * 1000])]}
    assert "expected unix seconds" in refused("data-report", write_folder(tmp_path / "ms", millis), "--out", out)
    beyond = SPLITS | {"train": [user(10, [3], [MONDAY])]}
    assert "names POI row 3" in refused("data-report", write_folder(tmp_path / "beyond", beyond), "--out", out)
    shard = tiny / "test" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    message = refused("data-report", tiny, "--out", out)
    assert str(shard) in message
    assert "run" in message
    assert not out.exists()


def test_values_that_cannot_be_name_the_shard(tiny: Path, tmp_path: Path) -> None:
    def said(name: str, **columns: list[int]) -> str:
        wrong = user(10, [0, 1], [MONDAY, MONDAY + 1]) | columns
        return refused(
            "data-report", write_folder(tmp_path / name, SPLITS | {"train": [wrong]}), "--out", tmp_path / "o"
        )

    where = "row group 0 of .*part-00000.parquet"
    assert re.search(f"{where}: column 'action' holds 1, expected 0 to 0", said("action", action=[0, 1]))
    assert re.search(f"{where}: column 'mode' holds 3, expected -1 to 2", said("mode", mode=[0, 3]))
    assert re.search(f"{where}, row 0: timestamps fall", said("times", timestamp=[MONDAY, MONDAY - 1]))
    shard = tiny / "train" / "part-00000.parquet"
    pq.write_table(pq.read_table(shard).drop_columns("timestamp"), shard)
    assert "lacks the column 'timestamp'" in refused("data-report", tiny, "--out", tmp_path / "o")


def test_a_shard_that_holds_other_actions_than_the_manifest_says(tiny: Path, tmp_path: Path) -> None:
    manifest = json.loads((tiny / "manifest.json").read_text())
    manifest["files"][0]["actions"] += 1
    (tiny / "manifest.json").write_text(json.dumps(manifest))
    message = refused("data-report", tiny, "--out", tmp_path / "page.html")
    assert "holds 4 actions, its manifest says 5" in message
