"""What an exported model tells of itself, and what is said of one that does not fit."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from spacetime_gr import SpacetimeGRTokenizer
from spacetime_gr.evaluation.model_files import load_exported, trained_actions
from spacetime_gr.vocabulary import DEFAULT_CONTEXT_ACTIONS
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model


@pytest.fixture
def exported(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> Path:
    make_model(tokenizer, context_actions=255).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_trained_actions(exported: Path) -> None:
    assert trained_actions(exported) == 255
    file = exported / "config.json"
    settings = json.loads(file.read_text())
    del settings["context_actions"]
    file.write_text(json.dumps(settings))
    assert trained_actions(exported) == DEFAULT_CONTEXT_ACTIONS
    for damaged in ("", "[]"):
        file.write_text(damaged)
        with pytest.raises(ValueError, match=r"config.json is damaged"):
            trained_actions(exported)


def test_weights_of_another_version_are_refused(exported: Path) -> None:
    load_exported(exported)
    file = exported / "model.safetensors"
    weights = load_file(file)
    del weights["places.loyalty"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack places.loyalty .* another version"):
        load_exported(exported)
    weights["inner_pointer.gate_signs.weight"] = weights["inner_pointer.gate_signs.weight"][:, :4].contiguous()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match="do not fit this version"):
        load_exported(exported)
