"""configs/ablation: every file is a small layer over any run, and the model can be built with it."""

from pathlib import Path

import pytest

from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer
from spacetime_gr.configuration_spacetime_gr import SIDE_SWITCHES
from spacetime_gr.training.loading import ROOT, load_config
from spacetime_gr.training.model import model_config

OVERLAYS = sorted((ROOT / "configs" / "ablation").glob("*.yaml"))
BASE = ROOT / "configs" / "pretrain" / "nyc.yaml"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda file: file.stem)
def test_overlay_changes_the_model_and_nothing_else(overlay: Path, tokenizer: SpacetimeGRTokenizer) -> None:
    base, changed = load_config(BASE), load_config([BASE, overlay])
    assert changed.model != base.model
    assert changed.model_copy(update={"model": base.model}) == base
    assert overlay.read_text().startswith("# ")
    before, after = model_config(base, tokenizer), model_config(changed, tokenizer)
    assert before.to_dict() != after.to_dict()  # it is no default written out
    SpacetimeGRForCausalLM(after)


def test_every_switch_has_an_overlay() -> None:
    assert {name for file in OVERLAYS for name in load_config([BASE, file]).model} >= set(SIDE_SWITCHES)
