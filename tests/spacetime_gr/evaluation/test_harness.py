import json
from dataclasses import fields
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from spacetime_gr.evaluation.discovery import discovery_grid
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.harness import Task, evaluate_folder, evaluate_instances
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.metrics import METRICS, summarise
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.evaluation.report import print_report
from spacetime_gr.evaluation.truth import find_truth
from tests.spacetime_gr.evaluation.folders import write_folder
from tests.spacetime_gr.evaluation.logs import log_of, random_log


def oracle(instances: Instances) -> np.ndarray:
    """Half of the probability on the target."""
    num_pois = instances.log.num_pois
    probabilities = np.full((len(instances), num_pois), 0.5 / (num_pois - 1))
    np.put_along_axis(probabilities, instances.target_poi[:, None], 0.5, axis=1)
    return np.log(probabilities)


def test_a_folder_gives_back_the_log(tmp_path: Path) -> None:
    log = random_log(seed=5)
    read = EventLog.from_folder(write_folder(tmp_path, log))
    for field in fields(EventLog):
        assert np.array_equal(getattr(read, field.name), getattr(log, field.name)), field.name


def test_result_has_the_agreed_keys_and_is_json(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_log(seed=6))
    result = evaluate_folder(folder, Task(protocol="time_split"), oracle)
    json.dumps(result, allow_nan=False)
    assert set(result["metrics"]) == set(METRICS)
    assert result["metrics"]["hr@1"] == result["metrics"]["mrr"] == 1.0
    assert result["nll_nats"] == pytest.approx(np.log(2))
    assert set(result["baselines"]) == set(result["baseline_slices"]) >= {"popularity", "visits_stream", "markov"}
    sizes = [result["slices"][name]["num_targets"] for name in ("return", "discovery")]
    assert sum(sizes) == result["num_targets"]
    assert sizes[1] == result["num_discoveries"] > 0
    for name, metrics in result["baselines"].items():
        parts = result["baseline_slices"][name].values()
        assert metrics["mrr"] == pytest.approx(sum(p["mrr"] * p["num_targets"] for p in parts) / sum(sizes))


def test_a_sample_of_targets_is_fixed_and_stated(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, random_log(seed=6))
    whole = evaluate_folder(folder, Task(protocol="time_split"))
    one, two = (evaluate_folder(folder, Task(protocol="time_split", max_targets=20)) for _ in range(2))
    assert one == two
    assert one["num_targets"] == 20 < whole["num_targets"] == one["num_targets_in_protocol"]
    enough = evaluate_folder(folder, Task(protocol="time_split", max_targets=whole["num_targets"]))
    assert enough["baselines"] == whole["baselines"]
    with pytest.raises(ValueError, match="--max-targets is 0"):
        Task(max_targets=0)


def test_baselines_alone(tmp_path: Path) -> None:
    result = evaluate_folder(write_folder(tmp_path, random_log(seed=6)), Task(protocol="last_per_user"))
    assert "metrics" not in result
    assert "slices" not in result
    assert result["baselines"]


def test_a_model_without_the_counters(tmp_path: Path) -> None:
    task = Task(protocol="last_per_user", counters=False)
    result = evaluate_folder(write_folder(tmp_path, random_log(seed=6)), task, oracle)
    assert result["baselines"] == {}
    printed = Console(file=StringIO(), width=160)
    print_report(result, printed)
    assert f"{result['slices']['discovery']['num_targets']}┃" in printed.file.getvalue()


def test_discovery_rate_by_hand() -> None:
    """Two targets; the model lists places 0 and 1 (k = 2), of which the user saw 0 on day 9 and 1 on day 1."""
    rows = [
        (0, 0, 0.0, "train"),
        (0, 1, 1.0, "train"),
        (0, 0, 9.0, "train"),
        (0, 0, 10.0, "test"),
        (0, 1, 10.5, "test"),
    ]

    def listed(instances: Instances) -> np.ndarray:
        return np.log(np.tile([0.4, 0.3, 0.1, 0.1, 0.05, 0.05], (len(instances), 1)))

    task = Task(discovery_k=(2,), discovery_days=(5,))
    rate = evaluate_instances(build_instances(time_split(log_of(rows))), task, listed)["discovery_rate"]
    assert (rate["k"], rate["days"]) == (2, 5)
    assert rate["model"] == {"slots": 0.5, "hits": 0.5}


