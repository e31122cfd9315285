"""Run by test_deepspeed_files.py: two steps under each file of configs/deepspeed/, in one process; averaged weights."""

import gc
import json
import sys
from pathlib import Path

from spacetime_gr.training.averaging import averaged
from spacetime_gr.training.distributed import start_processes, stop_processes
from spacetime_gr.training.exporting import gathered_state
from spacetime_gr.training.loading import load_config
from tests.spacetime_gr.training.parity_worker import batches_of, build, cases_of, settings


def main(city: str, out: str, *files: str) -> None:
    world = start_processes()
    base = Path(out).with_suffix(".yaml")
    config = settings(city, cases_of(1)[0], train={"average_power": 1})
    base.write_text(json.dumps(config.model_dump(mode="json") | {"deepspeed": {}}))
    states = {}
    for file in files:
        config = load_config(base, [f"deepspeed.config={file}"])
        assert isinstance(config.deepspeed.config, dict)  # what the file holds
        config.deepspeed.config["zero_optimization"]["reduce_bucket_size"] = 100_000  # a cluster's is too large here
        trainer = build(config, world)
        batches = batches_of(trainer.stream, world.rank, world.size)
        for _ in range(2):
            trainer.train_step(batches)
        with averaged(trainer.engine):
            whole = gathered_state(trainer.engine.module)
        states[file] = {name: value.float().clone() for name, value in whole.items()}
        trainer.engine.destroy()
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
