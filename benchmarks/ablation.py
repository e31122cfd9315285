"""What each part of the model is worth: the same training with one setting changed at a time, over several seeds.

python benchmarks/ablation.py --data FOLDER --out OUT --steps 300 [--seeds 0 1 2] [--jobs 2] [key=value ...]
python benchmarks/ablation.py --out OUT --table

Variants are `full` (the configuration as it is), files of configs/ablation laid over it (`--variants`, default all),
and other prepared folders of the same events (`--folder flat=PATH`, made by `index_alternatives.py variants`). What is
finished is not run again, and what was interrupted goes on, so the same command may be repeated. A job is one process
on one core (it takes a free port of its own); its output lies in OUT/VARIANT/seed-N/log.txt.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
OVERLAYS = ROOT / "configs" / "ablation"
FULL = "full"
COLUMNS = ("HR@1", "HR@10", "MRR", "HR@10 returns", "HR@10 discoveries")


@dataclass(frozen=True)
class Job:
    """One training and its evaluation."""

    folder: Path
    train: list[str]
    evaluate: list[str]

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    def run(self) -> bool:
        """Train and evaluate unless these very commands have been run to the end; whether it went well."""
        done, commands = self.folder / "done.json", [self.train, self.evaluate]
        if done.is_file() and json.loads(done.read_text()) == commands:
            return True
        self.folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)  # of other commands, whose result is about to be written over
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": os.environ.get("DS_ACCELERATOR", "cpu")}
        with (self.folder / "log.txt").open("a") as log:
            for command in commands:
                if subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode:
                    return False
        done.write_text(json.dumps(commands))
        return True


def jobs(arguments: argparse.Namespace) -> Iterator[Job]:
    """Every variant with every seed; seeds outermost, so that an early look at the table compares like with like."""
    variants: dict[str, tuple[Path, list[Path]]] = {FULL: (arguments.data, [])}
    variants |= {name: (arguments.data, [OVERLAYS / f"{name}.yaml"]) for name in arguments.variants}
    for given in arguments.folder:
        name, _, path = given.partition("=")
        variants[name] = (Path(path), [])
    for seed in arguments.seeds:
        for name, (data, overlays) in variants.items():
            folder = arguments.out / name / f"seed-{seed}"
            configs = [part for file in (arguments.config, *overlays) for part in ("--config", str(file))]
            settings = [
                f"data.path={_quoted(data)}",
                f"run.dir={_quoted(folder / 'run')}",
                f"train.seed={seed}",
                f"train.max_steps={arguments.steps}",
                "log.console=false",
                *arguments.overrides,
            ]
            evaluate = ["spacetime-gr", "evaluate", str(folder / "run"), "--data", str(data)]
            evaluate += [
                "--protocol",
                arguments.protocol,
                "--json",
                str(folder / "eval.json"),
                "--reuse",
                "--no-counters",
            ]
            if arguments.max_targets is not None:
                evaluate += ["--max-targets", str(arguments.max_targets)]
            yield Job(folder, [sys.executable, str(ROOT / "launch" / "pretrain.py"), *configs, *settings], evaluate)


def _quoted(path: Path) -> str:
    """A path as text for an override, which is YAML."""
    return json.dumps(str(path), ensure_ascii=False)


def figures(result: Mapping[str, Any]) -> list[float | None]:
    """The values of `COLUMNS` in the result of one evaluation."""
    metrics, slices = result["metrics"], result["slices"]
    return [
        *(metrics.get(name) for name in ("hr@1", "hr@10", "mrr")),
        *(slices.get(name, {}).get("hr@10") for name in ("return", "discovery")),
    ]


def common_settings(commands: Sequence[Sequence[str]]) -> str:
    """What the commands of a job say besides its variant, seed and paths: the same for all rows of a table."""
    train, evaluate = commands
    own = ("--config", "data.path=", "run.dir=", "train.seed=")
    # The overlay of a variant, also of another copy of this repository than the one that prints the table.
    settings = [part for part in train[2:] if not part.startswith(own) and Path(part).parent.name != OVERLAYS.name]
    return " ".join([*settings, *evaluate[5:7], *evaluate[9:]])  # without the run, the data and the result


def table(out: Path) -> str:
    """All that is finished, as Markdown; a table of its own for each of the settings that jobs do not share."""
    tables: dict[str, dict[str, list[list[float | None]]]] = {}
    for done in sorted(out.glob("*/seed-*/done.json")):
        result = json.loads((done.parent / "eval.json").read_text(encoding="utf-8"))
        results = tables.setdefault(common_settings(json.loads(done.read_text())), {})
        results.setdefault(done.parents[1].name, []).append(figures(result))
    if len(tables) < 2:
        return rows(next(iter(tables.values()), {}))
    return "\n\n".join(f"`{settings}`\n\n{rows(results)}" for settings, results in tables.items())


def rows(results: Mapping[str, Sequence[Sequence[float | None]]]) -> str:
    """Mean and standard deviation over the seeds of each variant, as a Markdown table."""
    lines = [f"| variant | seeds | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name in sorted(results, key=lambda name: (name != FULL, name)):
        cells = [spread(values) for values in zip(*results[name], strict=True)]
        lines.append(f"| {name} | {len(results[name])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float | None]) -> str:
    """`mean ± standard deviation` (of the sample); the mean alone of one value, a dash where one is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "-"
    mean = f"{statistics.mean(known):.4f}"
    return f"{mean} ± {statistics.stdev(known):.4f}" if len(known) > 1 else mean


def main() -> int:
    """Parse, run, report."""
    known = sorted(file.stem for file in OVERLAYS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print what is finished; run nothing")
    parser.add_argument("--data", type=Path, help="prepared folder")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "pretrain" / "nyc.yaml")
    parser.add_argument("--variants", nargs="*", choices=known, default=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=PATH", help="variant of the data")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--protocol", default="public")
    parser.add_argument("--max-targets", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all trainings")
    arguments = parser.parse_intermixed_args()
    if arguments.table:
        print(table(arguments.out))
        return 0
    if arguments.data is None or arguments.steps is None:
        parser.error("--data and --steps are needed to train; --table alone prints what is finished")
    if wrong := [given for given in arguments.folder if not all(given.partition("="))]:
        parser.error(f"--folder {wrong[0]}: expected NAME=PATH")
    if wrong := [given for given in arguments.overrides if "=" not in given]:
        parser.error(f"{wrong[0]}: settings are of the form key=value; variants are named after --variants")
    failed = []
    with ThreadPoolExecutor(arguments.jobs) as pool:
        planned = list(jobs(arguments))
        for job, well in zip(planned, pool.map(Job.run, planned), strict=True):
            print(f"{job.name}: done" if well else f"{job.name}: failed, see {job.folder}/log.txt", flush=True)
            failed += [] if well else [job]
    print(table(arguments.out))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
