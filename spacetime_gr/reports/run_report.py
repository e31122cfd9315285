"""The report of a run: its curves, its evaluation, what its probabilities are worth, and examples on a map."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import PreparedFolder
from spacetime_gr.evaluation.events import EventLog
from spacetime_gr.evaluation.harness import fingerprint
from spacetime_gr.evaluation.instances import build_instances
from spacetime_gr.evaluation.model_files import model_files, trained_actions
from spacetime_gr.evaluation.model_scorer import load_scorer
from spacetime_gr.evaluation.protocols import BY_NAME, PUBLIC_OF_SOURCE
from spacetime_gr.reports import cell_map, charts, run_evaluation, run_map, run_tabs
from spacetime_gr.reports.charts import percent
from spacetime_gr.reports.page import page, section, table
from spacetime_gr.reports.run_calibration import calibration_section
from spacetime_gr.reports.run_curves import curves_sections
from spacetime_gr.reports.run_files import RunFiles, read_json, read_run
from spacetime_gr.reports.run_map import examples_section
from spacetime_gr.reports.run_results import CEILING, MODEL, Results, rate
from spacetime_gr.reports.run_targets import ask_model, choose_examples, kinds_of, of_users

_PER_USER = 6  # targets shown of a person asked for
_PACKAGES = ("spacetime-gr", "torch", "transformers", "deepspeed", "numpy", "pyarrow")
_EVALUATE = "spacetime-gr evaluate RUN --data FOLDER --json RUN/eval.json"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Request:
    """What a report is made of.

    run: run directory. data: prepared folder, None for the one that was trained on. result: JSON of the evaluation,
    None for RUN/eval.json. users: hashes of persons whose targets are shown, empty for a choice. sample: targets that
    the calibration is measured on.
    """

    run: Path
    data: Path | None = None
    result: Path | None = None
    users: Sequence[int] = ()
    sample: int = 256

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise ValueError(f"--sample is {self.sample}, expected at least 1")


def report_on(request: Request, progress: Progress) -> str:
    """The page.

    Args:
        progress: told the stage, and how much of how much is done.

    Raises:
        ValueError: no run there, a damaged file, a folder or result that was named and is not there, or persons
            without a target.
    """
    run = read_run(request.run)
    results, why_no_result = _find_result(request)
    folder, why_no_data = _find_data(request, run)
    if request.users and (folder is None or isinstance(run.export, str)):
        raise ValueError(f"--user needs a model and data: {why_no_data or run.export}")
    sections = [*_warnings(run, results, folder), *curves_sections(run)]
    if results is None:
        sections.append(section("Evaluation", f"Not measured: {why_no_result}.", "", "warn"))
    else:
        sections += run_evaluation.evaluation_sections(results)
    if folder is None or isinstance(run.export, str):
        sections.append(_no_model_section(why_no_data or str(run.export)))
    else:
        sections += _model_sections(request, folder, results, progress)
    sections.append(_settings_section(run))
    return page(
        f"Run: {run.name}",
        _subtitle(run, folder),
        _cards(run, results),
        sections,
        [charts.STYLES, cell_map.STYLES, run_tabs.STYLES, run_evaluation.STYLES, run_map.STYLES],
        [run_tabs.SCRIPT, cell_map.SCRIPT, run_map.SCRIPT],
    )


# ---------------------------------------------------------------- what there is


def _find_result(request: Request) -> tuple[Results | None, str]:
    """The evaluation's result, or why there is none."""
    file = request.result or request.run / "eval.json"
    if not file.is_file():
        if request.result is not None:
            raise ValueError(f"--eval {file} does not exist; write it with {_EVALUATE}")
        return None, f"there is no {file}; write it with {_EVALUATE}"
    remedy = f"the result that spacetime-gr evaluate --json writes; evaluate again: {_EVALUATE}"
    raw = read_json(file, remedy)
    needed = ("protocol", "knowledge", "setting", "num_targets", "num_discoveries", "num_pois", "baselines")
    lacking = [key for key in (*needed, "baseline_slices", "discovery_rate") if key not in raw]
    if lacking:
        raise ValueError(f"{file} lacks {', '.join(lacking)}; expected {remedy}")
    return Results(raw), ""


