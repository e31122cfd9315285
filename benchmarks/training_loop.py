"""What the training loop costs around the model's work.

python benchmarks/training_loop.py trainer --data FOLDER --out OUT [--steps 60] [--repeats 3] [key=value ...]
python benchmarks/training_loop.py overhead --data FOLDER --out OUT
python benchmarks/training_loop.py everything --data FOLDER --out OUT --steps 320
python benchmarks/training_loop.py profile --data FOLDER --out OUT

`trainer`: tokens per second and start-up against Hugging Face `Trainer` with DeepSpeed: same model, batches (ours come
from the live stream, the other side's were made before), optimiser and number of steps; both log every step. Start-up
lasts from the start of the process to the end of the first step. `overhead`: share of a step outside the engine's
forward, backward and step. `everything`: metrics of every step, console, wandb offline, guard and ephemeral checkpoints
every 100 steps against none of these, both at once on a core each. `profile`: where a step's time goes, by region and
operator.

FOLDER is any prepared folder; a random one is made there if it does not exist. Every run is a process of its own with
one rank; the sides of `trainer` take turns. The first `--warm-up` steps of a run are left out. Processor times stand
beside wall times: other work on the machine disturbs them less. Settings given as key=value hold for both sides.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script

from spacetime_gr.training.callbacks.base import Callback  # noqa: E402
from spacetime_gr.training.config import PretrainConfig  # noqa: E402
from spacetime_gr.training.loading import load_config  # noqa: E402

CLOCK = "clock.json"
SAME = [
    "train.schedule=constant",
    "train.warmup_steps=0",
    "train.max_minutes=null",
    "train.max_tokens=null",
    "train.weight_decay=0",
    "train.average_power=null",
    "model.hidden_dropout=0",  # the sides draw different numbers
    "eval.at_end=false",
    "eval.every=null",
    "checkpoint.every=null",
    "checkpoint.ephemeral_every=null",
    "log.console=false",
    "log.wandb=false",
    "run.callbacks=[benchmarks.training_loop:StepClock]",
]
BATCHES, LOSSES, NO_LOG = "batches.safetensors", "losses.json", 10**6
Clock = dict[str, Any]


class StepClock(Callback):
    """Wall and processor time at the end of every step, and the seconds inside the engine's three calls, of a run."""

    activity = "clock"
    calls = ("forward", "backward", "step")

    def on_start(self, trainer: Any) -> None:
        self.file = trainer.run_dir / CLOCK
        self.timers = trainer.timers
        self.inside = dict.fromkeys(self.calls, 0.0)
        self.rows: list[dict[str, float]] = []
        for name in self.calls:
            setattr(trainer.engine, name, self._timed(name, getattr(trainer.engine, name)))

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = call(*args, **kwargs)
            self.inside[name] += time.perf_counter() - started
            return result

        return timed

    def on_step(self, trainer: Any) -> None:
        row = {"wall": time.time(), "cpu": time.process_time(), "tokens": trainer.progress.tokens}
        self.rows.append({**row, **self.inside, **{f"timer {name}": s for name, s in self.timers.seconds.items()}})

    def close(self, outcome: str) -> None:
        self.file.write_text(json.dumps({"start": psutil.Process().create_time(), "rows": self.rows}))


def main() -> None:
    """Run one part and print its table as Markdown."""
    parts = {"trainer": trainer, "overhead": overhead, "everything": everything, "profile": profile}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*parts, "hf"], help="hf: the other side of `trainer`, called by it")
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the runs")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "pretrain" / "nyc.yaml")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs")
    arguments = parser.parse_intermixed_args()
    for name in ("data", "out", "config"):  # the runs start in the repository
        setattr(arguments, name, getattr(arguments, name).resolve())
    if not 1 <= arguments.warm_up < arguments.steps:
        parser.error(f"--warm-up is {arguments.warm_up}, expected from 1 to below --steps {arguments.steps}")
    if arguments.part == "hf":
        hugging_face(arguments)
        return
    if not arguments.data.exists():
        from benchmarks.stream_speed import make_folder

        make_folder(arguments.data)
    arguments.out.mkdir(parents=True)
    parts[arguments.part](arguments)


