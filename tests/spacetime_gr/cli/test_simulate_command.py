"""The simulate sub-command: options reach the settings, and its help names them all."""

import json
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


def test_a_bad_setting_is_a_user_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--out", str(tmp_path), "--num-pois", "3"])
    assert isinstance(result.exception, ValueError)
    assert "num_pois" in str(result.exception)