def _find_data(request: Request, run: RunFiles) -> tuple[PreparedFolder | None, str]:
    """The prepared folder, or why there is none."""
    if request.data is not None:
        return PreparedFolder(request.data), ""
    if run.data_path is None:
        return None, "config.yaml names no prepared folder; give it with --data"
    try:
        return PreparedFolder(run.data_path), ""
    except ValueError as error:
        return None, f"{error}; or give the folder with --data"


def _warnings(run: RunFiles, results: Results | None, folder: PreparedFolder | None) -> list[str]:
    """What does not belong together."""
    found = []
    state = run.status.get("state")
    if state not in (None, "finished"):
        found.append(f"The run is {state}, at step {run.status.get('step')}; what is below may change.")
    if results is not None:
        asked = results.raw.get("asked", {}).get("model")
        if asked and isinstance(run.export, Path) and asked != fingerprint(model_files(run.path)):
            found.append("The evaluation is of another model than the one exported now; evaluate again.")
        given = results.raw.get("data_fingerprint")
        if given and folder is not None and given != fingerprint([folder.path / "manifest.json"]):
            found.append(f"The evaluation is of other data than {folder.path}; evaluate again.")
    return [section("Mind", " ".join(found), "", "warn")] if found else []


# ---------------------------------------------------------------- head


def _subtitle(run: RunFiles, folder: PreparedFolder | None) -> str:
    model = run.config.get("model", {})
    sizes = [
        f"{model[name]} {said}"
        for name, said in (("num_hidden_layers", "layers"), ("hidden_size", "wide"), ("num_attention_heads", "heads"))
        if name in model
    ]
    parts = [", ".join(sizes)] if sizes else []
    if folder is not None:
        parts.append(f"data folder {folder.path.resolve().name} ({folder.protocol})")
    elif run.data_path is not None:
        parts.append(f"data folder {run.data_path.name}")
    if run.config.get("train", {}).get("seed") is not None:
        parts.append(f"seed {run.config['train']['seed']}")
    return "; ".join(parts) or "no settings were found"


