"""A ranker of a model's candidates: fitted with an early model, used with another."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import typer
from typer.testing import CliRunner

from spacetime_gr import POIIndex, SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.cli.cascade import cascade
from spacetime_gr.cli.evaluate import evaluate
from spacetime_gr.evaluation.cascade.early_model import EarlyModel
from spacetime_gr.evaluation.cascade.ranked_model import RankedModel
from spacetime_gr.evaluation.cascade.recall import LIMITS, MODEL_LIMITS
from spacetime_gr.evaluation.cascade.scorer import load_cascade
from spacetime_gr.evaluation.events import TEST, TRAIN, EventLog
from spacetime_gr.evaluation.inner_split import inner_instances
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.model_scorer import load_scorer
from spacetime_gr.evaluation.protocols import time_split
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.evaluation.cascade.extra import needs_extra
from tests.spacetime_gr.evaluation.folders import PreparedFolder, write_folder
from tests.spacetime_gr.evaluation.logs import random_log

pytestmark = needs_extra
NUM_POIS = 40
LOG = random_log(seed=3, num_events=1500, num_users=20, num_pois=NUM_POIS)
POIS = make_pois(num_pois=NUM_POIS)
# Where each place of the early folder stands in the other.
EARLY_ORDER = np.random.default_rng(1).permutation(NUM_POIS)


def early_log() -> EventLog:
    """The training events, of which those after 55 % are held out, with places in another order."""
    log = LOG.select(LOG.split == TRAIN)
    moment = np.quantile(log.timestamp, 0.55)
    place = np.append(np.argsort(EARLY_ORDER), -1)[log.poi_row]
    return replace(log, split=np.where(log.timestamp < moment, TRAIN, TEST).astype(np.int8), poi_row=place)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `data` and `early`, and untrained models `run` and `early-run` of them."""
    home = tmp_path_factory.mktemp("ranked")
    for name, log, pois in (("", LOG, POIS), ("early", early_log(), POIS.take(pa.array(EARLY_ORDER)))):
        write_folder(home / (name or "data"), log, pois=pois)
        index = POIIndex.build(pois, max_pois_per_block=8)
        tokenizer = SpacetimeGRTokenizer(index=index, actions=["check-in"])
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128}
        model = SpacetimeGRForCausalLM(SpacetimeGRConfig(**tokenizer.config_kwargs(), **sizes, context_actions=12))
        model.load_places(index)
        export = home / (f"{name}-run" if name else "run") / "export"
        model.save_pretrained(export)
        tokenizer.save_pretrained(export)
    return home