def settings(arguments: argparse.Namespace, run: Path, *own: str) -> list[str]:
    """Overrides of one run; what the command line says holds over all but the run's place."""
    paths = [f"data.path={json.dumps(str(arguments.data))}", f"run.dir={json.dumps(str(run))}"]
    return [*SAME, f"train.max_steps={arguments.steps}", *own, *arguments.overrides, *paths]


def ours(arguments: argparse.Namespace, run: Path, *own: str) -> Clock:
    """A run of our loop; its clock."""
    finish(start(command_of_ours(arguments, run, *own), run), run)
    return read(run)


def command_of_ours(arguments: argparse.Namespace, run: Path, *own: str) -> list[str]:
    given = ["--config", str(arguments.config), *settings(arguments, run, *own)]
    return [sys.executable, str(ROOT / "launch" / "pretrain.py"), *given]


def start(command: Sequence[str], run: Path) -> "subprocess.Popen[bytes]":
    """One process of one rank, on its way; its output goes to RUN.log."""
    environment = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **os.environ}
    environment["PYTHONPATH"] = str(ROOT)
    with run.with_suffix(".log").open("w") as file:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=file, stderr=file)


def finish(process: "subprocess.Popen[bytes]", run: Path) -> None:
    """Wait for the process of `run`."""
    if code := process.wait():
        raise SystemExit(f"{run} ended with {code}; see {run.with_suffix('.log')}")


def read(run: Path) -> Clock:
    return json.loads((run / CLOCK).read_text())


def per_step(clock: Clock, warm_up: int, name: str) -> float:
    """Mean over the steps after the warm-up, of a sum that the clock keeps: periodic costs are part of it."""
    rows = clock["rows"]
    return (rows[-1].get(name, 0.0) - rows[warm_up - 1].get(name, 0.0)) / (len(rows) - warm_up)


def start_up(clock: Clock) -> float:
    return clock["rows"][0]["wall"] - clock["start"]


def line(*cells: Any) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def head(*cells: str) -> None:
    line(*cells)
    print("|---" * len(cells) + "|")


# ---------------------------------------------------------------- against Hugging Face's Trainer


def trainer(arguments: argparse.Namespace) -> None:
    """Both sides in turn; medians, ratios and the largest difference of the losses."""
    config = load_config(arguments.config, settings(arguments, arguments.out / "unused"))
    tokens = write_batches(config, arguments.steps, arguments.out / BATCHES)
    clocks: dict[str, list[Clock]] = {"ours": [], "Trainer": []}
    worst = 0.0
    for repeat in range(arguments.repeats):
        run, other = arguments.out / f"ours-{repeat}", arguments.out / f"trainer-{repeat}"
        clocks["ours"].append(ours(arguments, run, "log.every=1"))
        other.mkdir()
        given = ["--data", str(arguments.data), "--out", str(other), "--config", str(arguments.config)]
        given += ["--steps", str(arguments.steps), "--warm-up", str(arguments.warm_up), *arguments.overrides]
        finish(start([sys.executable, str(ROOT / "benchmarks" / "training_loop.py"), "hf", *given], other), other)
        clocks["Trainer"].append(read(other))
        lines = (run / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(text)["loss"] for text in lines], json.loads((other / LOSSES).read_text())
        worst = max(worst, *(abs(a - b) for a, b in zip(*losses, strict=True)))
    mean_tokens = statistics.mean(tokens[arguments.warm_up :])
    values = {
        side: [
            statistics.median(mean_tokens / per_step(clock, arguments.warm_up, "wall") for clock in found),
            statistics.median(mean_tokens / per_step(clock, arguments.warm_up, "cpu") for clock in found),
            statistics.median(start_up(clock) for clock in found),
        ]
        for side, found in clocks.items()
    }
    head("loop", "tokens/s", "times", "tokens per processor s", "times", "start-up, s", "times")
    for side, (wall, cpu, first) in values.items():
        base = values["Trainer"]
        line(side, f"{wall:,.0f}", f"{wall / base[0]:.3f}", f"{cpu:,.0f}", f"{cpu / base[1]:.3f}", f"{first:.1f}",
             f"{first / base[2]:.2f}")  # fmt: skip
    print(f"\nlargest difference of the losses of {arguments.steps} steps: {worst:.1e}")


