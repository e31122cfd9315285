import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from spacetime_gr.cli.curriculum import curriculum
from spacetime_gr.cli.stream import stream
from tests.spacetime_gr.training.prepared_city import write_city

CONFIG = """run: {{dir: {run}}}
data:
  path: {city}
  num_lanes: 4
  row_length: 64
  blind_share: 0.5
  cleaning:
    min_actions: 12
    rules:
      - {{name: saving, behaviour: functional, actions: [save]}}
  curriculum: {{schedule: linear, ramp_end_tokens: 5000}}
train: {{max_steps: 40}}
"""


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_city(tmp_path_factory.mktemp("stream") / "city")


@pytest.fixture
def config(city: Path, tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(CONFIG.format(run=tmp_path / "run", city=city))
    return file


def invoke(command: object, *arguments: object) -> str:
    app = typer.Typer()
    app.command()(command)  # type: ignore[arg-type]
    given = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "200"}, catch_exceptions=False).stdout


def test_inspect_shows_the_rows_of_a_lane(city: Path, config: Path) -> None:
    text = invoke(stream, city, "--inspect", "--lane", 2, "--row", 30, "--num-rows", 2, "--config", config)
    assert re.findall(r"lane 2, row (\d+), multi-mode", text) == ["30", "31"]
    lines = [line.split("│")[1:-1] for line in text.splitlines() if line.startswith("│")]
    assert len(lines) > 10
    pois = pq.read_table(city / "pois.parquet")
    categories = dict(zip(pois["poi_id"].to_pylist(), pois["category"].to_pylist(), strict=True))
    for loss, time, mode, place, _, category, tile, action in ([cell.strip() for cell in line] for line in lines):
        assert loss == ("*" if action == "visit" else "")
        assert re.fullmatch(r"\w{3} 2012-\d\d-\d\d \d\d:\d\d( \(hidden\))?", time)
        assert mode in ("local", "in_trip")
        assert categories[place] == category
        assert re.fullmatch(r"\d+/\d+/\d+", tile)
    hidden = [line for line in lines if "hidden" in line[1]]
    assert hidden
    assert all("*" in line[0] for line in hidden)


def test_without_a_folder_the_rows_are_those_of_the_run(city: Path, config: Path, tmp_path: Path) -> None:
    other = write_city(tmp_path / "other", num_users=40)
    over = tmp_path / "over.yaml"
    over.write_text(f"data: {{path: [{city}, {other}]}}\n")
    shown = ["--inspect", "--lane", 1, "--num-rows", 6, "--config", config]
    alone, both = (invoke(stream, *arguments) for arguments in (shown, [*shown, "--config", over]))
    assert alone == invoke(stream, city, *shown)
    assert "lane 1, row 5" in both
    assert both != alone
    with pytest.raises(ValueError, match="nothing to read: give a prepared folder"):
        invoke(stream, "--inspect")


@pytest.mark.parametrize("name", ["a: b", "[1, 2]", "caf\u00e9 #3 \U0001f600"])
def test_a_folder_of_any_name_is_read(city: Path, config: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(city)
    assert "too_short" in invoke(stream, tmp_path / name, "--stats", "--config", config)


def test_several_configurations_are_laid_over_each_other(city: Path, config: Path, tmp_path: Path) -> None:
    over = tmp_path / "over.yaml"
    over.write_text("data: {num_lanes: 8, cleaning: {min_actions: 1}}\ntrain: {max_steps: 20}\n")
    assert "nothing dropped" in invoke(stream, city, "--stats", "--config", config, "--config", over)
    assert "lane 7, row 0" in invoke(stream, city, "--inspect", "--lane", 7, "--config", config, "--config", over)
    assert "18-19" in invoke(curriculum, "--config", config, "--config", over)


def test_a_split_that_the_folder_lacks_is_named(city: Path) -> None:
    with pytest.raises(ValueError, match=r"city: there is no test part; choose another split"):
        invoke(stream, city, "--stats", "--split", "test")


def test_a_lane_that_does_not_exist_is_named(city: Path, config: Path) -> None:
    with pytest.raises(ValueError, match=r"--lane 4: the stream has lanes 0 to 3"):
        invoke(stream, city, "--inspect", "--lane", 4, "--config", config)
    with pytest.raises(ValueError, match="choose one of --inspect"):
        invoke(stream, city)


def test_stats_count_what_is_dropped_and_decided(city: Path, config: Path) -> None:
    text = invoke(stream, city, "--stats", "--config", config, "--num-examples", 1)
    table = pq.read_table(city / "train" / "part-00000.parquet")
    lengths = pa.compute.list_value_length(table["action"]).to_pylist()
    short = [length for length in lengths if length < 12]
    kept = [user for user, length in zip(table["action"].to_pylist(), lengths, strict=True) if length >= 12]
    saved = sum(sum(user) for user in kept)
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert ["too_short", str(len(short)), str(sum(short)), f"{sum(short) / sum(lengths):.2%}"] in cells
    assert ["saving", "functional", str(saved), f"{saved / sum(map(len, kept)):.2%}"] in cells
    assert ["local", str(len(kept)), str(sum(map(len, kept))), "100.00%"] in cells
    assert "rows of a user who has another row: 0" in text
    assert "local: " in text


def test_curriculum_states_and_draws_what_a_run_will_do(city: Path, config: Path, tmp_path: Path) -> None:
    other = write_city(tmp_path / "other")
    corpora = f"data.path=[{{path: {city}, weight: 3}}, {other}]"
    text = invoke(curriculum, "--config", config, "--plot", tmp_path / "new" / "plan.png", "data.num_lanes=32", corpora)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]
    assert rows[0][:2] == ["0-3", f"{4 * 32 * 64:,}"]
    assert rows[-1][:4] == ["36-39", f"{40 * 32 * 64:,}", "100.0%", "100.0%"]
    asked = [float(row[2].rstrip("%")) for row in rows]
    assert asked == sorted(asked)
    assert all(abs(float(row[3].rstrip("%")) - share) < 12 for row, share in zip(rows, asked, strict=True))
    assert all(abs(float(row[4].rstrip("%")) - 75) < 15 for row in rows)
    assert (tmp_path / "new" / "plan.png").stat().st_size > 5_000


def test_curriculum_needs_an_end(config: Path) -> None:
    with pytest.raises(ValueError, match="--num-steps"):
        invoke(curriculum, "--config", config, "train.max_steps=null", "train.max_minutes=3")
