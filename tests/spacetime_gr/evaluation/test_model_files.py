"""What a run tells of the rows that its model can read."""

from pathlib import Path

from spacetime_gr.evaluation.model_files import DEFAULT_ACTIONS, trained_actions


def test_trained_actions(tmp_path: Path) -> None:
    assert trained_actions(tmp_path) == DEFAULT_ACTIONS  # an exported folder does not say
    (tmp_path / "config.yaml").write_text("data: {row_length: 1024}\nmodel: {}\n")
    assert trained_actions(tmp_path) == 256
