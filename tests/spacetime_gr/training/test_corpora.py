"""Several prepared folders in one run."""

import json
import shutil
from pathlib import Path

import pytest

from spacetime_gr.training.callbacks.console import Console
from spacetime_gr.training.callbacks.goodput import Goodput
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import corpora_with, load_tokenizer, open_stream
from spacetime_gr.training.loading import dump_config, load_config


@pytest.fixture
def twin(city: Path, tmp_path: Path) -> Path:
    """A second folder with the same POIs and other sequences, and no validation part."""
    folder = tmp_path / "twin"
    shutil.copytree(city, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = [entry for entry in manifest["files"] if entry["split"] == "train"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def config_of(tmp_path: Path, path: str) -> PretrainConfig:
    file = tmp_path / "run.yaml"
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {name: saving, behaviour: functional, actions: [save]}\n")
    file.write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\ndata: {{path: {path}, num_lanes: 8, row_length: 64, "
        "cleaning: {rules: rules.yaml}}\ntrain: {max_steps: 5}\n"
    )
    return load_config(file)


def test_a_run_reads_several_folders_by_weight(city: Path, twin: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, f"[{{path: {city}, weight: 2}}, {twin}]")
    assert [(str(corpus.path), corpus.weight) for corpus in config.data.corpora] == [(str(city), 2), (str(twin), 1)]
    tokenizer = load_tokenizer(config)
    stream = open_stream(config, tokenizer)
    next(stream)
    assert set(stream.corpus_shares) == {str(city), str(twin)}
    assert stream.stats()["actions_rule_saving"] > 0
    assert [corpus.path for corpus in corpora_with(config, "validation")] == [str(city)]
    assert list(open_stream(config, tokenizer, split="validation").rows_once())


def test_rules_of_a_file_are_written_out_in_the_resolved_configuration(city: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, str(city))
    assert config.data.cleaning == {"rules": [{"name": "saving", "behaviour": "functional", "actions": ["save"]}]}
    (tmp_path / "rules.yaml").unlink()
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_folders_with_another_tokenizer_are_refused(city: Path, twin: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, f"[{city}, {twin}]")
    description = twin / "tokenizer" / "poi_index" / "index.json"
    content = json.loads(description.read_text())
    content["sha256"] = dict.fromkeys(content["sha256"], "0")
    description.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"data.path: the tokenizers of .*twin and .*city differ in their POI index"):
        load_tokenizer(config)
    shutil.rmtree(twin / "tokenizer")
    with pytest.raises(ValueError, match=r"twin/tokenizer is missing; run `spacetime-gr prepare"):
        load_tokenizer(config)


def test_the_console_ends_with_what_cleaning_left(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(is_main=True, goodput=Goodput(is_main=True))
    console.counts = {"sequences_read": 9, "actions_read": 200, "actions_too_short": 3, "actions_functional": 50}
    console.close("finished")
    said = capsys.readouterr().err
    assert "9 sequences, 200 actions read; dropped of the actions: too_short 1.5%; functional 25.0%" in said
