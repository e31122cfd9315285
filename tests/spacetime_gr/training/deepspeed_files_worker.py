"""Run by test_deepspeed_files.py: two steps under each file of configs/deepspeed/, in one process."""

import gc
import json
import sys
from pathlib import Path

from spacetime_gr.training.data import load_tokenizer
from spacetime_gr.training.distributed import start_processes, stop_processes
from spacetime_gr.training.engine import build_engine
from spacetime_gr.training.exporting import gathered_state
from spacetime_gr.training.loading import load_config
from spacetime_gr.training.model import build_model
from spacetime_gr.training.trainer import Trainer
from tests.spacetime_gr.training.parity_worker import batches_of, settings, stream_of


def main(city: str, out: str, *files: str) -> None:
    world = start_processes()
    base = Path(out).with_suffix(".yaml")
    base.write_text(json.dumps(settings(city, 0, 1).model_dump(mode="json") | {"deepspeed": {}}))
    states = {}
    for file in files:
        config = load_config(base, [f"deepspeed.config={file}"])
        assert isinstance(config.deepspeed.config, dict)  # what the file holds
        config.deepspeed.config["zero_optimization"]["reduce_bucket_size"] = 100_000  # a cluster's is too large here
        tokenizer = load_tokenizer(config)
        engine = build_engine(build_model(config, tokenizer, world), config, world)
        stream = stream_of(config, tokenizer, world.rank, world.size)
        trainer = Trainer(config, engine, stream, world, tokenizer.pad_token_id)
        batches = batches_of(stream, world.rank, world.size)
        for _ in range(2):
            trainer.train_step(batches)
        states[file] = {name: value.float().clone() for name, value in gathered_state(engine.module).items()}
        engine.destroy()
        gc.collect()
    first = states[files[0]]
    apart = {
        file: max(float((value - first[name]).abs().max()) for name, value in state.items())
        for file, state in states.items()
    }
    Path(out).write_text(json.dumps(apart))
    stop_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