def write_batches(config: PretrainConfig, steps: int, file: Path) -> list[int]:
    """The first batches of the run's stream, rows on end; the tokens of each."""
    from spacetime_gr.training.data import load_tokenizer, open_stream

    tokenizer = load_tokenizer(config)
    stream = open_stream(config, tokenizer)
    batches = [next(stream) for _ in range(steps)]
    stream.close()
    save_file({name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}, file)
    return [int(np.count_nonzero(batch["input_ids"] != tokenizer.pad_token_id)) for batch in batches]


def hugging_face(arguments: argparse.Namespace) -> None:
    """One run of `transformers.Trainer` over the batches beside `--out`; writes its clock and losses."""
    import deepspeed
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from spacetime_gr.training.data import load_tokenizer
    from spacetime_gr.training.distributed import World
    from spacetime_gr.training.engine import resolve_stage
    from spacetime_gr.training.model import build_model

    # As our side does: subnormal numbers are slow on a CPU, and this operator, which training does not use, would be
    # compiled by the first start.
    torch.set_flush_denormal(True)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(20000 + os.getpid() % 20000))
    config = load_config(arguments.config, settings(arguments, arguments.out))
    train = config.train
    model = build_model(config, load_tokenizer(config), World(0, 1, 0, 1, torch.device("cpu")))
    columns = load_file(arguments.out.parent / BATCHES)
    clock: Clock = {"start": psutil.Process().create_time(), "rows": []}
    losses: list[float] = []

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(columns["input_ids"])

        def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
            return {name: torch.from_numpy(values[row]) for name, values in columns.items()}

    class Clocked(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock["rows"].append({"wall": time.time(), "cpu": time.process_time()})

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    InOrder(
        model=model,
        args=TrainingArguments(
            output_dir=str(arguments.out),
            max_steps=arguments.steps,
            per_device_train_batch_size=config.rows_per_micro_batch(1),
            gradient_accumulation_steps=train.gradient_accumulation,
            learning_rate=train.lr,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            adam_beta1=train.betas[0],
            adam_beta2=train.betas[1],
            adam_epsilon=train.eps,
            weight_decay=0.0,
            max_grad_norm=train.clip,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            remove_unused_columns=False,
            deepspeed={
                "train_batch_size": "auto",
                "train_micro_batch_size_per_gpu": "auto",
                "gradient_accumulation_steps": "auto",
                "gradient_clipping": "auto",
                "zero_optimization": {"stage": resolve_stage(config)},
                "zero_allow_untested_optimizer": True,
                "zero_force_ds_cpu_optimizer": False,
                "steps_per_print": NO_LOG,
            },
        ),
        train_dataset=Rows(),
        data_collator=lambda rows: {name: torch.stack([row[name] for row in rows]) for name in rows[0]},
        callbacks=[Clocked()],
    ).train()
    (arguments.out / LOSSES).write_text(json.dumps(losses))
    (arguments.out / CLOCK).write_text(json.dumps(clock))


# ---------------------------------------------------------------- our loop by itself


def overhead(arguments: argparse.Namespace) -> None:
    """Share of the wall time per step outside the engine's three calls, and what is known of it."""
    runs = [ours(arguments, arguments.out / f"run-{repeat}") for repeat in range(arguments.repeats)]

    def median(name: str) -> float:
        return statistics.median(per_step(clock, arguments.warm_up, name) for clock in runs)

    total = median("wall")
    outside = statistics.median(
        1 - sum(per_step(clock, arguments.warm_up, name) for name in StepClock.calls)
        / per_step(clock, arguments.warm_up, "wall") for clock in runs
    )  # fmt: skip
    parts = {f"engine.{name}": median(name) for name in StepClock.calls}
    parts |= {"waiting for rows": median("timer data"), "metrics and their sinks": median("timer logging")}
    parts |= {"other callbacks": median("timer callbacks") + median("timer clock")}
    head("part of a step", "ms", "share")
    for name, seconds in parts.items():
        line(name, f"{seconds * 1e3:.2f}", f"{seconds / total:.2%}")
    line("whole step", f"{total * 1e3:.2f}", "100%")
    line("**outside the engine**", f"{outside * total * 1e3:.2f}", f"**{outside:.2%}**")


def everything(arguments: argparse.Namespace) -> None:
    """All that watches and guards a run against none of it; the weights must be the same.

    What is sought is smaller than what two runs in turn differ by here, so both sides run at once, each with all its
    processes on a core of its own, and change cores from repeat to repeat: what disturbs one disturbs the other.
    """
    sides = {
        "all on": [
            "log.every=1", "log.console=true", "log.wandb=true", "checkpoint.ephemeral_every=100", "guard.enabled=true",
        ],
        "all off": [f"log.every={NO_LOG}", "guard.enabled=false"],
    }  # fmt: skip
    cores = psutil.Process().cpu_affinity()[:2]
    if len(cores) < 2:
        raise SystemExit("`everything` runs its two sides at once, one core each; this process may use one core only")
    clocks: dict[str, list[Clock]] = {side: [] for side in sides}
    same = True
    for repeat in range(arguments.repeats):
        runs = {side: arguments.out / f"{side.replace(' ', '-')}-{repeat}" for side in sides}
        processes = []
        for (side, own), core in zip(sides.items(), cores if repeat % 2 == 0 else cores[::-1], strict=True):
            processes.append(start(command_of_ours(arguments, runs[side], *own), runs[side]))
            psutil.Process(processes[-1].pid).cpu_affinity([core])
        try:
            for process, run in zip(processes, runs.values(), strict=True):
                finish(process, run)
        finally:  # of two runs, neither is left behind
            for process in processes:
                process.kill()
        for side, run in runs.items():
            clocks[side].append(read(run))
        weights = [load_file(run / "export" / "model.safetensors") for run in runs.values()]
        same &= all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[1])
    head("", "ms a step", "times", "processor ms a step", "times", "… outside forward and backward", "same weights")

    def per_run(clock: Clock) -> tuple[float, float, float]:
        total, cpu, *model = (
            per_step(clock, arguments.warm_up, name) for name in ("wall", "cpu", "forward", "backward")
        )
        return total, cpu, total - sum(model)

    rows = {
        side: [statistics.median(values) for values in zip(*map(per_run, found), strict=True)]
        for side, found in clocks.items()
    }
    base = rows["all off"]
    for side, (whole, processor, outside) in rows.items():
        line(side, f"{whole * 1e3:.2f}", f"{whole / base[0]:.3f}", f"{processor * 1e3:.2f}",
             f"{processor / base[1]:.3f}", f"{outside * 1e3:.2f}", "yes" if same else "NO")  # fmt: skip
    more = rows["all on"][2] - base[2]
    print(f"\nmore outside forward and backward: {more * 1e3:.2f} ms, {more / base[0]:.2%} of a step")


