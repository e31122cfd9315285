"""`spacetime-gr plan`: memory, time and cost of a run on a cluster, before there is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from spacetime_gr.planning.report import Option, Report


def plan(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]...", help="Settings laid over the file.")
    ] = None,
    config: Annotated[
        list[str] | None, typer.Option(help="YAML file of the run; given again, a file laid over those before.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Number of GPUs.")] = None,
    gpu: Annotated[str, typer.Option(help="a100-40, a100-80, h100, h200, b200, l40s, mi300x, v100, …")] = "h100",
    nodes: Annotated[int | None, typer.Option(min=1, help="Number of nodes, in place of --gpus.")] = None,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of a node.")] = 8,
    tokens: Annotated[
        float | None, typer.Option(min=1, help="Tokens to see, as 1e12.", show_default="the run's own limit")
    ] = None,
    supervised_share: Annotated[
        float, typer.Option(min=0, max=1, help="Supervised actions / actions; metrics.jsonl of a run tells.")
    ] = 1.0,
    sequence_length: Annotated[
        float | None, typer.Option(min=4, help="Tokens of a packed sequence.", show_default="a whole row")
    ] = None,
    efficiency: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the peak FLOP/s that the products reach.")
    ] = 0.5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the plan as JSON.")] = None,
) -> None:
    """Memory of a GPU by component for every **ZeRO stage** and offload, time of a step, MFU, days and GPU hours.

    Nothing is trained and no GPU is needed. Without the prepared folder, section model gives the vocabulary's sizes.
    Formulae and assumptions: docs/plan.md.
    """
    from rich.console import Console

    from spacetime_gr.planning.devices import find_device
    from spacetime_gr.planning.report import plan_run
    from spacetime_gr.planning.roofline import Assumptions, Cluster
    from spacetime_gr.planning.run import Run
    from spacetime_gr.training.loading import load_config
    from spacetime_gr.training.model import varlen_serves
    from spacetime_gr.training.planning import planned_sizes

    if not config:
        raise ValueError("no configuration; give one, as in --config configs/pretrain/corpus.yaml")
    if (gpus is None) == (nodes is None):
        raise ValueError("give the number of devices: either --gpus 256, or --nodes 32 with --gpus-per-node 8")
    devices = gpus if gpus is not None else (nodes or 0) * gpus_per_node
    cluster = Cluster(find_device(gpu), devices, min(gpus_per_node, devices))
    settings = load_config(config, overrides or [])
    precision = settings.train.precision
    if precision == "auto":
        precision = "fp32" if cluster.device.bf16 is None else "bf16"
    sizes, absent = planned_sizes(settings)
    asked = settings.model.get("attn_implementation")
    sizes._attn_implementation = asked or ("varlen" if varlen_serves(settings, sizes, precision) else "sdpa")
    run = Run.of(settings, sizes, devices, precision, supervised_share, sequence_length)
    report = plan_run(run, cluster, Assumptions(efficiency=efficiency), tokens)
    _print(report, gpu.lower(), Console(soft_wrap=True))
    if absent is not None:
        Console(stderr=True, soft_wrap=True).print(
            f"{absent} does not exist yet: sizes of the vocabulary are those of section model", highlight=False
        )
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=1) + "\n", encoding="utf-8")


def _print(report: Report, gpu: str, console: Console) -> None:
    from rich.table import Table

    run, cluster = report.run, report.cluster
    console.print(
        f"{run.parameters.total / 1e6:,.1f} M parameters ({run.parameters.embedding / 1e6:,.1f} M in tables), "
        f"{run.precision}, {run.attention} attention; {cluster.num_devices} x {gpu} in {cluster.num_nodes} nodes\n"
        f"batch of {run.batch_tokens:,} tokens = {cluster.num_devices} GPUs x "
        f"{run.config.train.gradient_accumulation} micro-batches x {run.micro_batch().rows} rows x "
        f"{run.config.data.row_length}",
        highlight=False,
    )
    # Nine columns of figures fit 80 characters only without padding.
    table = Table(
        title="GB of a GPU by ZeRO stage + offload, in the fullest phase of a step", title_justify="left", padding=0
    )
    table.add_column("", no_wrap=True)
    for option in report.options:
        style = "bold" if option is report.cheapest else "" if option.fits else "dim"
        name = str(option.zero.stage) + ("" if option.zero.offload == "none" else f"\n+{option.zero.offload[:3]}")
        table.add_column(name, justify="right", no_wrap=True, style=style)
    for component in report.options[0].memory.parts:
        table.add_row(component, *(_number(option.memory.parts[component] / 1e9) for option in report.options))
    table.add_section()
    table.add_row("total", *(_number(option.memory.total / 1e9) for option in report.options))
    table.add_row(f"fits {cluster.device.memory / 1e9:.0f} GB", *("yes" if o.fits else "no" for o in report.options))
    table.add_row("host memory", *(_number(option.memory.host / 1e9) for option in report.options))
    table.add_section()
    table.add_row("step, s", *(_number(option.time.total) for option in report.options))
    table.add_row("MFU", *(f"{option.time.mfu:.0%}" for option in report.options))
    if report.steps is not None:
        table.add_row("days", *(_number(report.days(option) or 0.0) for option in report.options))
    console.print(table)
    if report.cheapest is None:
        console.print(f"[bold red]nothing fits:[/] {report.remedy}", highlight=False)
        return
    _conclude(report, report.cheapest, console)


def _conclude(report: Report, option: Option, console: Console) -> None:
    time = option.time
    offload = "" if option.zero.offload == "none" else f" deepspeed.offload={option.zero.offload}"
    console.print(
        f"cheapest: deepspeed.zero_stage={option.zero.stage}{offload}; fullest in the phase: {option.memory.fullest}\n"
        f"a step of {time.total:.3f} s = compute {time.compute:.3f} + optimiser and tables {time.memory:.3f} + "
        f"communication not hidden {time.communication:.3f} + offload {time.offload:.3f}; MFU {time.mfu:.1%}, "
        f"HFU {time.hfu:.1%}",
        highlight=False,
    )
    days, hours = report.days(option), report.gpu_hours(option)
    if days is None or hours is None or report.tokens is None:
        console.print("the run is limited by time; give --tokens for days and GPU hours", highlight=False)
        return
    console.print(
        f"{report.tokens:.3g} tokens = {report.steps:,.0f} steps: {days:,.2f} days, {hours:,.0f} GPU hours",
        highlight=False,
    )


def _number(value: float) -> str:
    """About three digits; nothing for zero."""
    return "" if value == 0 else f"{value:,.{3 if value < 1 else 2 if value < 10 else 1}f}"
