"""Push and pull with the real client against a hub on this machine, in one process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from spacetime_gr import SpacetimeGRTokenizer
from tests.spacetime_gr.stand_in_hub import stand_in_hub
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

DUMMY_TOKEN = "hf_dummyDUMMYdummyDUMMYdummy"


def test_push_and_pull(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with stand_in_hub(DUMMY_TOKEN) as (hub, address):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        environment |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "DUMMY_TOKEN": DUMMY_TOKEN}
        environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-m", "tests.spacetime_gr.hub_visitor", str(folder)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert hub.refused > 0  # the visitor did try without a token

    alone, both, grown = (
        sorted(hub.files(*where) or {})
        for where in (("someone/tokenizer", "main"), ("someone/model", "main"), ("someone/model", "grown"))
    )
    assert "tokenizer_config.json" in alone
    assert "poi_index/base-1/ids.arrow" in alone
    assert "config.json" not in alone
    assert {"config.json", "model.safetensors", *alone} <= set(both)
    assert "poi_index/grown-1/ids.arrow" in grown
    # The token went to the hub and nowhere else.
    assert DUMMY_TOKEN not in done.stdout + done.stderr
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or DUMMY_TOKEN.encode() not in file.read_bytes(), file
    for files in hub.commits.values():
        assert not any(DUMMY_TOKEN.encode() in data for data in files.values())
