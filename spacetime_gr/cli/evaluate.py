"""`spacetime-gr evaluate`: the model beside the counters, returns and discoveries apart."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spacetime_gr.evaluation.baselines import Scorer

MEASURE = "What is measured"
MODEL = "Model"


def evaluate(
    data: Annotated[Path, typer.Option(help="Prepared folder.")],
    run: Annotated[
        Path | None, typer.Argument(help="Run directory (its export/ is used) or exported folder.", show_default=False)
    ] = None,
    baselines_only: Annotated[
        bool, typer.Option("--baselines-only", help="Only the counters; needs no RUN.", rich_help_panel=MODEL)
    ] = False,
    counters: Annotated[
        bool,
        typer.Option(
            "--counters/--no-counters",
            help="Rank the counters beside RUN; they depend on the data alone.",
            rich_help_panel=MODEL,
        ),
    ] = True,
    protocol: Annotated[
        str,
        typer.Option(
            help="public (the rule of the folder's ready split), time_split, last_per_user; or a public one by "
            "name: getnext, lessismore, sthgcn.",
            rich_help_panel=MEASURE,
        ),
    ] = "public",
    setting: Annotated[
        str,
        typer.Option(help="timed: the time of the request is known; blind: the history only.", rich_help_panel=MEASURE),
    ] = "timed",
    knowledge: Annotated[
        str,
        typer.Option(
            help="stream: every earlier event; same: training and this trajectory's earlier steps.",
            rich_help_panel=MEASURE,
        ),
    ] = "stream",
    truth: Annotated[
        Path | None,
        typer.Option(
            help="truth.json of a simulated source: the ceiling.",
            show_default="the folder's own",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    discovery_k: Annotated[
        list[int] | None,
        typer.Option(
            help="Every k of the discovery rate D(k, m); the first is that of the table.",
            show_default="10 1 5 20",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    discovery_days: Annotated[
        list[float] | None,
        typer.Option(
            help="Every m of D(k, m), in days; the first is that of the table.",
            show_default="30 7 90",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(help="Bootstrap resamples of users for the intervals.", rich_help_panel=MEASURE)
    ] = 1000,
    bootstrap_seed: Annotated[int, typer.Option(help="Seed of the resamples.", rich_help_panel=MEASURE)] = 0,
    max_targets: Annotated[
        int | None,
        typer.Option(
            help="Rank a sample of so many targets (fixed seed), for large sets.",
            show_default="all",
            rich_help_panel=MEASURE,
        ),
    ] = None,
    context_actions: Annotated[
        int | None,
        typer.Option(
            help="Last known actions that the model reads.",
            show_default="as many as in training",
            rich_help_panel=MODEL,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows in one forward pass.", rich_help_panel=MODEL)] = 8,
    explore_odds: Annotated[
        list[float] | None,
        typer.Option(
            help="The discovery knob: factors on the odds of exploring; 1: as learnt. Several: a curve, in one pass.",
            show_default="1",
            rich_help_panel=MODEL,
        ),
    ] = None,
    renew_days: Annotated[
        float | None,
        typer.Option(
            help="The model's counts of visitors follow the stream, renewed every so many days.",
            show_default="those of training",
            rich_help_panel=MODEL,
        ),
    ] = None,
    ranker: Annotated[
        Path | None,
        typer.Option(
            help="Folder of `spacetime-gr cascade --early-model`: order RUN's candidates with it.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    cascade: Annotated[
        Path | None,
        typer.Option(help="Folder of `spacetime-gr cascade`: one more baseline.", show_default=False),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Torch device.", show_default="cuda if there is one", rich_help_panel=MODEL)
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            help="Write the result here, and the results target by target beside it (.parquet).",
            show_default=False,
        ),
    ] = None,
    reuse: Annotated[
        bool,
        typer.Option("--reuse", help="Show what the --json file holds if it answers this very question already."),
    ] = False,
) -> None:
    """Rank every held-out target among all places, with a model and with the counters it has to beat.

    Results are given on all targets, and on **returns** (the user has been there before) and **discoveries** apart,
    with bootstrap intervals. Ties are ranked at their expectation. Options of several numbers take them in one go
    (--discovery-k 1 5 10) or again and again.
    """
    import dataclasses
    import json

    from rich.console import Console

    from data_pipelines.prepared import PreparedFolder
    from spacetime_gr.cli.progress import counting_bar
    from spacetime_gr.evaluation.cascade.scorer import cascade_files, load_cascade
    from spacetime_gr.evaluation.harness import DISCOVERY_DAYS, DISCOVERY_K, Task, evaluate_folder, fingerprint
    from spacetime_gr.evaluation.model_files import model_files, trained_actions
    from spacetime_gr.evaluation.protocols import choose
    from spacetime_gr.evaluation.records import records_path
    from spacetime_gr.evaluation.report import print_report
    from spacetime_gr.evaluation.truth import find_truth
    from spacetime_gr.vocabulary import DEFAULT_CONTEXT_ACTIONS

    if baselines_only == (run is not None):
        raise ValueError("give either a RUN to evaluate, or --baselines-only for the counters alone")
    if ranker is not None and run is None:
        raise ValueError("--ranker orders the candidates of a RUN; give one")
    if ranker is not None and knowledge != "stream":
        raise ValueError(f"--ranker was fitted to counts that follow the stream; --knowledge is {knowledge}")
    if ranker is not None and renew_days is not None:
        raise ValueError("--ranker was fitted with a model whose counts stand still; leave --renew-days out")
    if baselines_only and not counters:
        raise ValueError("--baselines-only with --no-counters leaves nothing to rank")
    task = Task(
        protocol=protocol,
        setting=setting,
        knowledge=knowledge,
        max_targets=max_targets,
        resamples=resamples,
        bootstrap_seed=bootstrap_seed,
        discovery_k=tuple(discovery_k or DISCOVERY_K),
        discovery_days=tuple(discovery_days or DISCOVERY_DAYS),
        explore_odds=tuple(explore_odds or (1.0,)),
        counters=counters,
    )
    if reuse and json_file is None:
        raise ValueError("--reuse needs --json FILE: the file that may hold the answer already")
    if truth is not None and not truth.is_file():
        raise ValueError(f"--truth {truth} does not exist: expected truth.json of a simulated source")
    if context_actions is None:
        context_actions = DEFAULT_CONTEXT_ACTIONS if run is None else trained_actions(run)
    folder = PreparedFolder(data)
    # As JSON gives it back, so that the two can be compared.
    asked = json.loads(json.dumps(dataclasses.asdict(task))) | {
        "context_actions": context_actions,
        "renew_days": renew_days,
        "data": fingerprint([folder.path / "manifest.json"]),
        "model": None if run is None else fingerprint(model_files(run)),
        "truth": None if truth is None else fingerprint([truth]),
        "cascade": None if cascade is None else fingerprint(cascade_files(cascade)),
    }
    if ranker is not None:
        asked["ranker"] = fingerprint(cascade_files(ranker))
    records = None if json_file is None else records_path(json_file)
    if reuse and json_file is not None and json_file.is_file() and records is not None and records.is_file():
        try:
            result = json.loads(json_file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(
                f"--json {json_file} is not readable JSON ({error}); remove it or leave --reuse out"
            ) from error
        if isinstance(result, dict) and result.get("asked") == asked:
            Console(stderr=True).print(f"already evaluated: {json_file}", highlight=False, markup=False)
            print_report(result, Console())
            return
    ceiling = find_truth(folder, truth, protocol)
    order = None if ranker is None else load_cascade(ranker, folder, setting, with_model=True)
    if order is not None and order.description["protocol"] != choose(protocol, folder.protocol):
        raise ValueError(
            f"--ranker {ranker} was fitted to targets of {order.description['protocol']}, --protocol is {protocol}: "
            f"fit one with `spacetime-gr cascade --protocol {protocol}`"
        )
    scorer: Scorer | None = None
    if run is not None:
        from spacetime_gr.evaluation.model_scorer import load_scorer

        scorer = load_scorer(
            run,
            folder,
            context_actions=context_actions,
            batch_size=batch_size,
            blind=setting == "blind",
            explore_odds=task.explore_odds if order is None else (1.0,),
            renew_days=renew_days,
            device=device,
        )
    if order is not None and scorer is not None:
        from spacetime_gr.evaluation.cascade.ranked_model import RankedModel

        scorer = RankedModel(order, scorer, task.explore_odds)
    baselines = {} if cascade is None else {"cascade": load_cascade(cascade, folder, setting)}
    with counting_bar(Console(stderr=True)) as bar:
        ranking = bar.add_task("ranking targets", total=None)
        result = evaluate_folder(
            folder,
            task,
            scorer,
            ceiling,
            progress=lambda done, of: bar.update(ranking, completed=done, total=of),
            records=records,
            baselines=baselines,
        )
    result["asked"] = asked
    print_report(result, Console())
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
