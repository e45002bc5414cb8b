"""`r2d2c predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from r2d2c.cli.console import check_target, plural, write_file, write_result
from r2d2c.cli.options import (
    CheckpointOption,
    DepthOption,
    DeviceOption,
    PluginOption,
    SizeOption,
    WidthOption,
    given_sizes,
)


def command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder or archive.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="The data, as `csv:new.csv`; else the run's own.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE", help="A .csv or .npz file.", show_default="CSV to stdout"
        ),
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"] | None,
        typer.Option(help="Which part of the data.", show_default="all of --data, else test"),
    ] = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    size: SizeOption = None,
    depth: DepthOption = None,
    width: WidthOption = None,
    plugins: PluginOption = None,
) -> None:
    """Run a trained model on data and write its outputs, one row a sample.

    Data needs the inputs alone. For an output that is one number a class, the likeliest class has a column
    too.
    """
    sizes = given_sizes(size, depth, width)
    if out is not None:
        if out.suffix not in (".csv", ".npz"):
            raise typer.BadParameter(f"{out} ends neither in .csv nor in .npz", param_hint="-o")
        check_target(out)
    from r2d2c.train.api import open_run, predict

    opened = open_run(run, plugins=plugins or ())
    found = predict(opened, data, split, checkpoint=checkpoint, device=device, sizes=sizes)
    if out is None:
        write_result(None, found.to_csv())
        return
    write_file(out, found.to_npz() if out.suffix == ".npz" else found.to_csv().encode())
    print(f"wrote {out}: {plural(len(found), 'sample')}, {', '.join(found.outputs)}")
