"""The simulate sub-command: options reach the settings, and its help names them all."""

import json
import re
from pathlib import Path

import typer
from typer.testing import CliRunner

from data_pipelines.simulator import CitySettings
from spacetime_gr.cli.simulate import simulate

app = typer.Typer()
app.command()(simulate)


def test_writes_a_city_with_the_default_settings(tmp_path: Path) -> None:
    out = tmp_path / "city"
    arguments = ["--out", str(out), "--num-users", "20", "--num-pois", "60", "--num-events", "500", "--seed", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "", "reports go to stderr"
    settings = json.loads((out / "truth.json").read_text())["settings"]
    assert CitySettings(**settings) == CitySettings(num_users=20, num_pois=60, num_events=500, seed=4)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "city").write_text("")
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "city")])
    assert "city is a file; choose a folder" in str(result.exception)


def test_the_readme_names_places_of_the_default_city() -> None:
    text = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bp\d+\b", text))
    settings = CitySettings()
    assert named
    assert named <= {f"p{number:0{len(str(settings.num_pois - 1))}}" for number in range(settings.num_pois)}


def test_a_bad_setting_is_a_user_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--out", str(tmp_path), "--num-pois", "3"])
    assert isinstance(result.exception, ValueError)
    assert "num_pois" in str(result.exception)
