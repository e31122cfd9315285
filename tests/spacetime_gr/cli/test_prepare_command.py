"""The prepare command, from raw rows to a folder with its tokenizer."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from data_pipelines import PreparedFolder
from data_pipelines.prepare.users import KEY_VARIABLE
from spacetime_gr import SpacetimeGRTokenizer
from spacetime_gr.cli.main import app
from tests.data_pipelines.prepare.cities import event_table, write


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_folder_holds_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    write(event_table(), tmp_path / "in")
    common = ["--source", tmp_path / "in", "--format", "tables", "--max-pois-per-block", "8"]
    told = run(*common, "--out", tmp_path / "out")
    assert KEY_VARIABLE in told
    assert "train" in told
    folder = PreparedFolder(tmp_path / "out")
    assert f"{folder.pois().num_rows:,} POIs" in told
    tokenizer = SpacetimeGRTokenizer.from_pretrained(folder.tokenizer_path)
    assert tokenizer.actions == folder.actions
    assert tokenizer.index.num_pois == folder.pois().num_rows
    assert tokenizer.index.num_inner <= 8
    assert "already prepared" in run(*common, "--out", tmp_path / "out")
    run(*common, "--out", tmp_path / "grid", "--scheme", "grid", "--latest-time", "2030-01-01")
    monkeypatch.setenv(KEY_VARIABLE, "secret")
    assert KEY_VARIABLE not in run(*common, "--out", tmp_path / "keyed")


def test_wrong_sizes_are_refused_before_any_work(tmp_path: Path) -> None:
    common = ["prepare", "--source", str(tmp_path), "--format", "tables", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*common, "--scheme", "grid", "--cell-km", "-1"])
    assert "--cell-km is -1; expected" in str(result.exception)
    assert CliRunner().invoke(app, [*common, "--max-pois-per-block", "0"]).exit_code == 2


def test_names_are_no_markup(tmp_path: Path) -> None:
    folder = tmp_path / "[/bold]"
    write(event_table(), folder / "in")
    told = run("--source", folder / "in", "--format", "tables", "--out", folder / "out")
    assert "[/bold]" in told
    again = run("--source", folder / "in", "--format", "tables", "--out", folder / "out")
    assert f"already prepared: {folder / 'out'}" in again


def test_another_engine_is_refused_by_name(tmp_path: Path) -> None:
    arguments = ["prepare", "--source", "x", "--format", "tables", "--out", str(tmp_path / "out"), "--engine", "flink"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "duckdb" in result.output
