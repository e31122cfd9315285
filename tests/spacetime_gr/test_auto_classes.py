"""The Auto classes find this project after a mere import, in either order, and the import loads nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from spacetime_gr import SpacetimeGRTokenizer
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

LIGHT = """
import sys
import spacetime_gr
heavy = {"torch", "transformers", "numpy", "pandas", "pyarrow", "huggingface_hub"} & set(sys.modules)
assert not heavy, heavy
assert set(spacetime_gr.__all__) <= set(dir(spacetime_gr))
"""
FIRST = LIGHT + "from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer\n"
SECOND = """
import sys
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
import spacetime_gr
"""
USE = """
loaded = [name for name in sys.modules if name.startswith("spacetime_gr.")]
assert loaded == ["spacetime_gr.auto_classes"], loaded
model_folder, tokenizer_folder = sys.argv[1:]
for folder in (tokenizer_folder, model_folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer) is spacetime_gr.SpacetimeGRTokenizer
    assert AutoTokenizer.from_pretrained(folder, padding_side="right").padding_side == "right"
assert "spacetime_gr.modeling_spacetime_gr" not in sys.modules
config = AutoConfig.from_pretrained(model_folder)
assert type(config) is spacetime_gr.SpacetimeGRConfig
assert type(AutoConfig.for_model("spacetime_gr")) is spacetime_gr.SpacetimeGRConfig
assert type(AutoModelForCausalLM.from_pretrained(model_folder)) is spacetime_gr.SpacetimeGRForCausalLM
assert type(AutoModelForCausalLM.from_config(config)) is spacetime_gr.SpacetimeGRForCausalLM
assert type(AutoModel.from_config(config)) is spacetime_gr.SpacetimeGRModel
assert type(AutoConfig.for_model("qwen3")).__name__ == "Qwen3Config"
assert len(tokenizer) == tokenizer.vocab_size == config.vocab_size
assert tokenizer.pad_token_id == config.pad_token_id == 0
"""


@pytest.fixture(scope="module")
def folders(tokenizer: SpacetimeGRTokenizer, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model with its tokenizer, and a tokenizer alone."""
    model, alone = (tmp_path_factory.mktemp(name) for name in ("model", "tokenizer"))
    make_model(tokenizer).save_pretrained(model)
    for folder in (model, alone):
        tokenizer.save_pretrained(folder)
    return [str(model), str(alone)]


@pytest.mark.parametrize("imports", [FIRST, SECOND], ids=["before transformers", "after transformers"])
def test_the_auto_classes_find_us(folders: list[str], imports: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(imports + USE)
    done = subprocess.run([sys.executable, script, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
