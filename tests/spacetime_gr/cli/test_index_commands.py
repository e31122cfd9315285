"""index-plan and index-report, from a table or a prepared folder to the choice and to the page."""

import json
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from spacetime_gr import POIIndex, SpacetimeGRTokenizer
from spacetime_gr.cli.main import app
from spacetime_gr.reports import index_page
from tests.spacetime_gr.conftest import make_pois


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """What index-plan and index-report read of a prepared folder."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    pq.write_table(make_pois(), folder / "pois.parquet")
    index = POIIndex.build(make_pois(), max_pois_per_block=8)
    SpacetimeGRTokenizer(index=index, actions=["click"]).save_pretrained(folder / "tokenizer")
    return folder


# ---------------------------------------------------------------- index-plan


def test_plan_of_a_folder_and_of_a_file(prepared: Path, tmp_path: Path) -> None:
    plan_file = tmp_path / "plan.json"
    told = run("index-plan", prepared, "--smallest", "8", "--num-actions", "3", "--json", plan_file)
    plan = json.loads(plan_file.read_text())
    assert (plan["num_pois"], plan["max_pois_per_block"], plan["num_actions"]) == (120, 8, 3)
    assert "--max-pois-per-block 8" in told
    index = POIIndex.build(prepared / "pois.parquet", max_pois_per_block=8)
    (chosen,) = [bound for bound in plan["bounds"] if bound["max_pois_per_block"] == 8]
    assert chosen["num_blocks"] == index.num_blocks
    assert f"{index.block_capacity:,} block ids + 8 inner ids + 514 others" in told
    again = run("index-plan", prepared / "pois.parquet", "--smallest", "8", "--bound", "5", "--bound", "20")
    assert [line.split("│")[1].strip() for line in again.splitlines() if "│" in line] == ["5", "8", "20"]


def test_plan_leaves_bad_rows_out_on_request(tmp_path: Path) -> None:
    pois = make_pois()
    latitude = pois["latitude"].to_numpy().copy()
    latitude[3] = np.nan
    path = tmp_path / "pois.parquet"
    pq.write_table(pois.set_column(1, "latitude", pa.array(latitude)), path)
    assert "1 rows are bad" in refused("index-plan", path)
    assert "1 bad rows left out" in run("index-plan", path, "--quarantine")


def test_plan_errors(prepared: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused("index-plan", tmp_path / "nowhere")
    message = refused("index-plan", prepared, "--vocabulary-budget", "530")
    assert "do not fit a vocabulary of 530" in message
    assert "raise the budget" in message
    assert "expected more than 513" in refused("index-plan", prepared, "--vocabulary-budget", "100")
    path = tmp_path / "no_longitude.parquet"
    pq.write_table(make_pois().drop_columns("longitude"), path)
    assert "no column 'longitude'" in refused("index-plan", path)


# ---------------------------------------------------------------- index-report


def size_of_png(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def test_report_of_a_prepared_folder(prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "report"
    told = run("index-report", prepared, "--out", out, "--title", "Places of <A & B>", "--verify")
    numbers = json.loads((out / "index.json").read_text())
    index = POIIndex.load(prepared / "tokenizer" / "poi_index")
    assert numbers["sizes"]["num_blocks"] == index.num_blocks
    assert f"120 POIs in {index.num_blocks} quadtree blocks" in told
    width, height = size_of_png(out / "blocks.png")
    assert 0.3 < height / width < 1.6
    page = (out / "index.html").read_text()
    for sign in ("<script src", "<link", "@import", "http://", "https://"):
        assert sign not in page, "nothing is fetched"
    assert "Places of &lt;A &amp; B&gt;" in page
    assert "<img" not in page
    addresses = index.block_addresses()
    assert all(f'"{address}"' in page for address in addresses)


def test_many_blocks_are_drawn_together(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_page, "MAX_CELLS", 10)
    run("index-report", prepared, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    num_blocks = POIIndex.load(prepared / "tokenizer" / "poi_index").num_blocks
    assert f"The deepest of {num_blocks} blocks are drawn together" in page


def test_the_report_finds_the_index_of_a_model_a_run_and_itself(prepared: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (prepared / "tokenizer").rename(model)
    run("index-report", model, "--out", tmp_path / "of_model")
    run("index-report", model / "poi_index", "--out", tmp_path / "of_index", "--title", "POI index of model")
    (tmp_path / "run").mkdir()
    model.rename(tmp_path / "run" / "export")
    run("index-report", tmp_path / "run", "--out", tmp_path / "of_run", "--title", "POI index of model")
    for name in ("index.json", "blocks.png", "index.html"):
        first = (tmp_path / "of_model" / name).read_bytes()
        assert first == (tmp_path / "of_index" / name).read_bytes() == (tmp_path / "of_run" / name).read_bytes()


WORLD = {
    "one place": ([40.0], [-74.0]),
    "one point, many places": ([40.0] * 9, [-74.0] * 9),
    "both sides of the antimeridian": ([-17.0, -17.1, -17.2, -16.9], [179.9, -179.9, 179.7, -179.6]),
    "the poles": ([90.0, -90.0, 89.9, -89.9], [0.0, 10.0, 100.0, -100.0]),
}


@pytest.mark.parametrize("scheme", ["quadtree", "grid"])
@pytest.mark.parametrize("case", WORLD)
def test_odd_worlds_without_visits_or_categories(tmp_path: Path, case: str, scheme: str) -> None:
    latitude, longitude = WORLD[case]
    ids = [f"p{i}" for i in range(len(latitude))]
    pois = pa.table({"poi_id": ids, "latitude": latitude, "longitude": longitude})
    POIIndex.build(pois, scheme=scheme, max_pois_per_block=2).save(tmp_path / "index")
    run("index-report", tmp_path / "index", "--out", tmp_path / "report")
    width, height = size_of_png(tmp_path / "report" / "blocks.png")
    assert 0.3 < height / width < 1.6
    assert "knows no training visits" in (tmp_path / "report" / "index.html").read_text()


def test_report_errors(prepared: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused("index-report", tmp_path / "nowhere", "--out", tmp_path / "report")
    (tmp_path / "empty").mkdir()
    assert "no POI index in" in refused("index-report", tmp_path / "empty", "--out", tmp_path / "report")
    index = prepared / "tokenizer" / "poi_index"
    assert "would replace" in refused("index-report", prepared, "--out", index)
    assert not (tmp_path / "report").exists()
    POIIndex.load(index, verify=True)
    (next(index.glob("base-*")) / "visits.npy").write_bytes(b"damage")
    assert "checksum differs" in refused("index-report", prepared, "--out", tmp_path / "report", "--verify")
