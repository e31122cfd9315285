"""A run continues on another number of ranks and under another ZeRO stage."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from spacetime_gr import SpacetimeGRForCausalLM
from spacetime_gr.training.checkpoints import CheckpointStore
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer, open_stream
from spacetime_gr.training.engine import trained_names
from spacetime_gr.training.exporting import export_run
from spacetime_gr.training.loading import load_config
from spacetime_gr.training.resharding import load_weights
from tests.spacetime_gr.training.processes import RankServer, wait_ranks

CONFIG = """
data: {path: CITY, row_length: 64, num_lanes: 4}
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_user_buckets: 16, spatial_features: 8,
        pointer_size: 8}
train: {max_steps: 12, warmup_steps: 2, average_power: 1}
deepspeed: {zero_stage: 3}
checkpoint: {every: 8, asynchronous: true}
log: {every: 2}
eval: {num_rows: 4}
"""


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@torch.no_grad()
def held_out_loss(config: PretrainConfig, model: SpacetimeGRForCausalLM) -> float:
    """Of the first `eval.num_rows` held-out rows."""
    tokenizer = load_tokenizer(config)
    batch = next(open_stream(config, tokenizer, split="validation").rows_once())
    assert len(batch["input_ids"]) == config.eval.num_rows
    out = model(**{name: torch.from_numpy(value) for name, value in batch.items()}, num_items_in_batch=1.0)
    return float(out.loss_sums.sum() / out.loss_counts.sum())


@pytest.mark.distributed
def test_two_ranks_then_one_under_another_stage(city: Path, tmp_path: Path, ranks: RankServer) -> None:
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(f"run: {{dir: {run}}}\n{CONFIG.replace('CITY', str(city))}")
    command = ["launch/pretrain.py", "--config", str(config)]
    wait_ranks(ranks.start(command, 2, tmp_path), tmp_path)
    whole = losses(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]
    exported = (run / "export").rename(tmp_path / "export")
    again = export_run(run, tmp_path / "again")  # of the checkpoint: the shards of two ranks
    assert (again / "model.safetensors").read_bytes() == (exported / "model.safetensors").read_bytes()
    assert "| weights | averaged over all steps, step t weighing t^1 |" in (exported / "README.md").read_text()
    # The held-out loss is that of the exported weights, which are not the last ones.
    settings = load_config(config)
    model = SpacetimeGRForCausalLM.from_pretrained(exported).train(False)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert held_out_loss(settings, model) == pytest.approx(last["eval_loss"], rel=1e-5)
    load_weights(model, CheckpointStore(run / "checkpoints").open(12), trained_names(model, settings))
    assert held_out_loss(settings, model) != pytest.approx(last["eval_loss"], rel=1e-4)

    shutil.rmtree(run / "checkpoints" / "step-00000012")
    (run / "status.json").unlink()

    wait_ranks(ranks.start([*command, "deepspeed.zero_stage=2"], 1, tmp_path), tmp_path)
    assert "resumed at step 8" in (tmp_path / "rank-0.log").read_text()
    assert losses(run) == pytest.approx(whole, rel=1e-5)


@pytest.mark.distributed
def test_every_stage_goes_on_under_another(city: Path, tmp_path: Path, ranks: RankServer) -> None:
    worker = "tests/spacetime_gr/training/resharding_worker.py"
    for world_size, num_cases in ((2, 8), (1, 7)):
        wait_ranks(ranks.start([worker, str(city), str(tmp_path)], world_size, tmp_path), tmp_path)
        found = json.loads((tmp_path / f"results-{world_size}.json").read_text())
        # Of the checkpoints, last and averaged weights: in one process what they are in the engine of two ranks.
        assert [case["worst"] for case in found["exports"]] == [0] * (6 if world_size == 2 else 0), found["exports"]
        assert len(found["cases"]) == num_cases
        for case in found["cases"]:
            assert case["names"], case
            assert case["step"] == 2, case
            assert case["copied"] == 0, case
            # Sums over the ranks are rounded in another order, in bf16 coarsely.
            assert case["worst"] < (1e-6 if case["precision"] == "fp32" else 0.005), case
