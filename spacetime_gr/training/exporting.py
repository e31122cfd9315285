"""From an engine to a Hugging Face folder: config, safetensors, tokenizer and model card."""

import copy
import json
import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from spacetime_gr import SpacetimeGRForCausalLM
from spacetime_gr.training.checkpoints import CheckpointStore
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import load_tokenizer
from spacetime_gr.training.distributed import World
from spacetime_gr.training.engine import trained_names
from spacetime_gr.training.flops import count_parameters
from spacetime_gr.training.loading import load_config
from spacetime_gr.training.model import model_config
from spacetime_gr.training.resharding import load_weights
from spacetime_gr.training.snapshots import newest_intact


def export_engine(engine: Any, tokenizer: Any, folder: Path, config: PretrainConfig, record: dict[str, Any]) -> None:
    """Write `folder` on rank 0, whole or not at all. Collective: under ZeRO-3 every rank hands in its shards.

    Args:
        engine: a DeepSpeed engine around a SpacetimeGRForCausalLM.
        tokenizer: saved beside the weights.
        folder: replaced if it exists.
        config, record: the run and its last line of metrics, for the model card.
    """
    state = gathered_state(engine.module)
    if dist.get_rank() == 0:
        write_export(engine.module, state, tokenizer, folder, config, record)


def export_run(run_dir: str | Path, out: str | Path) -> Path:
    """The model of a run as a Hugging Face folder: its `export/` if finished, else made from its newest checkpoint.

    One process, no GPU.

    Args:
        run_dir: a run directory.
        out: new folder.

    Returns:
        `out`.

    Raises:
        ValueError: `out` exists, or the run has no intact checkpoint.
    """
    run_dir, out = Path(run_dir), Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose a new folder, or remove it")
    if (run_dir / "export").is_dir():
        shutil.copytree(run_dir / "export", out)
        return out
    checkpoint = newest_intact(CheckpointStore(run_dir / "checkpoints"), World(0, 1, 0, 1, torch.device("cpu")))
    if checkpoint is None:
        raise ValueError(f"{run_dir} has neither export/ nor a complete checkpoint; train it with launch/pretrain.py")
    config = load_config(run_dir / "config.yaml")
    tokenizer = load_tokenizer(config)
    model = SpacetimeGRForCausalLM(model_config(config, tokenizer))
    load_weights(model, checkpoint, trained_names(model, config), averaged=config.train.average_power is not None)
    if checkpoint.meta["precision"] == "bf16":
        places = copy.deepcopy(model.places)
        model.to(torch.bfloat16).places = places
    record = json.loads((checkpoint.path / "rank-00000.json").read_text(encoding="utf-8"))["callbacks"]["Export"]
    write_export(model, model.state_dict(), tokenizer, out, config, record["last_record"])
    return out


def write_export(
    model: Any,
    state: dict[str, torch.Tensor],
    tokenizer: Any,
    folder: Path,
    config: PretrainConfig,
    record: dict[str, Any],
) -> None:
    """Write `folder`, whole or not at all; it is replaced if it exists."""
    unfinished = folder.with_name(f".unfinished-{folder.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    model.save_pretrained(unfinished, state_dict=state)
    tokenizer.save_pretrained(unfinished)
    (unfinished / "README.md").write_text(model_card(model, config, record), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


def gathered_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Full tensors of the state, on the CPU of rank 0 (empty on the others). Collective.

    One tensor is gathered at a time, so that no GPU holds the whole model. Tied tensors stay one tensor, so that
    save_pretrained recognises them.
    """
    import deepspeed

    parameters = dict(model.named_parameters(remove_duplicate=False))
    keep = dist.get_rank() == 0
    state: dict[str, torch.Tensor] = {}
    copies: dict[int, torch.Tensor] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        tensor = parameters.get(name, value)
        with deepspeed.zero.GatheredParameters([tensor]) if hasattr(tensor, "ds_id") else nullcontext():
            if keep:
                if id(tensor) not in copies:
                    copies[id(tensor)] = tensor.detach().cpu().clone()
                state[name] = copies[id(tensor)]
    return state


def model_card(model: Any, config: PretrainConfig, record: dict[str, Any]) -> str:
    """README.md of an exported model: what it is, how to load it, how it was trained."""
    counts = count_parameters(model)
    name = config.run.name or Path(config.run.dir).name
    results = [
        f"| {key} | {value:,.4f} |"
        for key, value in record.items()
        if key.startswith(("loss", "eval_")) and isinstance(value, int | float)
    ]
    power = config.train.average_power
    weights = "of the last step" if power is None else f"averaged over all steps, step t weighing t^{power:g}"
    return f"""---
library_name: transformers
tags:
- spacetime-gr
- generative-recommendation
- point-of-interest
---

# {name}

A Spacetime-GR model: a decoder that reads a person's history of actions on places as tokens and generates the next one.

```python
from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer

folder = "."  # this folder, or the name of its repository on a hub
model = SpacetimeGRForCausalLM.from_pretrained(folder).eval()
tokenizer = SpacetimeGRTokenizer.from_pretrained(folder)
places = model.recommend(tokenizer, histories, when=timestamps, where=coordinates, k=10)
```

It knows the places of its tokenizer only, and was trained on the data below only.

| | |
| --- | --- |
| parameters | {counts.total:,} (embedding {counts.embedding:,}, body {counts.body:,}, head {counts.head:,}) |
| places | {getattr(model.config, "num_pois", 0):,} |
| steps | {record.get("step", 0):,} |
| tokens seen | {record.get("tokens", 0):,} |
| row length | {config.data.row_length} tokens, {config.data.num_lanes} rows in a batch |
| data | {", ".join(f"`{Path(corpus.path).name}`" for corpus in config.data.corpora)} |
| seed | {config.train.seed} |
| weights | {weights} |

Loss in nats per supervised token (`eval_`: of these weights on held-out rows; else in training):

| | |
| --- | --- |
{os.linesep.join(results)}
"""
