from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spacetime_gr import POIIndex, SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.harness import Task, evaluate_folder
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.model_files import exported_folder
from spacetime_gr.evaluation.model_scorer import ModelScorer, load_scorer
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.evaluation.visitors import StreamVisitors
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.evaluation.folders import write_folder
from tests.spacetime_gr.evaluation.logs import random_log
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

NUM_POIS = 30


@pytest.fixture(scope="module")
def log() -> EventLog:
    return random_log(seed=8, num_pois=NUM_POIS)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained model."""
    run = tmp_path_factory.mktemp("run")
    index = POIIndex.build(make_pois(num_pois=NUM_POIS), max_pois_per_block=8)
    tokenizer = SpacetimeGRTokenizer(index=index, actions=["check-in"])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 128}
    model = SpacetimeGRForCausalLM(SpacetimeGRConfig(**tokenizer.config_kwargs(), **sizes))
    model.load_places(index)
    model.save_pretrained(run / "export")
    tokenizer.save_pretrained(run / "export")
    return run


@pytest.fixture(scope="module")
def scorer(exported: Path) -> ModelScorer:
    folder = exported_folder(exported)
    model = SpacetimeGRForCausalLM.from_pretrained(folder).eval()
    return ModelScorer(model, SpacetimeGRTokenizer.from_pretrained(folder), context_actions=12, batch_size=5)


@pytest.fixture(scope="module")
def instances(log: EventLog) -> Instances:
    return build_instances(time_split(log)).take(slice(0, 40))


def test_scores_are_log_probabilities(scorer: ModelScorer, instances: Instances) -> None:
    scores = scorer(instances)
    assert scores.shape == (1, len(instances), NUM_POIS)
    assert np.exp(scores).sum(axis=2) == pytest.approx(1, abs=1e-4)


def test_settings_of_the_knob_share_the_passes(scorer: ModelScorer, instances: Instances) -> None:
    def at(*explore_odds: float) -> np.ndarray:
        options = {"context_actions": 12, "batch_size": 5, "explore_odds": explore_odds}
        return ModelScorer(scorer.model, scorer.tokenizer, **options)(instances)

    together = at(0.25, 1.0, 4.0)
    assert together == pytest.approx(np.concatenate([at(0.25), at(1.0), at(4.0)]), abs=1e-5)
    assert np.abs(together[0] - together[2]).max() > 0.1
    assert np.array_equal(at(1.0), scorer(instances))


def test_without_the_return_explore_head_the_knob_does_nothing(scorer: ModelScorer, instances: Instances) -> None:
    model = make_model(scorer.tokenizer, return_explore=False)
    options = {"context_actions": 12, "batch_size": 5}
    several = ModelScorer(model, scorer.tokenizer, **options, explore_odds=(0.25, 4.0))(instances)
    alone = ModelScorer(model, scorer.tokenizer, **options)(instances)
    assert several.shape == (2, *alone.shape[1:])
    assert np.array_equal(several, np.concatenate([alone, alone]))


@pytest.mark.parametrize("blind", [False, True])
def test_a_shared_history_gives_the_scores_of_each_target_alone(scorer: ModelScorer, blind: bool) -> None:
    """Exactly so where the histories fit into the context."""
    instances = build_instances(time_split(random_log(seed=9, num_events=140, num_pois=NUM_POIS)))
    instances = instances.take(np.flatnonzero(instances.history_lengths <= 31))
    long = ModelScorer(scorer.model, scorer.tokenizer, context_actions=31, batch_size=5, blind=blind)
    assert len(long._groups(instances)) < len(instances)
    alone = np.concatenate([long(instances.take(slice(i, i + 1))) for i in range(len(instances))], axis=1)
    assert np.allclose(alone, long(instances), atol=1e-4)


def test_each_target_reads_at_least_half_a_context(scorer: ModelScorer, instances: Instances) -> None:
    for rows in scorer._groups(instances):
        group = instances.take(rows)
        first = np.maximum(group.start, group.stop[-1] - scorer.context_actions)
        assert (group.stop - first >= np.minimum(group.history_lengths, scorer.context_actions // 2)).all()
        assert len(set(group.start.tolist())) == 1


def test_a_context_is_a_part_of_the_whole_history(scorer: ModelScorer, instances: Instances) -> None:
    """Gap, place and mode of the first action of a context come from the action before it, as in training."""
    chosen = instances.take(slice(30, 31))
    assert chosen.history_lengths[0] > scorer.context_actions
    context = scorer.encode(chosen, scorer.context_actions)
    whole = scorer.encode(chosen, int(chosen.history_lengths[0]))
    length = context["input_ids"].shape[1]
    assert length == 4 * scorer.context_actions + 1
    assert int(context["gap"][0, 0]) > 0
    for name in context.keys() - {"position_ids"}:
        assert torch.equal(context[name], whole[name][:, -length:]), name


def test_no_leak_from_the_target_or_what_follows(scorer: ModelScorer, instances: Instances) -> None:
    log = instances.log
    chosen = instances.take(slice(20, 21))
    same_user_later = (log.user == log.user[chosen.target[0]]) & (log.timestamp >= chosen.target_time[0])
    changed = replace(log, poi_row=np.where(same_user_later, (log.poi_row + 7) % NUM_POIS, log.poi_row))
    assert np.array_equal(scorer(replace(chosen, log=changed)), scorer(chosen))


def test_blind_does_not_depend_on_the_time_of_the_target(scorer: ModelScorer, instances: Instances) -> None:
    log = instances.log
    chosen = instances.take(slice(20, 21))
    later = log.timestamp.copy()
    later[chosen.target] += 5 * 3600
    moved = replace(chosen, log=replace(log, timestamp=later))
    blind = ModelScorer(scorer.model, scorer.tokenizer, context_actions=12, blind=True)
    assert np.array_equal(blind(moved), blind(chosen))
    assert not np.array_equal(scorer(moved), scorer(chosen))


def test_visitors_are_renewed_along_the_stream_and_put_back(scorer: ModelScorer, instances: Instances) -> None:
    index, model = scorer.tokenizer.index, scorer.model
    at_first = scorer(instances)
    renewed = ModelScorer(model, scorer.tokenizer, context_actions=12, batch_size=5, renew_days=0.5)
    found = renewed(instances)
    assert np.array_equal(scorer(instances), at_first)
    assert np.abs(found - at_first).max() > 0.01
    for rows, visitors in StreamVisitors(instances, 0.5, False).renewals(instances):
        model.renew_visitors(index, visitors)
        assert np.array_equal(scorer(instances.take(rows)), found[:, rows])
    model.renew_visitors(index, index.visitors(np.arange(NUM_POIS)))
    with pytest.raises(ValueError, match="it needs --knowledge stream"):
        renewed(replace(instances, knowledge="same"))
    with pytest.raises(ValueError, match="renew-days is 0"):
        ModelScorer(model, scorer.tokenizer, context_actions=12, renew_days=0)
    for wrong in (np.zeros(NUM_POIS + 1, int), np.full(NUM_POIS, -1)):
        with pytest.raises(ValueError, match="visitors have shape"):
            model.renew_visitors(index, wrong)


def test_end_to_end(exported: Path, log: EventLog, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, log, pois=make_pois(num_pois=NUM_POIS))
    scorer = load_scorer(exported, folder, context_actions=8, batch_size=16, blind=False, device="cpu")
    result = evaluate_folder(folder, Task(protocol="time_split"), scorer)
    assert 0 < result["metrics"]["mrr"] < 1
    assert result["nll_nats"] > 0


def test_other_places_are_refused(exported: Path, log: EventLog, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, log, pois=make_pois(seed=1, num_pois=NUM_POIS))
    with pytest.raises(ValueError, match="that the model was trained on"):
        load_scorer(exported, folder, context_actions=8, batch_size=16, blind=False, device="cpu")


def test_a_device_that_is_not_there_is_refused(exported: Path, log: EventLog, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, log, pois=make_pois(num_pois=NUM_POIS))
    for device in ("foo", "cuda:99"):
        with pytest.raises(ValueError, match=f"--device is '{device}', which torch cannot use here"):
            load_scorer(exported, folder, context_actions=8, batch_size=16, blind=False, device=device)


def test_context_has_to_fit(scorer: ModelScorer) -> None:
    with pytest.raises(ValueError, match=r"expected 1\.\.31"):
        ModelScorer(scorer.model, scorer.tokenizer, context_actions=32)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no exported model"):
        exported_folder(tmp_path)
