"""The code of docs/tokenizer.md runs, block after block (but for the one that needs a hub; test_hub does that)."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tokenizer.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        if not block.startswith("# hub"):
            exec(compile(block, PAGE.name, "exec"), names)
    assert names["lists"]["input_ids"] == names["tokenizer"](names["columns"])["input_ids"]
    assert "p17" not in names["places"][0]["poi_id"]
    assert names["tokenizer"].decode(names["batch"]["input_ids"][0])[0]["hour_of_week"] == 112
