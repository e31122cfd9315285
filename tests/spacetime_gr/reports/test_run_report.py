"""The report of a run: what is computed for it, the page with and without its parts, its errors, and a browser."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from typer.testing import CliRunner

from data_pipelines import PreparedFolder
from spacetime_gr import POIIndex, SpacetimeGRConfig, SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.cli.main import app
from spacetime_gr.evaluation.events import TRAIN
from spacetime_gr.evaluation.harness import Task, evaluate_folder, fingerprint
from spacetime_gr.evaluation.instances import Instances, build_instances
from spacetime_gr.evaluation.model_files import model_files
from spacetime_gr.evaluation.model_scorer import ModelScorer, load_scorer
from spacetime_gr.evaluation.protocols import time_split
from spacetime_gr.reports.run_calibration import reliability, wilson
from spacetime_gr.reports.run_files import read_metrics
from spacetime_gr.reports.run_results import Results
from spacetime_gr.reports.run_targets import Answers, ask_model, choose_examples, kinds_of
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.evaluation.folders import write_folder
from tests.spacetime_gr.evaluation.logs import random_log

NUM_POIS = 30
BAD_NAME = "</script><script>alert(1)</script>"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def line(step: int, **more: Any) -> dict[str, Any]:
    """A line of metrics as the trainer writes it."""
    return {
        "step": step,
        "tokens": 1000 * step,
        "loss": 4.0 / step,
        "loss_block": 5.0 / step,
        "loss_inner": 3.0 / step,
        "loss_action": None,
        "grad_norm": 0.5,
        "lr": 0.003,
        "tokens_per_second": 9000.0,
        "data_wait_share": 0.01,
        "multi_mode_share": 1.0,
        "train_minutes": step / 60,
        **more,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`, and `run` with an untrained model, metrics, settings and an evaluation; one place's name is markup."""
    root = tmp_path_factory.mktemp("world")
    pois = make_pois(num_pois=NUM_POIS)
    pois = pois.append_column("name", pa.array([BAD_NAME] * NUM_POIS))
    folder = write_folder(root / "data", random_log(seed=8, num_pois=NUM_POIS), pois=pois)
    index = POIIndex.build(pois, max_pois_per_block=8)
    tokenizer = SpacetimeGRTokenizer(index=index, actions=["check-in"])
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 1024}
    model = SpacetimeGRForCausalLM(SpacetimeGRConfig(**tokenizer.config_kwargs(), **sizes))
    model.load_places(index)
    run = root / "run"
    model.save_pretrained(run / "export")
    tokenizer.save_pretrained(run / "export")
    lines = [line(step) for step in range(1, 6)]
    lines[2]["resumed_from"] = 2
    lines[4] |= {"eval_loss": 1.5, "eval_loss_block": 2.5}
    (run / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    settings = {"run": {"name": "tiny <b>"}, "data": {"path": str(root / "data")}, "train": {"seed": 3, "lr": 0.003}}
    (run / "config.yaml").write_text(yaml.safe_dump(settings))
    (run / "status.json").write_text(json.dumps({"state": "finished", "step": 5}))
    scorer = load_scorer(run, folder, context_actions=128, batch_size=8, blind=False)
    result = evaluate_folder(folder, Task(protocol="time_split"), scorer)
    result["asked"] = {"context_actions": 128, "model": fingerprint(model_files(run))}
    (run / "eval.json").write_text(json.dumps(result))
    return root


@pytest.fixture(scope="module")
def scorer(world: Path) -> ModelScorer:
    folder = PreparedFolder(world / "data")
    return load_scorer(world / "run", folder, context_actions=128, batch_size=5, blind=False)


@pytest.fixture(scope="module")
def instances() -> Instances:
    return build_instances(time_split(random_log(seed=8, num_pois=NUM_POIS)))


@pytest.fixture(scope="module")
def answers(scorer: ModelScorer, instances: Instances) -> Answers:
    return ask_model(scorer, instances, keep_blocks=True)


@pytest.fixture
def copied(world: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(world / "run", tmp_path / "run"))


def report(run: Path, *options: str | Path) -> str:
    out = run.parent / "out" / "page.html"
    result = CliRunner().invoke(
        app, ["report", str(run), "--out", str(out), *map(str, options)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return out.read_text()


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, ["report", *map(str, arguments)])
    assert isinstance(result.exception, ValueError), result.output
    return str(result.exception)


@pytest.fixture(scope="module")
def whole(world: Path) -> str:
    return report(world / "run")


# ---------------------------------------------------------------- what the model says


def test_lists_and_probabilities_are_those_of_the_evaluation(
    scorer: ModelScorer, instances: Instances, answers: Answers
) -> None:
    scores = np.reshape(scorer(instances), (len(instances), NUM_POIS))  # every block is opened, so both are exact
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    np.testing.assert_allclose(answers.probs, np.exp(np.take_along_axis(scores, best, 1)), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(np.exp(np.take_along_axis(scores, answers.rows, 1)), answers.probs, rtol=1e-3, atol=1e-6)
    target = np.take_along_axis(scores, instances.target_poi[:, None], 1)[:, 0]
    np.testing.assert_allclose(answers.target_prob, np.exp(target), rtol=1e-3, atol=1e-6)
    position = (answers.rows == instances.target_poi[:, None]).argmax(axis=1) + 1
    listed = (answers.rows == instances.target_poi[:, None]).any(axis=1)
    assert 0 < listed.sum() < len(instances)
    np.testing.assert_array_equal(answers.rank, np.where(listed, position, 0))


def test_probabilities_of_blocks_and_of_exploring(scorer: ModelScorer, instances: Instances, answers: Answers) -> None:
    places = np.exp(np.reshape(scorer(instances), (len(instances), NUM_POIS)))
    block, _ = scorer.tokenizer.index.encode(np.arange(NUM_POIS), rows=True)
    summed = np.stack([places[:, block == one].sum(axis=1) for one in range(answers.blocks.shape[1])], axis=1)
    np.testing.assert_allclose(answers.blocks, summed, rtol=1e-3, atol=1e-6)
    known = instances.history_lengths > 0
    assert known.any()
    assert ((answers.explore[known] > 0) & (answers.explore[known] < 1)).all()
    visited = np.zeros(places.shape, bool)
    visited[instances.visited()] = True
    assert visited.any()
    np.testing.assert_allclose(answers.new, np.where(visited, 0.0, places).sum(axis=1), rtol=1e-3, atol=1e-6)


def test_examples_are_of_each_kind_and_of_many_persons(instances: Instances, answers: Answers) -> None:
    discovery = instances.is_discovery()
    chosen = choose_examples(instances, answers, discovery)
    kinds = kinds_of(answers.take(chosen), discovery[chosen])
    assert len(set(chosen.tolist())) == len(chosen)
    for position, kind in zip(chosen, kinds, strict=True):
        rank = answers.rank[position]
        said = "missed" if rank == 0 else "hit at 1" if rank == 1 else "hit at 10"
        assert kind == f"{'discovery' if discovery[position] else 'return'}, {said}"
    assert {"return, missed", "discovery, missed"} <= set(kinds)
    users = instances.log.user[instances.target][chosen]
    assert len(np.unique(users)) >= min(len(users), instances.log.num_users) - 1
    np.testing.assert_array_equal(chosen, choose_examples(instances, answers, discovery))


def test_samples_are_in_order_and_the_same_each_time(instances: Instances) -> None:
    drawn = instances.sample(20, np.random.default_rng(0))
    assert len(drawn) == 20
    assert (np.diff(drawn.target_time) >= 0).all()
    np.testing.assert_array_equal(drawn.target, instances.sample(20, np.random.default_rng(0)).target)
    assert len(instances.sample(10**6, np.random.default_rng(0))) == len(instances)


# ---------------------------------------------------------------- figures


def test_reliability_by_hand() -> None:
    found = reliability(np.array([0.05, 0.15, 0.15, 1.0]), np.array([False, True, False, True]))
    assert found.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found.shares[[0, 1, 9]].tolist() == [0.0, 0.5, 1.0]
    assert found.means[[0, 1, 9]] == pytest.approx([0.05, 0.15, 1.0])
    assert found.error == pytest.approx((0.05 + 2 * 0.35) / 4)


def test_wilson_interval_of_a_textbook() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


def test_intervals_of_the_result_come_before_our_own() -> None:
    raw = {"num_targets": 263, "num_discoveries": 63, "metrics": {"hr@10": 81 / 263, "mrr": 0.2}, "baselines": {}}
    assert Results(raw).interval("model", "hr@10") == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert Results(raw).interval("model", "mrr") is None
    given = {"level": 0.95, "resamples": 9, "model": {"all": {"hr@10": [0.1, 0.2]}}}
    assert Results(raw | {"intervals": given}).interval("model", "hr@10") == (0.1, 0.2)


# ---------------------------------------------------------------- page


def test_the_page_of_a_whole_run(world: Path, whole: str) -> None:
    result = json.loads((world / "run" / "eval.json").read_text())
    for system in ("model", "user_hour"):
        metrics = result["metrics"] if system == "model" else result["baselines"][system]
        assert f"<td>{system}</td><td>{metrics['hr@1']:.3f}</td><td>{metrics['hr@5']:.3f}</td>" in whole
    assert "Run: tiny &lt;b&gt;" in whole
    assert whole.count("resumed from the checkpoint of step 2") == 6, "a mark in every curve"
    assert "Calibration of new places" in whole
    assert "<td>train.seed</td><td>3</td>" in whole
    assert "The discovery knob</h2><p>Not measured" in whole
    assert "Mind</h2>" not in whole


def test_the_page_needs_no_network_and_holds_no_markup_of_the_data(whole: str) -> None:
    assert not re.search(r"https?://|<link|@import|<img|<iframe|\bsrc=[\"']|url\(", whole)
    assert "<script>alert" not in whole
    assert whole.count("<script") == whole.count("</script>") == 2, "the map's data and the script"
    assert "nan" not in re.sub(r"isNaN|NaN\(|finance", "", whole.split("<script")[0])


def test_the_map_holds_what_the_model_said(world: Path, whole: str) -> None:
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', whole, re.DOTALL)
    steps = json.loads(data)["steps"]
    assert len(steps) == whole.count("<article>") == whole.count("<option>")
    for step in steps:
        assert [place["rank"] for place in step["places"]] == list(range(1, 11))
        south, west, north, east = step["window"]
        assert all(south < point["lat"] < north and west < point["lon"] < east for point in step["places"])
        assert step["truth"]["text"].startswith("true next place")


def test_targets_of_a_person(world: Path) -> None:
    page = report(world / "run", "--user", 3, "--sample", 5)
    shown = re.findall(r"person \(hash\)</td><td>(\d+)</td>", page)
    assert len(shown) == 6
    assert set(shown) == {"3"}
    assert "--user 99 has no held-out target" in refused(world / "run", "--user", 99, "--out", world / "none.html")


def richer(result: dict[str, Any]) -> dict[str, Any]:
    """A result with what an evaluation may add, in round numbers."""
    systems = ["model", *result["baselines"]]

    def roles(value: Callable[[str], Any]) -> dict[str, Any]:
        return {"model": value("model"), "baselines": {name: value(name) for name in result["baselines"]}}

    half = dict.fromkeys(result["metrics"], 0.5)
    parts = {"all": half, "return": half, "discovery": half}
    pairs = {name: [0.4, 0.6] for name in half}
    grid = {"hr": [0.25, 0.75], "slots": [[0.1], [0.3]], "hits": [[0.1], [None]]}
    rates = {"slots": 0.3, "hits": 0.2}
    group = {"num_targets": 7, "num_returns": 4, "num_discoveries": 3, "systems": dict.fromkeys(systems, parts)}
    empty = group | {"num_targets": 0, "systems": {}}
    point = {"metrics": half, "slices": {"return": half, "discovery": half}, "discovery_rate": rates}
    return result | {
        "discovery_rate": result["discovery_rate"] | {"grid": {"k": [1, 10], "days": [30.0], **roles(lambda _: grid)}},
        "new_places_only": {"num_targets": 3, **roles(lambda _: half)},
        "beyond_accuracy": {"k": 10, **roles(lambda _: {"coverage": 0.125, "recommended_km": None})},
        "intervals": {"level": 0.95, "resamples": 77, **roles(lambda _: {"all": pairs, "discovery": {"hr@1": None}})},
        "breakdown": {"popularity": {"definition": "by <visits>", "groups": {"head": group, "cold": empty}}},
        "explore_curve": [point | {"explore_odds": odds} for odds in (0.5, 1.0, 4.0)],
    }


def test_what_an_evaluation_adds_is_shown(copied: Path) -> None:
    shutil.rmtree(copied / "export")  # no model is asked here
    file = copied / "eval.json"
    file.write_text(json.dumps(richer(json.loads(file.read_text()))))
    page = report(copied)
    assert "77 bootstrap resamples" in page
    assert "By &lt;visits&gt;." in page
    assert "<td>head</td><td>7</td><td>3</td><td>0.500</td>" in page
    assert "<td>4</td><td>0.500</td>" in page, "the knob at 4"
    assert "k=10</text>" in page
    assert "<td>0.125</td>" in page
    assert "Not measured: the result" not in page
    assert "Not measured: no exported model in" in page


# ---------------------------------------------------------------- what is missing


def test_a_line_cut_short_is_left_out_and_said(copied: Path) -> None:
    file = copied / "metrics.jsonl"
    file.write_text(file.read_text()[:-30])
    assert [len(part) for part in read_metrics(file)] == [4, 1]
    shutil.rmtree(copied / "export")
    assert "1 of 5 lines of metrics.jsonl cannot be read (the first is line 5)" in report(copied)


def test_a_run_without_its_parts_says_so(copied: Path) -> None:
    for name in ("eval.json", "metrics.jsonl", "status.json"):
        (copied / name).unlink()
    settings = yaml.safe_load((copied / "config.yaml").read_text())
    settings["data"]["path"] = "nowhere"
    (copied / "config.yaml").write_text(yaml.safe_dump(settings))
    page = report(copied)
    assert "no curves" in page
    assert "eval.json; write it with spacetime-gr evaluate" in page
    assert "no prepared folder at nowhere" in page
    assert "give the folder with --data" in page


def test_data_without_held_out_events(copied: Path, tmp_path: Path) -> None:
    log, pois = random_log(seed=8, num_pois=NUM_POIS), make_pois(num_pois=NUM_POIS)
    write_folder(tmp_path / "data", log.select(log.split == TRAIN), pois=pois)
    (copied / "eval.json").unlink()
    assert "Not measured: the protocol leaves no target" in report(copied, "--data", tmp_path / "data")
    assert "leaves no target" in refused(copied, "--data", tmp_path / "data", "--user", 3, "--out", tmp_path / "page")


def test_what_does_not_belong_together_is_said(copied: Path) -> None:
    result = json.loads((copied / "eval.json").read_text())
    result["asked"]["model"] = result["data_fingerprint"] = "other"
    (copied / "eval.json").write_text(json.dumps(result))
    (copied / "status.json").write_text(json.dumps({"state": "running", "step": 5}))
    page = report(copied, "--sample", 4)
    for said in ("The run is running, at step 5", "of another model", "of other data"):
        assert said in page


def test_errors(world: Path, copied: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "page.html")
    assert "does not exist; expected a run directory" in refused(tmp_path / "nowhere", *out)
    assert "neither config.yaml nor metrics.jsonl" in refused(world / "data", *out)
    assert "--eval" in refused(copied, "--eval", tmp_path / "none.json", *out)
    assert "no prepared folder" in refused(copied, "--data", tmp_path / "none", *out)
    assert "is a folder" in refused(copied, "--out", tmp_path)
    assert "--sample is 0" in refused(copied, "--sample", 0, *out)
    (copied / "eval.json").write_text('{"metrics": {}')
    assert "eval.json is not readable JSON" in refused(copied, *out)
    (copied / "eval.json").write_text("{}")
    assert "lacks protocol" in refused(copied, *out)
    (copied / "eval.json").unlink()
    shutil.rmtree(copied / "export")
    assert "--user needs a model" in refused(copied, "--user", 3, *out)
    (copied / "config.yaml").write_text("run: [")
    assert "is not YAML" in refused(copied, *out)
    assert not (tmp_path / "page.html").exists()


# ---------------------------------------------------------------- browser


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser_targets_can_be_stepped_through_and_tables_sorted(world: Path, whole: str, tmp_path: Path) -> None:
    watch = "<script>onerror = text => document.documentElement.dataset.error = text;</script>"
    act = """<script>
      const told = document.documentElement.dataset, shown = () => [...document.querySelectorAll("article")]
        .map(one => !one.hidden).indexOf(true);
      const canvas = document.querySelector(".map canvas"), picture = () => canvas.toDataURL();
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let green = 0;
      for (let i = 0; i < pixels.length; i += 4)
        green += pixels[i] === 0x4b && pixels[i + 1] === 0xe0 && pixels[i + 2] === 0x8c;
      told.green = green;
      const before = picture();
      told.first = shown();
      document.querySelectorAll(".picker button")[1].click();
      told.next = shown();
      told.redrawn = picture() !== before;
      document.querySelectorAll(".picker button")[0].click();
      told.back = shown();
      const tabs = document.querySelector(".tabs");
      tabs.querySelectorAll("nav button")[2].click();
      told.tab = [...tabs.querySelectorAll(":scope > div")].map(one => !one.hidden).indexOf(true);
      const table = document.querySelector("table.sortable");
      table.querySelectorAll("th button")[3].click();
      told.top = table.tBodies[0].rows[0].cells[0].textContent;
    </script>"""
    file = tmp_path / "page.html"
    file.write_text(whole.replace("<head>", f"<head>{watch}").replace("</body>", f"{act}</body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    run = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=300, check=True
    )
    told = dict(re.findall(r'data-(\w+)="([^"]*)"', run.stdout[: run.stdout.index("<head>")]))
    assert "error" not in told
    assert int(told["green"]) > 20, "the true next place is drawn"
    assert (told["first"], told["next"], told["back"], told["redrawn"]) == ("0", "1", "0", "true")
    assert told["tab"] == "2"
    result = json.loads((world / "run" / "eval.json").read_text())
    hits = {name: f"{one['hr@10']:.3f}" for name, one in [("model", result["metrics"]), *result["baselines"].items()]}
    assert hits[told["top"]] == max(hits.values()) > min(hits.values())
