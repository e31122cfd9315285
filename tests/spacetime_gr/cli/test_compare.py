import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spacetime_gr.cli.compare import compare
from spacetime_gr.cli.evaluate import evaluate
from spacetime_gr.cli.number_lists import NumberListCommand
from tests.spacetime_gr.evaluation.folders import write_folder
from tests.spacetime_gr.evaluation.logs import random_log


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    app = typer.Typer()
    for command in (evaluate, compare):
        app.command(cls=NumberListCommand)(command)
    return app


@pytest.fixture(scope="module")
def results(app: typer.Typer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counters of two simulated folders."""
    out = tmp_path_factory.mktemp("compare")
    for seed in (7, 8):
        write_folder(out / f"data-{seed}", random_log(seed=seed, num_users=seed))
        arguments = ["evaluate", "--baselines-only", "--data", str(out / f"data-{seed}"), "--protocol", "time_split"]
        arguments += ["--resamples", "50", "--json", str(out / f"city-{seed}.json")]
        assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    return out


def test_a_table_with_tests(app: typer.Typer, results: Path) -> None:
    arguments = ["compare", str(results / "city-7.json"), "--resamples", "200", "--against", "markov"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"}, catch_exceptions=False).stdout
    result = json.loads((results / "city-7.json").read_text())
    assert f"{result['baselines']['visits_stream']['hr@10']:.4f}" in shown
    assert "difference from markov" in shown
    assert "200 paired bootstrap resamples of users, seed 0" in shown


def test_markdown_says_what_cannot_be_compared(app: typer.Typer, results: Path) -> None:
    arguments = ["compare", str(results / "city-7.json"), str(results / "city-8.json"), "--markdown"]
    shown = CliRunner().invoke(app, [*arguments, "--resamples", "50"], catch_exceptions=False).stdout
    result = json.loads((results / "city-7.json").read_text())
    figure = f"{result['baselines']['markov']['mrr']:.4f}".removeprefix("0")
    row = next(line for line in shown.splitlines() if line.startswith("| markov |"))
    assert figure in row
    assert "is not comparable with popularity: data fingerprint " in shown


def test_counters_without_counters_are_refused(app: typer.Typer, results: Path) -> None:
    with pytest.raises(ValueError, match=r"city-7\.json holds counters only"):
        CliRunner().invoke(app, ["compare", str(results / "city-7.json"), "--no-counters"], catch_exceptions=False)


def test_an_unknown_reference_is_refused(app: typer.Typer, results: Path) -> None:
    with pytest.raises(ValueError, match="--against 'nobody' is none of the rows: popularity, "):
        CliRunner().invoke(
            app, ["compare", str(results / "city-7.json"), "--against", "nobody"], catch_exceptions=False
        )
