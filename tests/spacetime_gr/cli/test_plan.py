"""The command: a whole plan, remedies, and refusals."""

import json
from pathlib import Path

import pytest

from spacetime_gr.cli.main import main
from spacetime_gr.training.pretrain import main as pretrain

CORPUS = ["--config", "configs/pretrain/corpus.yaml", "data.path=absent"]
PLACES = ["model.num_blocks=200000", "model.num_inner=512", "model.num_pois=100000000"]


def run(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["spacetime-gr", "plan", *arguments])
    monkeypatch.setenv("COLUMNS", "140")
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


def test_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    asked = [*CORPUS, *PLACES, "--gpus", "256", "--gpu", "h100", "--tokens", "1e12", "--json", str(file)]
    code, shown, said = run([*asked, "data.num_lanes=1024"], monkeypatch, capsys)
    assert code == 0
    assert "absent does not exist yet" in said
    for words in (
        "256 x h100 in 32 nodes",
        "loss chunk",
        "fits 80 GB",
        "MFU",
        "GPU hours",
        "cheapest: deepspeed.zero_",
    ):
        assert words in shown
    found = json.loads(file.read_text())
    assert len(found["options"]) == 8
    assert found["attention"] == "varlen"
    assert found["steps"] == 1e12 / (1024 * 4096)
    for option in found["options"]:
        assert option["memory_total"] == pytest.approx(sum(option["memory"].values()))
        assert option["fits"] == (option["memory_total"] <= 80e9)
        assert option["days"] == pytest.approx(found["steps"] * option["step"]["total"] / 86_400)
        assert option["gpu_hours"] == pytest.approx(option["days"] * 24 * 256)
    fitting = [option for option in found["options"] if option["fits"]]
    assert found["cheapest"] is not None
    assert min(fitting, key=lambda option: option["step"]["total"])["step"]["mfu"] < 0.5


def test_the_dry_run_has_the_same_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Less the allowance, and by the same back end of attention."""
    file = tmp_path / "plan.json"
    settings = [*PLACES, "data.num_lanes=64", "model.attn_implementation=sdpa"]
    assert run([*CORPUS, *settings, "--gpus", "8", "--json", str(file)], monkeypatch, capsys)[0] == 0
    options = json.loads(file.read_text())["options"]
    option = next(option for option in options if (option["zero_stage"], option["offload"]) == (2, "none"))
    assert pretrain([*CORPUS[:2], "--dry-run", "--world-size", "8", CORPUS[2], *settings]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.endswith(" GB")]
    gigabytes = {line.rsplit(maxsplit=2)[0]: float(line.split()[-2]) for line in lines}
    for component in ("weights", "activations", "loss chunk", "place tables", "optimizer states", "master weights"):
        assert gigabytes.get(component, 0.0) == pytest.approx(option["memory"][component] / 1e9, abs=0.001)


def test_what_to_change_where_nothing_fits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--gpus", "8", "--gpu", "a10", *PLACES]
    small += ["train.gradient_accumulation=1", "train.gradient_checkpointing=false"]
    code, shown, _ = run([*CORPUS, *small], monkeypatch, capsys)
    assert code == 0
    assert "nothing fits" in shown
    assert "set train.gradient_accumulation=" in shown
    code, shown, _ = run([*CORPUS, *small, "model.hidden_size=49152"], monkeypatch, capsys)
    assert "take more or larger GPUs" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--gpus", "8"], "no configuration; give one, as in --config"),
        ([*CORPUS], "either --gpus 256, or --nodes 32"),
        ([*CORPUS, "--gpus", "8", "--nodes", "1"], "either --gpus 256, or --nodes 32"),
        ([*CORPUS, "--gpus", "8", "--gpu", "h1000"], "no device 'h1000' is known"),
        ([*CORPUS, "--gpus", "256"], "set data.num_lanes to 1024"),
        ([*CORPUS, "--gpus", "8", "--gpu", "v100"], "V100 has no bf16; set train.precision=fp32"),
        ([*CORPUS, "--gpus", "8", "train.lrr=1"], "train.lr"),
    ],
)
def test_refusals(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(arguments, monkeypatch, capsys)
    assert code == 2
    assert said in error
