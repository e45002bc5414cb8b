"""`r2d2c eval`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from r2d2c.cli.console import heading, plural, print_json, print_table
from r2d2c.cli.options import (
    CheckpointOption,
    CreditOption,
    DepthOption,
    DeviceOption,
    FormatOption,
    PluginOption,
    SetOption,
    SizeOption,
    WidthOption,
    given_sizes,
)
from r2d2c.syntax.override import with_credit


def command(
    what: Annotated[
        Path,
        typer.Argument(metavar="RUN|SPEC", help="A run's folder or archive, or a spec.", show_default=False),
    ],
    data: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Other data than the run's.", show_default=False)
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"] | None,
        typer.Option(help="Which part of it.", show_default="test; all of --data that has no splits"),
    ] = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    size: SizeOption = None,
    depth: DepthOption = None,
    width: WidthOption = None,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
    format_: FormatOption = "text",
) -> None:
    """Measure the losses and metrics of a run on data. The metrics are those of the composed model.

    Of data that the run was not trained on, and that has no splits of its own, all rows are measured;
    `csv:new.csv?test=0.2` and `--split test` measure a fifth of them.

    `--depth 1,2,4 --width 1/4,1` measures with each of these, and prints a table.
    """
    each = _each(given_sizes(size, depth, width))
    from r2d2c.train.api import evaluate_each
    from r2d2c.train.pack import is_run
    from r2d2c.train.summary import short

    changed = with_credit(settings, credit)
    if is_run(what) and changed:
        raise typer.BadParameter(
            "a run is used as it was trained", param_hint="--set" if settings else "--credit"
        )
    every = evaluate_each(
        what,
        each,
        data,
        split,
        checkpoint=checkpoint,
        device=device,
        plugins=plugins or (),
        settings=changed,
    )
    found = every[0]
    if format_ == "json":
        print_json(found if len(every) == 1 else {"results": every})
        return
    if found["checkpoint"] is None:
        print(f"{what} is a spec, so these are the numbers of an untrained model", file=sys.stderr)
    which = f", {found['checkpoint']} checkpoint" if found["checkpoint"] else ""
    fixed = {
        name: v for name, v in found.get("sizes", {}).items() if all(e["sizes"][name] == v for e in every)
    }
    with_ = "".join(f", {name} {value:g}" for name, value in fixed.items())
    split = found["split"]
    part = "all rows" if split == "all" else split
    heading(f"{found['model']}{which}: {found['data']}, {part}, {plural(found['samples'], 'sample')}{with_}")
    if len(every) > 1:
        _table(every, [name for name in found["sizes"] if name not in fixed])
        return
    rows = [[f"loss {name}", short(value)] for name, value in found["losses"].items()]
    rows += [[name, short(value)] for name, value in found["metrics"].items()]
    print_table(["", found["split"]], rows, "lr")


def _each(given: Mapping[str, str]) -> list[dict[str, str]]:
    """Every combination of values that stand with commas between."""
    texts = [[part.strip() for part in value.split(",") if part.strip()] for value in given.values()]
    return [dict(zip(given, values, strict=True)) for values in product(*texts)]


def _table(every: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """A row for every combination of sizes."""
    from r2d2c.train.summary import short

    losses, metrics = list(every[0]["losses"]), list(every[0]["metrics"])
    columns = [*names, *(f"loss {name}" for name in losses), *metrics]
    rows = [
        [
            *(f"{each['sizes'][name]:g}" for name in names),
            *(short(each["losses"][name]) for name in losses),
            *(short(each["metrics"][name]) for name in metrics),
        ]
        for each in every
    ]
    print_table(columns, rows, "r" * len(columns))
