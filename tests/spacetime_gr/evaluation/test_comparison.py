import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from data_pipelines.prepared import PreparedFolder
from spacetime_gr.evaluation.baselines import Scorer
from spacetime_gr.evaluation.bootstrap import Resampling
from spacetime_gr.evaluation.comparison import compare_with, read_groups, rows
from spacetime_gr.evaluation.comparison_plot import plot_comparison
from spacetime_gr.evaluation.harness import Task, evaluate_folder
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.records import records_path
from tests.spacetime_gr.evaluation.folders import write_folder
from tests.spacetime_gr.evaluation.logs import random_log


def noisy(share_right: float, seed: int) -> Scorer:
    """A system that puts so large a share of the targets first, and shuffles the rest."""

    def scores(instances: Instances) -> np.ndarray:
        # A target's luck is the same whatever chunk it is in.
        rng = [np.random.default_rng([seed, target]) for target in instances.target.tolist()]
        values = np.stack([one.random(instances.log.num_pois) for one in rng])
        right = np.array([one.random() for one in rng]) < share_right
        values[np.flatnonzero(right), instances.target_poi[right]] = 2.0
        return np.log(values / values.sum(axis=1, keepdims=True))

    return scores


def write_result(folder: PreparedFolder, path: Path, share_right: float, seed: int, task: Task | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    result = evaluate_folder(
        folder, task or Task(protocol="time_split"), noisy(share_right, seed), records=records_path(path)
    )
    path.write_text(json.dumps(result), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good and two bad seeds; a blind result; one over other targets."""
    out = tmp_path_factory.mktemp("results")
    folder = write_folder(out / "data", random_log(seed=6, num_users=40))
    for seed in (0, 1):
        write_result(folder, out / "good" / f"seed-{seed}" / "eval.json", 0.6, seed)
        write_result(folder, out / "bad" / f"seed-{seed}" / "eval.json", 0.1, 10 + seed)
    write_result(folder, out / "blind.json", 0.6, 3, Task(protocol="time_split", setting="blind"))
    write_result(folder, out / "sample.json", 0.6, 3, Task(protocol="time_split", max_targets=20))
    return out


def test_seeds_are_averaged_and_tested_in_pairs(results: Path) -> None:
    found = rows(read_groups([f"good={results / 'good'}", str(results / "bad")]))
    good, bad, *counters = found
    assert [row.name for row in found[:3]] == ["good", "bad", "popularity"]
    assert len({row.name for row in counters}) == len(counters)
    each = [run["hr@10"] for run in good.values]
    assert good.mean("hr@10") == pytest.approx(sum(each) / 2)
    assert good.spread("hr@10") == pytest.approx(abs(each[0] - each[1]) / np.sqrt(2))
    assert counters[0].spread("hr@10") is None

    difference = compare_with(bad, good, Resampling(resamples=500))
    assert difference.why_not == ""
    for metric in ("hr@1", "hr@10", "mrr"):
        expected = bad.mean(metric) - good.mean(metric)
        assert difference.means[metric] == pytest.approx(expected)
        low, high = difference.intervals[metric]
        assert low < expected < high
    assert difference.intervals["mrr"][1] < 0
    assert difference.p_values["mrr"] < 0.01
    nothing = compare_with(good, good, Resampling(resamples=500))
    assert set(nothing.p_values.values()) == {1.0}


def test_what_answers_another_question_is_not_tested(results: Path) -> None:
    groups = read_groups([str(results / "good"), str(results / "blind.json"), str(results / "sample.json")])
    good, blind, sample = rows(groups)[:3]
    resampling = Resampling(resamples=10)
    assert compare_with(blind, good, resampling).why_not == "setting blind against timed"
    assert compare_with(sample, good, resampling).why_not.startswith("num targets 20 against ")
    with pytest.raises(ValueError, match=r"are no seeds of one system: setting blind against timed"):
        read_groups([f"a={results / 'good'},{results / 'blind.json'}"])


def test_another_k_or_m_has_no_discovery_rate_here(results: Path, tmp_path: Path) -> None:
    folder = PreparedFolder(results / "data")
    task = Task(protocol="time_split", discovery_k=(3,), discovery_days=(7.0,))
    other = write_result(folder, tmp_path / "lr=0.1" / "eval.json", 0.6, 0, task)
    good, alike = rows(read_groups([str(results / "good"), str(other)]))[:2]
    assert alike.name == "lr=0.1"
    assert (alike.mean("slots"), alike.mean("hr@k")) == (None, None)
    assert good.mean("slots") is not None
    assert compare_with(alike, good, Resampling(resamples=10)).why_not == ""


def test_other_targets_of_the_same_number_are_noticed(results: Path) -> None:
    good, bad = rows(read_groups([str(results / "good"), str(results / "bad")]))[:2]
    assert bad.run.records is not None
    identity = bad.run.records.identity
    moved = replace(bad.run.records, identity={**identity, "poi_row": identity["poi_row"][::-1]})
    other = replace(bad, run=replace(bad.run, records=moved))
    assert compare_with(other, good, Resampling(resamples=10)).why_not == "other targets"


def test_without_the_targets_there_is_a_table_but_no_test(results: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.json"
    alone.write_text((results / "blind.json").read_text())
    row, other = rows(read_groups([str(alone), str(results / "blind.json")]))[:2]
    assert row.mean("mrr") == other.mean("mrr")
    assert "no results target by target" in compare_with(row, other, Resampling(resamples=10)).why_not


def test_errors_name_the_file(results: Path, tmp_path: Path) -> None:
    for text, message in (
        (str(tmp_path / "none.json"), r"none\.json does not exist"),
        (str(tmp_path), r"no eval\*\.json below"),
    ):
        with pytest.raises(ValueError, match=message):
            read_groups([text])
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "old.json").write_text('{"metrics": {}}')
    with pytest.raises(ValueError, match=r"bad\.json is not readable JSON"):
        read_groups([str(tmp_path / "bad.json")])
    with pytest.raises(ValueError, match=r"old\.json is not a result of this version"):
        read_groups([str(tmp_path / "old.json")])
    with pytest.raises(ValueError, match="two systems are called 'good'"):
        read_groups([str(results / "good"), f"good={results / 'bad'}"])
    blind = json.loads((results / "blind.json").read_text())
    (tmp_path / "torn.json").write_text(json.dumps(blind))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"torn\.parquet is not a file of targets"):
        read_groups([str(tmp_path / "torn.json")])


def test_the_plot_is_a_picture(results: Path, tmp_path: Path) -> None:
    found = rows(read_groups([str(results / "good"), str(results / "bad")]))
    plot_comparison(found, 2, tmp_path / "new" / "plot.png")
    picture = imread(tmp_path / "new" / "plot.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.05
    with pytest.raises(ValueError, match=r"--plot .*plot\.txt ends with '\.txt'"):
        plot_comparison(found, 2, tmp_path / "plot.txt")
