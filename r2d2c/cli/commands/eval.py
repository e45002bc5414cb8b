"""`r2d2c eval`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from r2d2c.cli.console import heading, plural, print_json, print_table
from r2d2c.cli.options import CreditOption, FormatOption, PluginOption, SetOption
from r2d2c.syntax.override import with_credit


def command(
    what: Annotated[
        Path, typer.Argument(metavar="RUN|SPEC", help="A run's folder, or a spec.", show_default=False)
    ],
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Other data than the run's.", show_default=False)
    ] = None,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which part of it.")] = "test",
    checkpoint: Annotated[
        Literal["best", "last"] | None,
        typer.Option(help="Which weights.", show_default="best if a validation split chose it"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0 or mps.", show_default="cpu")] = None,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """Measure the losses and metrics of a run on data. The metrics are those of the composed model."""
    from r2d2c.train.api import evaluate
    from r2d2c.train.summary import short

    changed = with_credit(settings, credit)
    if what.is_dir() and changed:
        raise typer.BadParameter(
            "a run is used as it was trained", param_hint="--set" if settings else "--credit"
        )
    found = evaluate(
        what,
        data,
        split,
        checkpoint=checkpoint,
        device=device,
        plugins=plugins or (),
        settings=changed,
    )
    if format_ == "json":
        print_json(found)
        return
    if found["checkpoint"] is None:
        print(f"{what} is a spec, so these are the numbers of an untrained model", file=sys.stderr)
    which = f", {found['checkpoint']} checkpoint" if found["checkpoint"] else ""
    heading(f"{found['model']}{which}: {found['data']}, {split}, {plural(found['samples'], 'sample')}")
    rows = [[f"loss {name}", short(value)] for name, value in found["losses"].items()]
    rows += [[name, short(value)] for name, value in found["metrics"].items()]
    print_table(["", split], rows, "lr")
