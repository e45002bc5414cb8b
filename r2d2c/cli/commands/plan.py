"""`r2d2c plan`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2d2c.cli.console import heading, plural, print_json, print_table, size
from r2d2c.cli.load import load
from r2d2c.cli.options import CreditOption, FormatOption, PluginOption, SetOption, SpecArgument
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.plan import Plan


def command(
    spec: SpecArgument,
    batch: Annotated[
        int, typer.Option("--batch", min=1, help="The batch size for the sizes of activations.")
    ] = 32,
    size_: Annotated[
        list[str] | None,
        typer.Option(
            "--size", metavar="NAME=N", help="The size of another run-time dim, as T=100.", show_default=False
        ),
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
    sizes = dict(_size(text) for text in size_ or ())
    checked = load(spec, with_credit(settings, credit), plugins)

    from r2d2c.credit.registry import rules
    from r2d2c.plan import plan

    found = plan(checked, rules(checked.rules), batch, sizes)
    if format_ == "json":
        print_json(_json(found))
    else:
        _show(found)


def _size(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not (name.isidentifier() and value.isdecimal() and int(value) > 0):
        raise typer.BadParameter(f"`{text}` is not NAME=N", param_hint="--size")
    return name, int(value)


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
