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
NUM_POIS, EARLY_POIS = 40, 43
LOG = random_log(seed=3, num_events=1500, num_users=20, num_pois=NUM_POIS)
# The early folder lists a few places more than the other, in another order: place j there is EARLY_ORDER[j] of these.
ALL_POIS = make_pois(num_pois=EARLY_POIS)
POIS = ALL_POIS.slice(0, NUM_POIS)
EARLY_ORDER = np.random.default_rng(1).permutation(EARLY_POIS)


def early_log() -> EventLog:
    """The training events, of which those after 55 % are held out, with the places of the early folder."""
    log = LOG.select(LOG.split == TRAIN)
    moment = np.quantile(log.timestamp, 0.55)
    place = np.append(np.argsort(EARLY_ORDER), -1)[log.poi_row]
    split = np.where(log.timestamp < moment, TRAIN, TEST).astype(np.int8)
    return replace(log, split=split, poi_row=place, num_pois=EARLY_POIS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `data` and `early`, and untrained models `run` and `early-run` of them."""
    home = tmp_path_factory.mktemp("ranked")
    for name, log, pois in (("", LOG, POIS), ("early", early_log(), ALL_POIS.take(pa.array(EARLY_ORDER)))):
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
    listed = EARLY_ORDER < NUM_POIS
    expected = expected[:, listed] - np.log(np.exp(expected[:, listed]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found[:, EARLY_ORDER[listed]], expected, rtol=1e-9)
    before = inner_instances(log, (model.until - 100_000, model.until), time_split)
    with pytest.raises(ValueError, match="up to which the early model was trained"):
        model(before)


def test_folders_that_do_not_belong_together_are_refused(home: Path, tmp_path: Path) -> None:
    folder = PreparedFolder(home / "data")

    def message(early: PreparedFolder) -> str:
        with pytest.raises(ValueError, match="prepare") as error:
            EarlyModel(home / "early-run", early, folder, blind=False)
        return str(error.value)

    pois = ALL_POIS.take(pa.array(EARLY_ORDER))
    other_key = write_folder(tmp_path / "key", early_log(), pois=pois, user_key_fingerprint="another")
    assert "different SPACETIME_GR_USER_KEY" in message(other_key)
    alike = write_folder(tmp_path / "like", early_log(), pois=pois, like="a fingerprint")
    assert "was prepared --like another folder" in message(alike)
    some = early_log()
    few = replace(some, poi_row=np.minimum(some.poi_row, 29), num_pois=30)
    assert "of the 40 places of" in message(write_folder(tmp_path / "few", few, pois=pois.slice(0, 30)))
    whole = replace(some, split=np.zeros_like(some.split))
    assert "is not cut by time" in message(write_folder(tmp_path / "whole", whole, pois=pois))
    recounted = pois.set_column(5, "train_visitors", pa.array(np.ones(EARLY_POIS, np.int64)))
    other = write_folder(tmp_path / "other", early_log(), pois=recounted)
    with pytest.raises(ValueError, match="it was not trained on this folder"):
        EarlyModel(home / "early-run", other, folder, blind=False)


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
        compared = 0
        for row in range(len(requests)):
            own = found.final.row == row
            candidates = found.final.poi[own]
            for part in (visited[rows][row], ~visited[rows][row]):
                given = one[rows][row][candidates[part[candidates]]]
                assert (np.diff(given[np.argsort(fine[own][part[candidates]])]) >= -1e-12).all()
                compared += max(len(np.unique(given)) - 1, 0)
            others = np.setdiff1d(np.flatnonzero(~visited[rows][row]), candidates)
            assert (np.diff(one[rows][row][others][np.argsort(scores[rows][row][others])]) >= 0).all()
            compared += max(len(others) - 1, 0)
        assert compared > 10 * len(requests)


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
    with pytest.raises(ValueError, match="follow the stream; --knowledge is same"):
        command(evaluate, home / "run", *asked, "--ranker", ranker, "--knowledge", "same")
    with pytest.raises(ValueError, match="was fitted to targets of time_split, --protocol is last_per_user"):
        command(evaluate, home / "run", *asked[:2], "--ranker", ranker, "--protocol", "last_per_user")
    with pytest.raises(ValueError, match="leave --renew-days out"):
        command(evaluate, home / "run", *asked, "--ranker", ranker, "--renew-days", 7)
    with pytest.raises(ValueError, match="belong together"):
        command(cascade, home / "data", "--out", tmp_path, "--early-model", home / "early-run")
    command(cascade, home / "data", "--out", tmp_path / "plain", "--protocol", "time_split")
    with pytest.raises(ValueError, match="was fitted without a model"):
        command(evaluate, home / "run", *asked, "--ranker", tmp_path / "plain")


def test_blind_it_does_not_know_the_time_of_the_request(home: Path, tmp_path: Path) -> None:
    early = ("--early-model", home / "early-run", "--early-data", home / "early")
    out = tmp_path / "blind"
    command(cascade, home / "data", "--out", out, "--protocol", "time_split", "--setting", "blind", *early)
    folder = PreparedFolder(home / "data")
    instances = instances_of(home)
    last = instances.take(np.array([len(instances) - 1]))  # nothing of anyone lies between it and a later moment
    timestamp = last.log.timestamp.copy()
    timestamp[last.target] += 5 * 3600
    shifted = replace(last, log=replace(last.log, timestamp=timestamp))
    model = load_scorer(home / "run", folder, context_actions=12, batch_size=8, blind=True)
    ranked = RankedModel(load_cascade(out, folder, "blind", with_model=True), model)
    np.testing.assert_array_equal(ranked(last), ranked(shifted))
