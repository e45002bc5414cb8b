"""`r2d2c plan`."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2d2c.cli.console import heading, plural, print_json, print_table, size
from r2d2c.cli.load import load
from r2d2c.cli.options import (
    CreditOption,
    DepthOption,
    FormatOption,
    PluginOption,
    SetOption,
    SizeOption,
    SpecArgument,
    WidthOption,
    given_sizes,
)
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.diagnostics import Sink
    from r2d2c.plan import LoopPlan, OpGraphPlan, Plan


def command(
    spec: SpecArgument,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="The batch size for the sizes of activations.")
    ] = 32,
    size_: SizeOption = None,
    depth: DepthOption = None,
    width: WidthOption = None,
    limit: Annotated[
        str | None,
        typer.Option("--limit", metavar="SIZE", help="What a learning pass may hold, as 500MB or 2GB."),
    ] = None,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """Show what runs when, how large it is and about what it costs.

    A visit runs a part of the model forward, its losses and its backward; then its activations are freed,
    and the parameters it finished may be updated.
    """
    given = given_sizes(size_, depth, width)
    checked = load(spec, with_credit(settings, credit), plugins)

    from r2d2c.credit.registry import rules
    from r2d2c.diagnostics import Sink
    from r2d2c.plan import plan, run_time_dims
    from r2d2c.sizes import Given, check_sizes

    sink, graph = Sink(), checked.graph
    others = sorted({*graph.ranges, *run_time_dims(graph)} - {"B"})
    numbers = check_sizes(graph, {k: Given(text) for k, text in given.items()}, sink, others=others)
    sink.stop_on_errors()
    sizes = {name: value for name, value in numbers.items() if isinstance(value, int) and name != "width"}
    found = plan(checked, rules(checked.rules), batch, sizes, numbers.get("width"))
    most = None if limit is None else _bytes(limit)
    if most is not None:
        _within(found, most, sink)
        sink.stop_on_errors()
    if format_ == "json":
        print_json(_json(found))
    else:
        _show(found)
        if "width" in graph.arguments:
            print("A narrow `width` sets coordinates to zero: it saves neither FLOPs nor memory.")


def _bytes(text: str) -> int:
    """A size such as `500MB`, `2 GiB` or `4096`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]?)(i?)B?", text.strip())
    if found is None:
        raise typer.BadParameter(f"`{text}` is no size such as 500MB or 2GiB", param_hint="--limit")
    number, prefix, binary = found.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def _within(plan: Plan, limit: int, sink: Sink) -> None:
    """Report what is larger than the limit: generated parameters, else the largest visit."""
    kept = f"the limit is {size(limit)}"
    for each in plan.generated:
        if each.bytes > limit:
            message = (
                f"`{each.name}` is generated as {size(each.bytes)} for a batch of {plan.batch}, and {kept}"
            )
            sink.report("E570", each.origin, message, fix="a smaller `--batch`, `rank: 8`, or `mode: scale`")
    if plan.peak > limit and not sink.diagnostics:
        largest = max(plan.visits, key=lambda visit: visit.bytes)
        message = (
            f"the visit `{largest.name}` holds {size(plan.peak)} with a batch of {plan.batch}, and {kept}"
        )
        sink.report("E570", None, message, fix="take a smaller `--batch`")


def _show(plan: Plan) -> None:
    heading(f"{plan.name}: {plural(len(plan.visits), 'visit')} in a learning pass")
    rows = [
        (
            str(number),
            visit.name,
            ", ".join([*visit.losses, *visit.signals]) or "-",
            f"{visit.ops:,}",
            f"{visit.flops:,}",
            size(visit.bytes),
            str(len(visit.finished)),
        )
        for number, visit in enumerate(plan.visits, 1)
    ]
    columns = ("", "visit", "losses", "ops", "FLOPs a sample", f"activations, batch {plan.batch}", "finishes")
    print_table(columns, rows, "rllrrrr")
    print()
    for number, visit in enumerate(plan.visits, 1):
        if visit.finished:
            print(f"visit {number} finishes {_listed(visit.finished)}")
    print()
    if plan.loops:
        _show_loops(plan)
    if plan.memories:
        _show_memories(plan)
    if plan.generated:
        _show_generated(plan)
    for graph in plan.op_graphs:
        _show_op_graph(graph)
    heading("parameters")
    table = []
    for owner in plan.owners:
        when = "" if owner.inference else "while learning only"
        when += ", fixed" if owner.fixed and when else "fixed" if owner.fixed else ""
        table.append((owner.owner, f"{owner.parameters:,}", size(owner.bytes), when))
    total = sum(owner.parameters for owner in plan.owners)
    table.append(("total", f"{total:,}", size(sum(owner.bytes for owner in plan.owners)), ""))
    print_table(("of", "number", "size", ""), table, "lrr")
    print()
    print(f"The composed model takes about {plan.inference_flops:,} FLOPs a sample.")
    if len(plan.visits) > 1:
        print(
            f"The largest visit holds {size(plan.peak)} of activations; "
            f"one pass over all would hold {size(plan.kept)}."
        )
    open_dims = ", ".join(f"{name} = {value}" for name, value in plan.sizes.items())
    if open_dims:
        print(f"Counted with {open_dims}; `--size NAME=N` changes that.")
    print("FLOPs are those of the forward part; the backward part takes about twice as many.")


