"""SASRec (Kang and McAuley, ICDM 2018) of RecTools on a prepared folder, in the result form of `spacetime-gr evaluate`.

    python -m venv sasrec-env
    sasrec-env/bin/pip install "rectools[torch]==0.19.0" torch==2.13.0 pyarrow==21.0.0 rich safetensors
    PYTHONPATH=. sasrec-env/bin/python benchmarks/sasrec.py DATA --json sasrec.json

RecTools wants numpy below 2 and pandas below 3, so it has an environment of its own. SASRec reads places alone, no
times: its result is a blind one. RecTools trains on the last `--context` events of a user only; here each user's
training events are cut into windows, each a user to RecTools, so that all of them are trained on. The number of epochs
is chosen on the last part of training (by the protocol's own rule); then the model is trained anew on all of training.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rich.console import Console

from data_pipelines.prepared import PreparedFolder
from spacetime_gr.evaluation.counts import expand_ranges
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.harness import Task, evaluate_folder
from spacetime_gr.evaluation.inner_split import inner_instances, time_at, training_log
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.metrics import expected_ranks, summarise
from spacetime_gr.evaluation.protocols import BY_NAME, choose
from spacetime_gr.evaluation.report import print_report

VALIDATION_FROM = 0.88  # share of the training events, in time, as for the cascade
MAX_VALIDATION = 2_000


def as_dataset(poi: np.ndarray, offsets: np.ndarray) -> Dataset:
    """Ragged lists of places as a RecTools data set: one user per list, the order as its time."""
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)),
            Columns.Item: poi,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.to_datetime(np.arange(len(poi)), unit="s"),
        }
    )
    return Dataset.construct(frame)


def training_windows(log: EventLog, context: int) -> Dataset:
    """Every user's events cut into windows of `context` inputs; the last event of one is the first of the next, so that
    each event but a user's first is a target once."""
    length = np.diff(log.user_offsets)
    number, offsets = expand_ranges(np.zeros_like(length), -(-np.maximum(length - 1, 0) // context))
    user = np.repeat(np.arange(len(length)), np.diff(offsets))
    first = log.user_offsets[user] + number * context
    events, offsets = expand_ranges(first, np.minimum(first + context + 1, log.user_offsets[user + 1]))
    return as_dataset(log.poi_row[events], offsets)


class SASRecScorer:
    """Log-probabilities (n, num_pois) float64 by a fitted model; a place that it never saw has the least of all."""

    def __init__(self, model: SASRecModel, context: int) -> None:
        self.model, self.context = model, context

    def __call__(self, instances: Instances) -> np.ndarray:
        events, offsets = instances.history()
        first = np.maximum(offsets[1:] - self.context, offsets[:-1])
        positions, offsets = expand_ranges(first, offsets[1:])
        dataset = as_dataset(instances.log.poi_row[events[positions]], offsets)
        places = self.model.data_preparator.get_known_item_ids().astype(np.int64)
        logits = np.full((len(instances), instances.log.num_pois), np.nan)
        lists = self.model.recommend(
            users=np.flatnonzero(np.diff(offsets)),
            dataset=dataset,
            k=len(places),
            filter_viewed=False,
            on_unsupported_targets="ignore",
        )
        logits[lists[Columns.User].to_numpy(), lists[Columns.Item].to_numpy(np.int64)] = lists[Columns.Score].to_numpy()
        lowest = np.nanmin(logits) if len(lists) else 0.0
        return torch.log_softmax(torch.from_numpy(np.nan_to_num(logits, nan=lowest)), dim=1).numpy()


def build(options: argparse.Namespace) -> SASRecModel:
    """A model with the options given, untrained."""
    seed_everything(options.seed)
    return SASRecModel(
        n_blocks=options.blocks,
        n_heads=options.heads,
        n_factors=options.factors,
        dropout_rate=options.dropout,
        session_max_len=options.context,
        loss="softmax",
        lr=options.lr,
        batch_size=options.batch_size,
        deterministic=True,
        use_key_padding_mask=True,
        recommend_torch_device="cpu",
        get_trainer_func=lambda: Trainer(
            accelerator="cpu",
            deterministic=True,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    )


def train(model: SASRecModel, data: Dataset, epochs: int) -> None:
    """Train for so many epochs more."""
    model.fit_partial(data, min_epochs=epochs, max_epochs=epochs)


def main() -> None:
    """Choose the epochs, train, evaluate once, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--protocol", default="public")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--step", type=int, default=5, help="epochs between two looks at validation")
    parser.add_argument("--max-epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    folder = PreparedFolder(options.data)
    name = choose(options.protocol, folder.protocol)
    log = training_log(BY_NAME[name](EventLog.from_folder(folder)))
    middle = time_at(log, VALIDATION_FROM)
    rng = np.random.default_rng(options.seed)
    validation = inner_instances(log, (middle, time_at(log, 1.0)), BY_NAME[name]).sample(MAX_VALIDATION, rng)
    earlier = training_windows(validation.log.select(validation.training), options.context)
    model, tried = build(options), []
    began = time.perf_counter()
    for epochs in range(options.step, options.max_epochs + 1, options.step):
        train(model, earlier, options.step)
        scores = SASRecScorer(model, options.context)(validation)
        tried.append({"epochs": epochs, **summarise(expected_ranks(scores, validation.target_poi))})
        print(f"{time.perf_counter() - began:.0f} s: {tried[-1]}", flush=True)
        if tried[-1]["mrr"] < max(row["mrr"] for row in tried):
            break
    best = max(tried, key=lambda row: row["mrr"])["epochs"]
    model = build(options)
    train(model, training_windows(log, options.context), best)
    task = Task(protocol=options.protocol, setting="blind")
    result = evaluate_folder(folder, task, SASRecScorer(model, options.context))
    chosen = {key: value for key, value in vars(options).items() if key not in ("data", "json")}
    result["sasrec"] = {**chosen, "epochs": best, "epochs_on_validation": tried}
    print_report(result, Console())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
