"""`r2d2c replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from r2d2c.cli.console import heading, plural, print_json
from r2d2c.cli.main import AT_FAULT
from r2d2c.cli.options import FormatOption, PluginOption


def _at(place: tuple[float, ...] | None) -> str:
    return "" if place is None else f"  at ({', '.join(f'{number:g}' for number in place)})"


def command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder or archive.", show_default=False)
    ],
    at: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="After N rounds of growth.", show_default="up to the checkpoint"
        ),
    ] = None,
    checkpoint: Annotated[
        Literal["best", "last"], typer.Option(help="What to compare with, and how far to go.")
    ] = "last",
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """Rebuild the op graphs of a run from the log of their growth.

    Every round of pruning and adding is in `mutations.jsonl` of the run. What they come to is compared with the
    checkpoint, node by node, and shown; `--at N` shows how the op graphs were after N rounds.
    """
    from r2d2c.train.replay import replay

    found = replay(run, at=at, checkpoint=checkpoint, plugins=plugins or ())
    if format_ == "json":
        graphs = {name: one.json() for name, one in found.items()}
        print_json({"run": str(run), "checkpoint": checkpoint, "op_graphs": graphs})
    else:
        for position, (name, one) in enumerate(found.items()):
            if position:
                print()
            heading(
                f"{name}: {plural(one.topology.count, 'op')} after {plural(one.rounds, 'round')} of growth"
            )
            places = one.places()
            for node, text in one.formulas().items():
                print(f"  {node} = {text}{_at(places.get(node))}")
            if one.differences is not None:
                same = "not the op graph" if one.differences else "the op graph"
                print(f"this is {same} of the {checkpoint} checkpoint{':' if one.differences else ''}")
                for line in one.differences:
                    print(f"  {line}")
    if any(one.differences for one in found.values()):
        raise typer.Exit(AT_FAULT)
