"""The command: dry run, refusals, and what is decided before any process group exists."""

import json
from pathlib import Path

import pytest
import torch

from spacetime_gr.training.checkpoints import CheckpointStore
from spacetime_gr.training.data import load_tokenizer
from spacetime_gr.training.distributed import World
from spacetime_gr.training.loading import dump_config, load_config
from spacetime_gr.training.model import attention_implementation, model_config
from spacetime_gr.training.pretrain import _open_run, check_run, check_same_run, finished_before, main
from tests.spacetime_gr.training.prepared_city import write_city


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
    assert numbers["attention"] == "sdpa"
    assert text.splitlines()[-1] == (f"deepspeed --num_accelerators 4 launch/pretrain.py --config {file} train.lr=0.01")
    assert not Path(load_config(file).run.dir).exists()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.precision=bf16", "varlen"),
        ("train.precision=fp32", "sdpa"),
        ("train.compile=true", "sdpa"),
        ("model.attention_dropout=0.1", "sdpa"),
        ("model.head_dim=12", "sdpa"),
        ("model.attn_implementation=eager", "eager"),
    ],
)
def test_attention_on_a_gpu(file: Path, override: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variable-length attention where its kernel takes the model, unless the configuration says otherwise."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    config = load_config(file, [override])
    sizes = model_config(config, load_tokenizer(config))
    assert attention_implementation(config, sizes, torch.device("cuda", 0)) == expected
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert attention_implementation(config, sizes, torch.device("cuda", 0)) in ("sdpa", "eager")


def test_dry_run_without_data_takes_sizes_from_the_model(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["model.num_blocks=1000", "model.num_inner=64", "model.num_pois=50000"]
    assert main(["--config", str(file), "--dry-run", "data.path=absent", *sizes]) == 0
    assert "absent does not exist yet" in capsys.readouterr().out


def test_dry_run_plans_tiles_before_there_is_data(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Their number is the index's to say; a quadtree of n blocks has n - 1 at most."""
    asked = ["--config", str(file), "--dry-run", "data.path=absent", "model.num_blocks=1000"]
    embeddings = []
    for tiles in ("false", "true"):
        assert main([*asked, f"model.block_ancestors={tiles}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        embeddings.append(next(int(x.split()[-1].replace(",", "")) for x in lines if x.startswith("parameters")))
    assert embeddings[1] - embeddings[0] == 1000 * 32  # with the row of 'none'
    assert main([*asked[:-1], "model.num_blocks=abc", "model.block_ancestors=true"]) == 2
    assert "num_blocks is 'abc'" in capsys.readouterr().err


def test_dry_run_counts_the_place_tables(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["model.num_pois=10000000", "model.poi_embedding_size=64"]
    assert main(["--config", str(file), "--dry-run", "data.path=absent", *sizes]) == 0
    gigabytes = {line[:24].strip(): float(line.split()[-2]) for line in capsys.readouterr().out.splitlines()
                 if line.endswith(" GB")}  # fmt: skip
    # A vector in float16, category, fine position, popularity, loyalty of each place; the blocks' tables are small.
    assert gigabytes["place tables"] == pytest.approx(10_000_000 * (64 * 2 + 4 + 2 + 1 + 1) / 1e9, abs=0.01)
    assert gigabytes["total"] == pytest.approx(sum(gigabytes.values()) - gigabytes["total"], abs=0.01)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.gradient_accumulation=3", "data.num_lanes=8 is not a multiple of 3"),
        ("model.num_blocks=7", "model.num_blocks=7, but the tokenizer in"),
        ("model.num_attention_heads=3", "hidden_size 32 is not a multiple of num_attention_heads 3"),
        ("model.hidden_size=abc", "hidden_size is 'abc'; expected a whole number"),
        ("model.attn_implementation=flash", "expected one of sdpa, eager, varlen"),
        ("model.poi_embedding_size=3", "poi_embeddings.npy is missing, but model.poi_embedding_size=3"),
        ("deepspeed.config={zero_optimization: 5}", "zero_optimization=5; expected a mapping"),
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


def test_a_file_that_is_no_text_is_one_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_bytes(b"run: \xff\xfe\n")
    assert main(["--config", str(file), "--dry-run"]) == 2
    assert f"{file} is not YAML" in capsys.readouterr().err


def test_settings_are_said_once_a_node_and_faults_by_each_rank(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing file may be missing on one node only; a damaged shard may meet any one rank."""
    monkeypatch.setenv("WORLD_SIZE", "4")

    def said(rank: int, local_rank: int, *overrides: str) -> str:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        assert main(["--config", str(file), *overrides]) == 2
        return capsys.readouterr().err

    wrong = "train.gradient_accumulation=3"
    assert said(0, 0, wrong).startswith("error: data.num_lanes=8 is not a multiple")
    assert said(2, 0, wrong).startswith("error on rank 2: data.num_lanes=8")
    assert said(1, 1, wrong) == said(3, 1, wrong) == ""

    def fail(config: object) -> None:
        raise OSError("cannot read part-00000.parquet")

    monkeypatch.setattr("spacetime_gr.training.pretrain.run", fail)
    assert said(3, 1) == "error on rank 3: cannot read part-00000.parquet\n"


def test_missing_data_is_said_before_any_process_group(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(file), "data.path=absent"]) == 2
    assert capsys.readouterr().err.startswith("error: no prepared folder at absent")
    assert not Path(load_config(file).run.dir).exists()


def test_a_held_out_part_that_cleaning_empties_is_said_before_training(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = write_city(tmp_path / "short", validation_actions=4)
    settings = [f"data.path={short}", "data.cleaning={min_actions: 5}", "train.precision=fp32"]
    assert main(["--config", str(file), *settings]) == 2
    said = capsys.readouterr().err
    assert "'validation'" in said
    assert "sequences_too_short 12" in said
    assert "eval.at_end=false" in said
    assert not Path(load_config(file).run.dir).exists()
    check_run(load_config(file, [*settings, "eval.at_end=false"]), World(0, 1, 0, 1, torch.device("cpu")))


def test_a_run_that_must_be_there_is_not_begun_anew(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(file), "run.resume=required"]) == 2
    assert "run.resume=required, but there is no checkpoint in" in capsys.readouterr().err
    assert not Path(load_config(file).run.dir).exists()


def test_a_restarted_job_says_that_it_begins_anew(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, alone = load_config(file), World(0, 1, 0, 1, torch.device("cpu"))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    _open_run(config, alone)
    assert f"(restart 2), but {config.run.dir} holds no run: it begins anew" in capsys.readouterr().err
    _open_run(config, alone)  # it is there now
    assert capsys.readouterr().err == ""


def test_a_damaged_status_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(load_config(file).run.dir)
    folder.mkdir()
    (folder / "status.json").write_text('{"state": "fini')
    assert main(["--config", str(file)]) == 2
    assert f"{folder / 'status.json'} is damaged" in capsys.readouterr().err


def test_a_continued_run_has_no_export_of_its_earlier_end(file: Path) -> None:
    config = load_config(file)
    export = Path(config.run.dir) / "export"
    export.mkdir(parents=True)
    (export / "config.json").write_text("{}")
    _open_run(config, World(0, 1, 0, 1, torch.device("cpu")))
    assert not export.exists()


def test_a_run_directory_holds_one_setting(file: Path) -> None:
    config = load_config(file)
    folder = Path(config.run.dir)
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config))
    check_same_run(load_config(file, ["data.num_lanes=16"]))  # nothing was trained yet
    store = CheckpointStore(folder / "checkpoints")
    store.start(1)
    store.finish(1, permanent=True, meta={}, seals={})
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