def profile(arguments: argparse.Namespace) -> None:
    """Regions and operators of the steps after the warm-up, in one run; the profiler slows what it watches."""
    run = arguments.out / "run"
    first, last = arguments.warm_up + 1, arguments.steps - 1
    ours(arguments, run, f"log.profile_steps=[{first},{last}]")
    events = json.loads((run / "profile" / "trace-rank-0.json").read_text())["traceEvents"]
    marks = [event for event in events if event.get("cat") == "user_annotation"]
    steps = last - first + 1
    regions = ("data", "forward", "body", "heads", "backward", "optimizer")
    spans = {name: sum(mark["dur"] for mark in marks if mark["name"] == name) / steps for name in regions}
    outermost = [mark for mark in marks if mark["name"] in regions]
    begin = min(mark["ts"] for mark in outermost)
    total = (max(mark["ts"] + mark["dur"] for mark in outermost) - begin) / steps
    head("region", "ms a step", "share")
    for name, micros in spans.items():
        line(f"… {name}" if name in ("body", "heads") else name, f"{micros / 1e3:.2f}", f"{micros / total:.1%}")
    rest = total - sum(spans[name] for name in ("data", "forward", "backward", "optimizer"))
    line("between them", f"{rest / 1e3:.2f}", f"{rest / total:.1%}")
    print(f"\noperators by their own time: {run / 'profile' / 'operators-rank-0.txt'}")


if __name__ == "__main__":
    main()
