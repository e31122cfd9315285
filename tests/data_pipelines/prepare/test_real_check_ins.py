"""Counts on public check-ins, where they are at hand (SPACETIME_GR_DATA, else ../shared/data beside the repository)."""

import os
from pathlib import Path

import pytest

from data_pipelines.prepare import prepare_folder

DATA = Path(os.environ.get("SPACETIME_GR_DATA", Path(__file__).parents[4] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no check-ins at {DATA}")

NEW_YORK = "nyc_foursquare"


@pytest.mark.parametrize(
    ("source", "format", "rejected", "splits", "users", "pois"),
    [
        (
            f"{NEW_YORK}/dataset_TSMC2014_NYC.txt.gz",
            "foursquare",
            {"duplicate": 250},
            [181_742, 22_718, 22_718],
            1_083,
            34_025,
        ),
        (f"{NEW_YORK}/splits/getnext", "getnext", {}, [84_299, 10_339, 10_374], 1_075, 4_980),
        (f"{NEW_YORK}/splits/lessismore", "lessismore", {}, [56_711, 0, 56_633], 1_082, 4_561),
        ("tky_foursquare_partial", "tables", {"missing coordinates": 26_840}, [65_197, 8_151, 8_150], 2_100, 940),
        ("foursquare_calgary/checkins.csv.gz", "tables", {}, [7_453, 932, 932], 130, 598),
    ],
)
def test_counts(
    tmp_path: Path, source: str, format: str, rejected: dict[str, int], splits: list[int], users: int, pois: int
) -> None:
    folder = prepare_folder(DATA / source, format, tmp_path / "out", key="k").folder
    counts = folder.manifest["counts"]
    assert folder.manifest["rejected"] == rejected
    assert [counts["splits"][name]["actions"] for name in ("train", "validation", "test")] == splits
    assert (counts["users"], counts["pois"]) == (users, pois)
    assert counts["rows_read"] == counts["actions"] + counts["rows_rejected"]
    assert folder.read("train").num_rows == counts["splits"]["train"]["users"]