def command(function: Any, *arguments: object) -> str:
    app = typer.Typer()
    app.command()(function)
    texts = [str(argument) for argument in arguments]
    return CliRunner().invoke(app, texts, env={"COLUMNS": "160"}, catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def ranker(home: Path) -> Path:
    out = home / "ranker"
    early = ("--early-model", home / "early-run", "--early-data", home / "early")
    shown = command(cascade, home / "data", "--out", out, "--protocol", "time_split", *early)
    assert "model_new" in shown
    return out


def instances_of(home: Path) -> Instances:
    return build_instances(time_split(EventLog.from_folder(PreparedFolder(home / "data"))))


def test_an_early_model_answers_in_the_places_of_the_other_folder(home: Path) -> None:
    folder, early = PreparedFolder(home / "data"), PreparedFolder(home / "early")
    model = EarlyModel(home / "early-run", early, folder, blind=False)
    log = LOG.select(LOG.split == TRAIN)
    window = (model.until, int(log.timestamp.max()) + 1)
    found = model(inner_instances(log, window, time_split).take(slice(0, 20)))
    scorer = load_scorer(home / "early-run", early, context_actions=12, batch_size=8, blind=False)
    expected = scorer(inner_instances(early_log(), window, time_split).take(slice(0, 20)))[0]
    np.testing.assert_array_equal(found[:, EARLY_ORDER], expected)
    before = inner_instances(log, (model.until - 100_000, model.until), time_split)
    with pytest.raises(ValueError, match="up to which the early model was trained"):
        model(before)


def test_folders_that_do_not_belong_together_are_refused(home: Path, tmp_path: Path) -> None:
    folder = PreparedFolder(home / "data")

    def message(early: PreparedFolder) -> str:
        with pytest.raises(ValueError, match="prepare") as error:
            EarlyModel(home / "early-run", early, folder, blind=False)
        return str(error.value)

    pois = POIS.take(pa.array(EARLY_ORDER))
    assert "different SPACETIME_GR_USER_KEY" in message(
        write_folder(tmp_path / "key", early_log(), pois=pois, user_key="another")
    )
    some = early_log()
    few = replace(some, poi_row=np.minimum(some.poi_row, 29), num_pois=30)
    assert "lacks 10 of the 40 places" in message(write_folder(tmp_path / "few", few, pois=pois.slice(0, 30)))
    whole = replace(some, split=np.zeros_like(some.split))
    assert "is not cut by time" in message(write_folder(tmp_path / "whole", whole, pois=pois))


def test_scores_are_log_probabilities_and_the_knob_multiplies_odds(
    home: Path, ranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limits in (LIMITS, MODEL_LIMITS):
        for channel in limits:
            monkeypatch.setitem(limits, channel, 4)  # of 40 places, so that not all are candidates
    folder = PreparedFolder(home / "data")
    instances = instances_of(home).take(slice(0, 60))
    model = load_scorer(home / "run", folder, context_actions=12, batch_size=8, blind=False)
    stored = load_cascade(ranker, folder, "timed", with_model=True)
    one, four = np.exp(RankedModel(stored, model, (1.0, 4.0))(instances))
    np.testing.assert_allclose([one.sum(axis=1), four.sum(axis=1)], 1)
    visited = np.zeros(one.shape, bool)
    visited[instances.visited()] = True
    new, new_at_four = one.sum(axis=1, where=~visited), four.sum(axis=1, where=~visited)
    np.testing.assert_allclose(new_at_four / (1 - new_at_four), 4 * new / (1 - new), rtol=1e-6)
    # Candidates stand in the ranker's order, those visited and those new apart; the others in the model's.
    scores = model(instances)[0]
    for rows, requests in stored.requests(instances, scores):
        found, fine = stored.rank(requests)
        first = found.final.row == 0
        candidates = found.final.poi[first]
        for part in (visited[rows][0], ~visited[rows][0]):
            given = one[rows][0][candidates[part[candidates]]]
            assert (np.diff(given[np.argsort(fine[first][part[candidates]])]) >= 0).all()
        others = np.setdiff1d(np.flatnonzero(~visited[rows][0]), candidates)
        assert (np.diff(one[rows][0][others][np.argsort(scores[rows][0][others])]) >= 0).all()


def test_no_score_sees_the_target_or_what_comes_after(home: Path, ranker: Path) -> None:
    folder = PreparedFolder(home / "data")
    instances, rng = instances_of(home), np.random.default_rng(0)
    model = load_scorer(home / "run", folder, context_actions=12, batch_size=8, blind=False)
    stored = load_cascade(ranker, folder, "timed", with_model=True)
    for position in (0, len(instances) - 1):
        one = instances.take(np.array([position]))
        later = one.log.timestamp >= one.target_time[0]
        redrawn = np.where(later, rng.integers(0, NUM_POIS, len(later)), one.log.poi_row)
        moved = replace(one, log=replace(one.log, poi_row=redrawn))
        np.testing.assert_array_equal(RankedModel(stored, model)(moved), RankedModel(stored, model)(one))


def test_evaluate_ranks_with_it(home: Path, ranker: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    asked = ("--data", home / "data", "--protocol", "time_split", "--no-counters", "--json", out)
    shown = command(evaluate, home / "run", *asked, "--ranker", ranker, "--explore-odds", 1, "--explore-odds", 16)
    assert "time_split, stream, timed, ranked" in shown
    ranked = json.loads(out.read_text(encoding="utf-8"))
    assert ranked["asked"]["ranker"] is not None
    few, many = (setting["discovery_rate"]["slots"] for setting in ranked["explore_curve"])
    assert few < many
    command(evaluate, home / "run", *asked)
    alone = json.loads(out.read_text(encoding="utf-8"))
    # The models are untrained; the ranker knows who goes where.
    assert ranked["metrics"]["hr@10"] > alone["metrics"]["hr@10"] + 0.05
    assert ranked["nll_nats"] < alone["nll_nats"]


def test_a_ranker_and_a_cascade_are_not_mistaken(home: Path, ranker: Path, tmp_path: Path) -> None:
    asked = ("--data", home / "data", "--protocol", "time_split")
    with pytest.raises(ValueError, match="give it as --ranker, beside a RUN"):
        command(evaluate, "--baselines-only", *asked, "--cascade", ranker)
    with pytest.raises(ValueError, match="--ranker orders the candidates of a RUN"):
        command(evaluate, "--baselines-only", *asked, "--ranker", ranker)
    with pytest.raises(ValueError, match="leave --renew-days out"):
        command(evaluate, home / "run", *asked, "--ranker", ranker, "--renew-days", 7)
    with pytest.raises(ValueError, match="belong together"):
        command(cascade, home / "data", "--out", tmp_path, "--early-model", home / "early-run")
    command(cascade, home / "data", "--out", tmp_path / "plain", "--protocol", "time_split")
    with pytest.raises(ValueError, match="was fitted without a model"):
        command(evaluate, home / "run", *asked, "--ranker", tmp_path / "plain")
