import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spacetime_gr.cli.evaluate import evaluate
from spacetime_gr.cli.number_lists import NumberListCommand
from tests.spacetime_gr.evaluation.folders import write_folder
from tests.spacetime_gr.evaluation.logs import random_log


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command(cls=NumberListCommand)(evaluate)
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


def test_several_numbers_in_one_go_and_again(app: typer.Typer, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", random_log(seed=7))
    out = tmp_path / "result.json"
    arguments = [
        "--discovery-k",
        "3",
        "1",
        "--discovery-days",
        "7",
        "2.5",
        "--baselines-only",
        "--discovery-days",
        "1e2",
    ]
    arguments += ["--data", str(tmp_path / "data"), "--protocol", "time_split", "--json", str(out), "--reuse"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    rate = json.loads(out.read_text(encoding="utf-8"))["discovery_rate"]
    assert (rate["k"], rate["days"]) == (3, 7)
    assert (rate["grid"]["k"], rate["grid"]["days"]) == ([3, 1], [7.0, 2.5, 100.0])
    written = out.stat().st_mtime_ns, out.with_suffix(".parquet").stat().st_mtime_ns
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "already evaluated" in outcome.stderr
    assert written == (out.stat().st_mtime_ns, out.with_suffix(".parquet").stat().st_mtime_ns)
    out.with_suffix(".parquet").unlink()
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert out.with_suffix(".parquet").is_file()


def test_reuse_of_a_damaged_result_is_refused_by_name(app: typer.Typer, tmp_path: Path) -> None:
    write_folder(tmp_path / "data", random_log(seed=7))
    out = tmp_path / "result.json"
    out.write_text('{"metrics": ')
    out.with_suffix(".parquet").touch()
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
