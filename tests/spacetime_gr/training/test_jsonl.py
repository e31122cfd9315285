"""metrics.jsonl: what a resumed run drops, and what it tells."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from spacetime_gr.training.callbacks.jsonl import JsonLines


def session(run: Path, start: int, steps: list[int]) -> None:
    """One start of a run from the checkpoint of step `start`, and what it logs."""
    trainer: Any = SimpleNamespace(run_dir=run, progress=SimpleNamespace(step=start))
    callback = JsonLines(is_main=True)
    callback.on_start(trainer)
    for step in steps:
        callback.on_log(trainer, {"step": step})
    callback.close("stopped")


def test_the_first_line_after_a_resume_tells_where_it_came_from(tmp_path: Path) -> None:
    session(tmp_path, 0, [1, 2, 3])
    session(tmp_path, 2, [])  # stopped before it logged: nothing to tell
    session(tmp_path, 2, [3, 4])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3, "resumed_from": 2}, {"step": 4}]


def test_a_line_cut_short_is_dropped(tmp_path: Path) -> None:
    session(tmp_path, 0, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    session(tmp_path, 2, [3])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