def _cards(run: RunFiles, results: Results | None) -> list[tuple[str, str]]:
    cards = []
    if run.parameters is not None:
        cards.append((charts.number(run.parameters.total), "parameters"))
    if run.records:
        last = run.records[-1]
        minutes = last.get("train_minutes")
        took = f", {minutes:.3g} minutes" if isinstance(minutes, int | float) else ""
        cards.append((charts.number(last["tokens"]), f"tokens seen in {last['step']:,} steps{took}"))
    if results is None or MODEL not in results.systems:
        return cards
    best = results.best_counter
    for metric in ("hr@1", "hr@10", "mrr"):
        beside = [f"{best} {rate(results.value(best, metric))}"] if best is not None else []
        if CEILING in results.raw:
            beside.append(f"ceiling {rate(results.value(CEILING, metric))}")
        interval = results.interval(MODEL, metric)
        said = metric.upper() + (
            f" ({percent(results.level)}: {interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        )
        cards.append((rate(results.value(MODEL, metric)), "; ".join([said, *beside])))
    for part, said in (("return", "returns"), ("discovery", "discoveries")):
        beside = [f"HR@10 on {results.num_targets(part):,} {said}"]
        beside += [f"{best} {rate(results.value(best, 'hr@10', part))}"] if best is not None else []
        if CEILING in results.raw:
            beside.append(f"ceiling {rate(results.value(CEILING, 'hr@10', part))}")
        cards.append((rate(results.value(MODEL, "hr@10", part)), "; ".join(beside)))
    return cards


# ---------------------------------------------------------------- the model on held-out targets


def _model_sections(request: Request, folder: PreparedFolder, results: Results | None, progress: Progress) -> list[str]:
    asked: Mapping[str, Any] = {} if results is None else results.raw
    protocol = asked.get("protocol") or PUBLIC_OF_SOURCE.get(folder.protocol, "time_split")
    if protocol not in BY_NAME:
        raise ValueError(
            f"the evaluation names protocol {protocol!r}, expected one of {', '.join(BY_NAME)}; evaluate again"
        )
    progress("reading events", 0, 1)
    log = EventLog.from_folder(folder)
    try:
        instances = build_instances(BY_NAME[protocol](log), asked.get("knowledge", "stream"))
    except ValueError as error:  # training data alone still makes a page
        if request.users:
            raise
        return [_no_model_section(str(error))]
    scorer = load_scorer(
        request.run,
        folder,
        context_actions=asked.get("asked", {}).get("context_actions") or trained_actions(request.run),
        batch_size=8,
        blind=asked.get("setting") == "blind",
    )
    drawn = instances.sample(request.sample, np.random.default_rng(0))
    odds = _explore_odds(asked.get("asked", {}).get("explore_odds", 1.0))
    answers = ask_model(scorer, drawn, odds, progress=lambda done, of: progress("asking the model", done, of))
    discovery = drawn.is_discovery()
    source = (
        f"{len(drawn):,} of the {len(instances):,} held-out targets of protocol {protocol}, drawn with a fixed seed"
    )
    sections = [calibration_section(answers, discovery, source)]
    if request.users:
        shown = of_users(instances, request.users, _PER_USER)
    else:
        shown = drawn.take(choose_examples(drawn, answers, discovery))
    chosen_answers = ask_model(scorer, shown, odds, keep_blocks=True)
    kinds = kinds_of(chosen_answers, shown.is_discovery())
    progress("drawing", 0, 1)
    index = scorer.tokenizer.index
    return [*sections, examples_section(index, _place_names(folder), shown, chosen_answers, kinds)]


def _no_model_section(why: str) -> str:
    return section("Calibration and held-out targets", f"Not measured: {why}.", "", "warn")


def _explore_odds(asked: float | Sequence[float]) -> float:
    """The discovery knob of the result's own figures: of several settings the one as learnt, else the first."""
    settings = list(asked) if isinstance(asked, Sequence) else [asked]
    return float(1.0 if 1.0 in settings else settings[0])


def _place_names(folder: PreparedFolder) -> list[str]:
    """What each place is called: its name, else its id, after its category."""
    pois = folder.pois()
    ids = [str(one) for one in pois["poi_id"].to_pylist()]
    empty: list[str | None] = [None] * len(ids)
    names = pois["name"].to_pylist() if "name" in pois.column_names else empty
    categories = pois["category"].to_pylist() if "category" in pois.column_names else empty
    return [
        f"{category}: {name or one}" if category else name or one
        for one, name, category in zip(ids, names, categories, strict=True)
    ]


# ---------------------------------------------------------------- settings


def _settings_section(run: RunFiles) -> str:
    rows = [[key, value] for key, value in _flat(run.config)]
    versions = [["python", platform.python_version()]]
    for package in _PACKAGES:
        try:
            versions.append([package, version(package)])
        except PackageNotFoundError:
            versions.append([package, "not installed"])
    if isinstance(run.export, Path):
        trained = read_json(run.export / "config.json", "a model's configuration").get("transformers_version")
        versions.append(["transformers, when exported", str(trained or "-")])
    settings = table(["setting", "value"], rows, sortable=True) if rows else "<p>There is no config.yaml.</p>"
    return section(
        "Settings",
        "The resolved configuration of the run, and the versions that wrote this page.",
        settings + table(["package", "version"], versions),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        rows += _flat(value, f"{name}.") if isinstance(value, Mapping) and value else [(name, _written(value))]
    return rows


def _written(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
