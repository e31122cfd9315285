import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spacetime_gr.cli.evaluate import evaluate
from tests.spacetime_gr.evaluation.folders import write_folder
from tests.spacetime_gr.evaluation.logs import random_log


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(evaluate)
    return app


def test_counters_alone(app: typer.Typer, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", random_log(seed=7))
    out = tmp_path / "new" / "result.json"
    arguments = ["--baselines-only", "--data", str(tmp_path / "data"), "--protocol", "time_split", "--json", str(out)]
    outcome = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}, catch_exceptions=False)
    assert outcome.exit_code == 0
    result = json.loads(out.read_text(encoding="utf-8"))
    assert f"{result['baselines']['visits_stream']['hr@10']:.4f}" in outcome.stdout
    assert f"{result['num_discoveries']}┃" in outcome.stdout  # the head of the column of discoveries


def test_reuse_of_a_damaged_result_is_refused_by_name(app: typer.Typer, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", random_log(seed=7))
    out = tmp_path / "result.json"
    out.write_text('{"metrics": ')
    arguments = ["--baselines-only", "--data", str(tmp_path / "data"), "--json", str(out), "--reuse"]
    with pytest.raises(ValueError, match=r"result\.json is not readable JSON"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_a_missing_truth_is_named(app: typer.Typer, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", random_log(seed=7))
    arguments = ["--baselines-only", "--data", str(tmp_path / "data"), "--truth", str(tmp_path / "none.json")]
    with pytest.raises(ValueError, match=r"--truth .*none\.json does not exist"):
        CliRunner().invoke(app, [*arguments, "--protocol", "time_split"], catch_exceptions=False)


def test_blind_leaves_the_hour_out(app: typer.Typer, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", random_log(seed=7))
    arguments = ["--baselines-only", "--data", str(tmp_path / "data"), "--protocol", "time_split", "--setting", "blind"]
    outcome = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}, catch_exceptions=False)
    assert "user_hour" not in outcome.stdout
    assert "markov" in outcome.stdout


def test_run_or_baselines(app: typer.Typer, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", random_log(seed=7))
    data = ["--data", str(tmp_path / "data")]
    with pytest.raises(ValueError, match="--baselines-only"):
        CliRunner().invoke(app, data, catch_exceptions=False)
    with pytest.raises(ValueError, match="no exported model in"):
        CliRunner().invoke(app, [str(tmp_path / "run"), *data, "--protocol", "time_split"], catch_exceptions=False)
