"""configs/ablation: every file is a small layer over any run, and the model can be built with it."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.ablation import Job, table
from data_pipelines.stream.cleaning import CleaningSettings
from data_pipelines.stream.curriculum import CurriculumSettings
from data_pipelines.stream.settings import as_settings
from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.configuration_spacetime_gr import SIDE_SWITCHES
from spacetime_gr.training.loading import ROOT, load_config
from spacetime_gr.training.model import model_config

OVERLAYS = sorted((ROOT / "configs" / "ablation").glob("*.yaml"))
BASE = ROOT / "configs" / "pretrain" / "nyc.yaml"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda file: file.stem)
def test_overlay_changes_one_section_and_nothing_else(overlay: Path, tokenizer: SpacetimeGRTokenizer) -> None:
    base, changed = load_config(BASE), load_config([BASE, overlay])
    (section,) = {"model", "data"} & set(yaml.safe_load(overlay.read_text()))
    assert getattr(changed, section) != getattr(base, section)
    assert changed.model_copy(update={section: getattr(base, section)}) == base
    assert overlay.read_text().startswith("# ")
    if section == "model":
        before, after = model_config(base, tokenizer), model_config(changed, tokenizer)
        assert before.to_dict() != after.to_dict()  # it is no default written out
        SpacetimeGRForCausalLM(after)
    else:
        data = changed.data
        before, after = (
            (as_settings(CleaningSettings, of.cleaning, ""), as_settings(CurriculumSettings, of.curriculum, ""))
            for of in (base.data, data)
        )
        assert before != after


def test_every_switch_has_an_overlay() -> None:
    assert {name for file in OVERLAYS for name in load_config([BASE, file]).model} >= set(SIDE_SWITCHES)


def finished(out: Path, variant: str, seed: int, hit_rate: float, *settings: str) -> None:
    """A job's files as it leaves them."""
    folder = out / variant / f"seed-{seed}"
    folder.mkdir(parents=True)
    configs = ["--config", str(BASE)] + (["--config", str(OVERLAYS[0])] if variant != "full" else [])
    train = ["python", "pretrain.py", *configs, f"run.dir={folder}", f"train.seed={seed}", *settings]
    evaluate = ["spacetime-gr", "evaluate", str(folder), "--data", "d", "--protocol", "public", "--json", str(folder)]
    (folder / "done.json").write_text(json.dumps([train, [*evaluate, "--reuse"]]))
    metrics = {"hr@1": hit_rate, "hr@10": hit_rate, "mrr": hit_rate}
    (folder / "eval.json").write_text(json.dumps({"metrics": metrics, "slices": {}}))


def test_the_table_does_not_mix_settings(tmp_path: Path) -> None:
    for seed in (0, 1):
        finished(tmp_path, "full", seed, 0.5, "train.max_steps=900")
        finished(tmp_path, "other", seed, 0.25, "train.max_steps=900")
    shown = table(tmp_path)
    assert "| full | 2 | 0.5000 ± 0.0000" in shown
    assert "| other | 2 | 0.2500 ± 0.0000" in shown
    assert shown.count("| variant |") == 1
    finished(tmp_path, "full", 2, 0.75, "train.max_steps=50")
    shown = table(tmp_path)
    assert shown.count("| variant |") == 2
    assert "| full | 2 | 0.5000 ± 0.0000" in shown
    assert "| full | 1 | 0.7500 |" in shown
    assert "train.max_steps=50 " in shown


def test_a_job_that_fails_leaves_no_earlier_result(tmp_path: Path) -> None:
    finished(tmp_path, "full", 0, 0.5)
    folder = tmp_path / "full" / "seed-0"
    assert not Job(folder, [sys.executable, "-c", "raise SystemExit(1)"], []).run()
    assert "| full |" not in table(tmp_path)