def _show_loops(plan: Plan) -> None:
    heading("loops")
    rows = [
        (
            _named(loop),
            loop.within,
            f"{'at most ' if loop.halts else ''}{loop.steps:,}",
            f"{loop.flops:,}",
            size(loop.stored),
            size(loop.bytes),
            "yes" if loop.recompute else "no",
        )
        for loop in plan.loops
    ]
    columns = ("loop", "in", "steps", "FLOPs a step and sample", "stored a step", "stored", "recompute")
    print_table(columns, rows, "llrrrrl")
    print()


def _show_memories(plan: Plan) -> None:
    heading("memories")
    rows = [
        (
            each.name,
            each.loop,
            f"{each.slots:,}",
            ", ".join(f"{name} {type_}" for name, type_ in each.fields),
            size(each.bytes),
            f"{each.runs}: {each.why}" if each.why else each.runs,
        )
        for each in plan.memories
    ]
    print_table(("memory", "loop", "slots", "fields", "a sample", "learns in"), rows, "llrlrl")
    print()


def _named(loop: LoopPlan) -> str:
    """A loop, with its width where it has one."""
    if loop.width is None:
        return loop.name
    return f"{loop.name}, width {Fraction(loop.width).limit_denominator(1000)}"


def _show_op_graph(graph: OpGraphPlan) -> None:
    begins = len(graph.written) + graph.random
    grows = ", and it grows" if graph.grows else ""
    heading(
        f"op graph {graph.name}: {begins} of at most {graph.capacity} ops on {plural(graph.inputs, 'column')}{grows}"
    )
    if graph.written:
        print_table(("op", ""), graph.written)
    if graph.random:
        print(f"and {plural(graph.random, 'random op')} of {', '.join(graph.kinds)}")
    print()


def _show_generated(plan: Plan) -> None:
    heading("generated parameters")
    rows = [
        (each.name, each.form, f"{each.numbers:,}", f"{each.made:,}", size(each.bytes), each.why)
        for each in plan.generated
    ]
    total = size(sum(each.bytes for each in plan.generated))
    numbers, made = (sum(getattr(each, name) for each in plan.generated) for name in ("numbers", "made"))
    rows.append(("total", "", f"{numbers:,}", f"{made:,}", total, ""))
    columns = ("of", "form", "numbers a sample", "made", f"made, batch {plan.batch}", "why")
    print_table(columns, rows, "llrrrl")
    print()


def _listed(parameters: tuple[str, ...], most: int = 6) -> str:
    """The layers whose parameters these are."""
    names = list(dict.fromkeys(name.rpartition(".")[0] or name for name in parameters))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _json(plan: Plan) -> dict[str, Any]:
    return {
        "model": plan.name,
        "batch": plan.batch,
        "sizes": plan.sizes,
        "visits": [
            {
                "name": visit.name,
                "tasks": list(visit.tasks),
                "losses": list(visit.losses),
                "signals": list(visit.signals),
                "finished": list(visit.finished),
                "ops": visit.ops,
                "flops_per_sample": visit.flops,
                "activation_bytes": visit.bytes,
            }
            for visit in plan.visits
        ],
        "loops": [
            {
                "name": loop.name,
                "in": loop.within,
                "steps": loop.steps,
                "halts": loop.halts,
                "flops_per_step_and_sample": loop.flops,
                "stored_bytes_per_step": loop.stored,
                "stored_bytes": loop.bytes,
                "recompute": loop.recompute,
                "width": loop.width,
            }
            for loop in plan.loops
        ],
        "memories": [
            {
                "name": each.name,
                "loop": each.loop,
                "slots": each.slots,
                "fields": dict(each.fields),
                "bytes_per_sample": each.bytes,
                "runs": each.runs,
                "why": each.why,
            }
            for each in plan.memories
        ],
        "generated": [
            {
                "name": each.name,
                "form": each.form,
                "why": each.why,
                "numbers_per_sample": each.numbers,
                "made_per_sample": each.made,
                "made_bytes": each.bytes,
            }
            for each in plan.generated
        ],
        "op_graphs": [
            {
                "name": graph.name,
                "columns": graph.inputs,
                "capacity": graph.capacity,
                "ops": dict(graph.written),
                "random": graph.random,
                "kinds": list(graph.kinds),
                "grows": graph.grows,
            }
            for graph in plan.op_graphs
        ],
        "parameters": [
            {
                "of": o.owner,
                "number": o.parameters,
                "bytes": o.bytes,
                "inference": o.inference,
                "fixed": o.fixed,
            }
            for o in plan.owners
        ],
        "inference_flops_per_sample": plan.inference_flops,
        "peak_activation_bytes": plan.peak,
        "total_activation_bytes": plan.kept,
    }
