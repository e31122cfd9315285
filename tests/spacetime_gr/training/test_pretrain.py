"""The command: dry run, refusals, and what is decided before any process group exists."""

import json
from pathlib import Path

import pytest

from spacetime_gr.training.checkpoints import CheckpointStore
from spacetime_gr.training.loading import dump_config, load_config
from spacetime_gr.training.pretrain import check_same_run, finished_before, main


@pytest.fixture
def file(city: Path, tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\ndata: {{path: {city}, num_lanes: 8, row_length: 64}}\n"
        "model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_user_buckets: 8}\n"
        "train: {max_steps: 5, gradient_accumulation: 2, precision: bf16}\ndeepspeed: {zero_stage: 2}\n"
    )
    return path


def test_dry_run_states_sizes_memory_and_command(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(file), "--dry-run", "--world-size", "4", "train.lr=0.01"]) == 0
    text = capsys.readouterr().out
    numbers = {line.split()[0]: line.split()[1] for line in text.splitlines() if len(line.split()) > 1}
    total = int(numbers["parameters"].replace(",", ""))
    assert total == sum(int(numbers[part].replace(",", "")) for part in ("embedding", "body", "head"))
    assert "512 tokens = 4 ranks x 2 micro-batches x 1 rows x 64" in text
    assert "ZeRO stage 2, 4 ranks, bf16" in text
    assert text.splitlines()[-1] == (f"deepspeed --num_accelerators 4 launch/pretrain.py --config {file} train.lr=0.01")
    assert not Path(load_config(file).run.dir).exists()


def test_dry_run_without_data_takes_sizes_from_the_model(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["model.num_blocks=1000", "model.num_inner=64", "model.num_pois=50000"]
    assert main(["--config", str(file), "--dry-run", "data.path=absent", *sizes]) == 0
    assert "absent does not exist yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.gradient_accumulation=3", "data.num_lanes=8 is not a multiple of 3"),
        ("model.num_blocks=7", "model.num_blocks=7, but the tokenizer in"),
        ("model.num_attention_heads=3", "hidden_size 32 is not a multiple of num_attention_heads 3"),
    ],
)
def test_refusals_are_one_line(file: Path, override: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(file), "--dry-run", override]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_broken_yaml_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("run: {dir: [}\n")
    assert main(["--config", str(file), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert f"{file} is not YAML" in error
    assert error.count("\n") == 1


def test_a_run_directory_holds_one_setting(file: Path) -> None:
    config = load_config(file)
    folder = Path(config.run.dir)
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config))
    check_same_run(load_config(file, ["data.num_lanes=16"]))  # nothing was trained yet
    store = CheckpointStore(folder / "checkpoints")
    store.start(1)
    store.finish(1, permanent=True, meta={})
    check_same_run(load_config(file, ["train.max_steps=50", "log.every=3"]))
    with pytest.raises(ValueError, match=r"was started with data.num_lanes=8, now data.num_lanes=16"):
        check_same_run(load_config(file, ["data.num_lanes=16"]))


def test_finished_counts_for_its_limits_only(file: Path) -> None:
    config = load_config(file)
    assert not finished_before(config)
    folder = Path(config.run.dir)
    folder.mkdir()
    limits = {"max_steps": 5, "max_tokens": None, "max_minutes": None}
    (folder / "status.json").write_text(json.dumps({"state": "finished", "limits": limits}))
    assert finished_before(config)
    assert main(["--config", str(file)]) == 0
    assert not finished_before(load_config(file, ["train.max_steps=6"]))