def test_impossible_target_has_no_finite_likelihood() -> None:
    def certain(instances: Instances) -> np.ndarray:
        return np.where(np.arange(instances.log.num_pois) == 0, 0.0, -np.inf) * np.ones((len(instances), 1))

    result = evaluate_instances(build_instances(time_split(random_log(seed=6))), Task(), certain)
    assert result["nll_nats"] is None


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="expected one of timed, blind"):
        Task(setting="dark")
    for values in ((0,), (1, 1), ()):
        with pytest.raises(ValueError, match=r"--discovery-k is .*expected positive numbers, each once"):
            Task(discovery_k=values)
    with pytest.raises(ValueError, match="--explore-odds is -1"):
        Task(explore_odds=(-1.0,))
    with pytest.raises(ValueError, match="--resamples is 0"):
        Task(resamples=0)


def test_settings_of_the_knob_share_a_pass_and_give_a_curve() -> None:
    calls = []

    def knob(instances: Instances) -> np.ndarray:
        calls.append(len(instances))
        wrong = np.roll(oracle(instances), 1, axis=1)
        return np.stack([wrong, oracle(instances)])

    instances = build_instances(time_split(random_log(seed=6)))
    result = evaluate_instances(instances, Task(explore_odds=(4.0, 1.0)), knob)
    assert sum(calls) == len(instances)
    assert result["metrics"]["hr@1"] == 1.0
    assert [setting["explore_odds"] for setting in result["explore_curve"]] == [1.0, 4.0]
    assert [setting["metrics"]["hr@1"] for setting in result["explore_curve"]] == [1.0, 0.0]
    assert result["explore_curve"][0]["grid"] == result["discovery_rate"]["grid"]["model"]
    json.dumps(result, allow_nan=False)


def test_every_figure_follows_from_the_targets_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", random_log(seed=6))
    file = tmp_path / "result.parquet"
    result = evaluate_folder(folder, Task(protocol="time_split"), oracle, records=file)
    table = pq.read_table(file)
    discovery = table["is_discovery"].to_numpy()
    assert len(table) == result["num_targets"]
    assert discovery.sum() == result["num_discoveries"]
    for name, metrics in result["baselines"].items():
        ranks = table[f"{name}/rank"].to_numpy()
        assert summarise(ranks) == metrics
        assert summarise(ranks[discovery])["mrr"] == result["baseline_slices"][name]["discovery"]["mrr"]
        new_ranks = table[f"{name}/new_rank"].drop_null().to_numpy()
        assert summarise(new_ranks) == result["new_places_only"]["baselines"][name]
        age = np.array(table[f"{name}/places_age_s"].to_pylist())
        target_age = table["age_s"].to_numpy()
        k, days = result["discovery_rate"]["grid"]["k"], result["discovery_rate"]["grid"]["days"]
        assert discovery_grid(ranks, age, target_age, k, days) == result["discovery_rate"]["grid"]["baselines"][name]
    assert -table["model/log_prob"].to_numpy().mean() == pytest.approx(result["nll_nats"])
    assert "visits_stream/log_prob" not in table.column_names
    seen = np.array(table["slice/seen"].to_pylist())
    assert ((seen == "never") == discovery).all()
    places = np.array(table["visits_stream/places"].to_pylist())
    assert result["beyond_accuracy"]["baselines"]["visits_stream"]["coverage"] == len(set(places[:, :10].ravel())) / 12


def test_truth_is_a_ceiling_for_the_time_split_only(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", random_log(seed=6))
    assert find_truth(folder, None, "time_split") is None
    truth = {"hr@1": 0.1, "hr@5": 0.2, "hr@10": 0.3, "hr@20": 0.4, "entropy_nats": 2.0, "settings": {"seed": 1}}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth), encoding="utf-8")
    ceiling = find_truth(folder, path, "time_split")
    assert ceiling is not None
    assert ceiling["hr@10"] == 0.3
    assert "settings" not in ceiling
    assert evaluate_folder(folder, Task(protocol="time_split"), ceiling=ceiling)["ceiling"] == ceiling
    with pytest.raises(ValueError, match="leave --truth out"):
        find_truth(folder, path, "last_per_user")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match='lacks "hr@10"'):
        find_truth(folder, path, "time_split")
