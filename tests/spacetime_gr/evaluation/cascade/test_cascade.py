"""The whole cascade on a small city: fitted once, then asked about."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from spacetime_gr.cli.cascade import cascade
from spacetime_gr.cli.evaluate import evaluate
from spacetime_gr.evaluation.cascade import fitting
from spacetime_gr.evaluation.cascade.scorer import load_cascade
from spacetime_gr.evaluation.events import TRAIN, EventLog
from spacetime_gr.evaluation.instances import build_instances
from spacetime_gr.evaluation.protocols import time_split
from tests.spacetime_gr.evaluation.cascade.extra import needs_extra
from tests.spacetime_gr.evaluation.folders import PreparedFolder, write_folder
from tests.spacetime_gr.evaluation.logs import random_log

pytestmark = needs_extra
LOG = random_log(seed=3, num_events=1500, num_users=20, num_pois=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PreparedFolder:
    return write_folder(tmp_path_factory.mktemp("city") / "data", LOG)


@pytest.fixture(scope="module")
def fitted(folder: PreparedFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command itself, so that the tests see what it writes."""
    out = tmp_path_factory.mktemp("fitted") / "cascade"
    app = typer.Typer()
    app.command()(cascade)
    arguments = [str(folder.path), "--out", str(out), "--protocol", "time_split"]
    outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0
    assert "to the coarse ranker" in outcome.stdout
    return out


def test_every_place_has_a_score_and_a_stored_cascade_gives_the_same(folder: PreparedFolder, fitted: Path) -> None:
    instances = build_instances(time_split(EventLog.from_folder(folder)))
    stored = load_cascade(fitted, folder, "timed")
    scores = stored(instances)
    assert scores.shape == (len(instances), 40)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, load_cascade(fitted, folder, "timed")(instances))
    # In any order and any company an instance scores the same.
    some = np.array([5, 2, 9])
    np.testing.assert_allclose(stored(instances.take(some)), scores[some], rtol=1e-6)


def test_scores_do_not_see_the_target_or_what_comes_after(folder: PreparedFolder, fitted: Path) -> None:
    instances = build_instances(time_split(EventLog.from_folder(folder)))
    stored, rng = load_cascade(fitted, folder, "timed"), np.random.default_rng(0)
    for position in (0, len(instances) // 2, len(instances) - 1):
        one = instances.take(np.array([position]))
        later = one.log.timestamp >= one.target_time[0]
        redrawn = np.where(later, rng.integers(0, 40, len(later)), one.log.poi_row)
        scores = stored(replace(one, log=replace(one.log, poi_row=redrawn)))
        np.testing.assert_array_equal(scores, stored(one))


def test_the_held_out_events_are_not_opened(folder: PreparedFolder, fitted: Path, tmp_path: Path) -> None:
    """Other places in the held-out part: the same seed writes the same files, but for the fingerprint of the data."""
    moved = replace(LOG, poi_row=np.where(LOG.split == TRAIN, LOG.poi_row, (LOG.poi_row + 7) % 40))
    other = fitting.fit_cascade(write_folder(tmp_path / "data", moved), protocol="time_split", report=lambda line: None)
    other.save(tmp_path / "cascade")
    assert (tmp_path / "cascade" / "fine-2.txt").read_bytes() == (fitted / "fine-2.txt").read_bytes()
    one, two = (json.loads((path / "cascade.json").read_text()) for path in (fitted, tmp_path / "cascade"))
    one.pop("data_fingerprint")
    two.pop("data_fingerprint")
    assert one == two
    assert "\nobjective=lambdarank\n" in (fitted / "fine-0.txt").read_text(encoding="utf-8")
    assert [point["num_leaves"] for point in one["grid_on_validation"]] == [p["num_leaves"] for p in fitting.GRID]
    first, last = (one["recall_on_validation"][f"to the {ranker} ranker"]["all"] for ranker in ("coarse", "fine"))
    assert first >= last


def test_evaluate_shows_it_beside_the_counters(folder: PreparedFolder, fitted: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(evaluate)
    out = tmp_path / "result.json"
    arguments = ["--baselines-only", "--data", str(folder.path), "--protocol", "time_split", "--json", str(out)]
    outcome = CliRunner().invoke(
        app, [*arguments, "--cascade", str(fitted)], env={"COLUMNS": "160"}, catch_exceptions=False
    )
    assert "cascade" in outcome.stdout
    result = json.loads(out.read_text(encoding="utf-8"))
    # Four of ten places are a user's own: the city rewards memory, and the cascade has it.
    assert result["baselines"]["cascade"]["hr@10"] > 0.9 * result["baselines"]["visits_stream"]["hr@10"]
    with pytest.raises(ValueError, match="was fitted timed, --setting is blind"):
        CliRunner().invoke(app, [*arguments, "--cascade", str(fitted), "--setting", "blind"], catch_exceptions=False)


def test_other_data_and_damage_are_named(folder: PreparedFolder, fitted: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other", random_log(seed=8))
    with pytest.raises(ValueError, match="was fitted on another prepared folder"):
        load_cascade(fitted, other, "timed")
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in fitted.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "place_factors.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="is damaged"):
        load_cascade(copy, folder, "timed")
    (copy / "cascade.json").write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"cascade\.json is damaged"):
        load_cascade(copy, folder, "timed")
    (copy / "fine-1.txt").unlink()
    with pytest.raises(ValueError, match=r"holds no fine-1\.txt"):
        load_cascade(copy, folder, "timed")
