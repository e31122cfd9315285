"""Configuration: overrides, includes, and errors that name the setting to change."""

from pathlib import Path

import pytest
import yaml

from spacetime_gr.training.engine import deepspeed_settings, resolve_stage
from spacetime_gr.training.loading import dump_config, load_config

MINIMAL = "run: {dir: r}\ndata: {path: d}\ntrain: {max_steps: 10}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return path


def test_overrides_win_in_order_and_are_typed(file: Path) -> None:
    config = load_config(file, ["train.max_steps=20", "train.max_steps=30", "train.lr=3e-4", "run.tags=[a, b]"])
    assert (config.train.max_steps, config.train.lr, config.run.tags) == (30, 3e-4, ["a", "b"])


def test_dump_reads_back_equal(file: Path, tmp_path: Path) -> None:
    config = load_config(file, ["model.hidden_size=32", "train.betas=[0.8, 0.9]", "data.curriculum.final_share=0.5"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config


def test_model_file_is_included_and_overridden(file: Path, tmp_path: Path) -> None:
    (tmp_path / "size.yaml").write_text("hidden_size: 48\nnum_hidden_layers: 3\n")
    config = load_config(file, ["model=size.yaml", "model.hidden_size=96"])
    assert config.model == {"hidden_size": 96, "num_hidden_layers": 3}


def test_later_files_are_laid_over_earlier_ones(file: Path, tmp_path: Path) -> None:
    (tmp_path / "size.yaml").write_text("hidden_size: 48\nnum_hidden_layers: 3\n")
    base = tmp_path / "base.yaml"
    base.write_text(MINIMAL + "model: size.yaml\n")
    layers = tmp_path / "layers"
    layers.mkdir()
    (layers / "one.yaml").write_text("model: {hidden_size: 64}\ntrain: {lr: 0.1, betas: [0.5, 0.5]}\n")
    (layers / "two.yaml").write_text("train: {lr: 0.2}\n")
    config = load_config(
        [base, layers / "one.yaml", layers / "two.yaml"], ["train.lr=0.3", "model.num_hidden_layers=5"]
    )
    assert config.model == {"hidden_size": 64, "num_hidden_layers": 5}
    assert (config.train.lr, config.train.betas, config.train.max_steps) == (0.3, (0.5, 0.5), 10)


def test_a_later_file_may_name_another_model(file: Path, tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    layers.mkdir()
    (layers / "size.yaml").write_text("hidden_size: 48\n")
    (layers / "one.yaml").write_text("model: size.yaml\n")
    file.write_text(MINIMAL + "model: {hidden_size: 8, num_hidden_layers: 1}\n")
    assert load_config([file, layers / "one.yaml"]).model == {"hidden_size": 48}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {hiden_size: 5}", "did you mean 'model.hidden_size'"),
        ("model: nowhere.yaml", "no file 'nowhere.yaml'"),
        ("train: 5", "section train: expected"),
    ],
)
def test_errors_of_a_layer_name_its_file(file: Path, tmp_path: Path, text: str, said: str) -> None:
    layer = tmp_path / "layer.yaml"
    layer.write_text(text)
    with pytest.raises(ValueError, match=r"layer\.yaml") as error:
        load_config([file, layer])
    assert said in str(error.value)


def test_repository_files_are_found_from_anywhere(file: Path) -> None:
    assert load_config(file, ["model=configs/model/nano.yaml"]).model["hidden_size"] == 64


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.max_step=5", "'train.max_step'; did you mean 'train.max_steps'"),
        ("trian.max_steps=5", "did you mean 'train.max_steps'"),
        ("max_steps=5", "did you mean 'train.max_steps'"),
        ("model.hiden_size=5", "did you mean 'model.hidden_size'"),
        ("train.row_length=5", "did you mean 'data.row_length'"),
        ("train.max_steps", "not of the form section.key=value"),
        ("train.max_steps.more=1", "train.max_steps is a value, not a section"),
        ("train.max_steps=0", "train.max_steps: Input should be greater than 0, got 0"),
        ("data.row_length=30", "data.row_length: Input should be a multiple of 4, got 30"),
        ("train.max_steps=null", "set train.max_steps, train.max_tokens or train.max_minutes"),
        ("train.schedule=linear", "train.schedule"),
        ("deepspeed.config=nowhere.json", "no file 'nowhere.json'; looked for"),
        ("train=5", "section train: expected `key: value` lines"),
        ("train.lr=[1", "override 'train.lr=[1': the value is not YAML"),
        ("data.cleaning={anchors: 3}", "unknown setting data.cleaning.anchors"),
        ("data.path=[{path: a, wait: 2}]", "unknown setting data.path[0].wait (did you mean 'weight'?)"),
        ("data.path=[]", "data.path is an empty list"),
        ("data.cleaning={rules: nowhere.yaml}", "no file 'nowhere.yaml'; looked for"),
        ("data.cleaning={min_actions: many}", "cleaning.min_actions must be a whole number"),
        ("data.curriculum={schedule: steep}", "curriculum.schedule must be one of"),
    ],
)
def test_errors_name_the_setting(file: Path, override: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_config(file, [override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_required_setting_and_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("run: {dir: r}\ntrain: {max_steps: 1}\n")
    with pytest.raises(ValueError, match="data is required"):
        load_config(path)
    with pytest.raises(ValueError, match="no configuration file at"):
        load_config(tmp_path / "absent.yaml")


def test_lanes_must_divide(file: Path) -> None:
    config = load_config(file, ["data.num_lanes=12", "train.gradient_accumulation=2"])
    assert config.rows_per_micro_batch(3) == 2
    with pytest.raises(ValueError, match=r"data.num_lanes=12 is not a multiple of 8 = 4 ranks.*to 8 or 16") as caught:
        config.rows_per_micro_batch(4)
    assert "train.gradient_accumulation=2" in str(caught.value)


def test_ephemeral_must_be_more_often(file: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint.ephemeral_every=10 is not more often than checkpoint.every=10"):
        load_config(file, ["checkpoint.every=10", "checkpoint.ephemeral_every=10"])


def test_deepspeed_file_and_our_settings(file: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 3, "reduce_bucket_size": 1000}}')
    config = load_config(file, ["deepspeed.config=zero.json", "data.num_lanes=8", "train.gradient_accumulation=2"])
    assert resolve_stage(config) == 3
    settings = deepspeed_settings(config, world_size=2, precision="fp32")
    assert settings["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 1000}
    assert settings["train_batch_size"] == 8
    assert settings["train_micro_batch_size_per_gpu"] == 2
    assert settings["gradient_accumulation_steps"] == 2
    assert settings["gradient_clipping"] == config.train.clip


@pytest.mark.parametrize(
    ("raw", "overrides", "said"),
    [
        ({"zero_optimization": {"stage": 3}}, ["deepspeed.zero_stage=2"], "set only one"),
        ({"gradient_clipping": 5.0}, [], "train.clip gives 1.0"),
        ({"optimizer": {"type": "Adam"}}, [], "use train.lr"),
        ({"fp16": {"enabled": True}}, [], "train.precision"),
        ({}, ["deepspeed.offload=all"], "does not go with ZeRO stage 1"),
    ],
)
def test_deepspeed_contradictions(file: Path, raw: dict, overrides: list[str], said: str) -> None:
    file.write_text(MINIMAL + yaml.safe_dump({"deepspeed": {"config": raw}}))
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        deepspeed_settings(load_config(file, overrides), world_size=1, precision="fp32")
    assert said in str(caught.value)


def test_shipped_configurations_load() -> None:
    root = Path(__file__).parents[3] / "configs" / "pretrain"
    files = sorted(root.glob("*.yaml"))
    assert files
    for path in files:
        config = load_config(path)
        deepspeed_settings(config, world_size=1, precision="fp32")
