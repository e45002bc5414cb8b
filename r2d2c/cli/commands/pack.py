"""`r2d2c pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r2d2c.cli.console import check_target, plural, size


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="FILE.r2d2c", help="The file to write.", show_default="RUN.r2d2c"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
) -> None:
    """Write one file of a whole run: its spec, metrics and checkpoints, without paths of this machine.

    `eval`, `predict`, `generate`, `export`, `inspect` and `train --resume` or `--from` take it in place of the folder.
    It has no code, and opening one runs none. The data are not in it: files that the run read are looked for beside it.
    """
    if out is not None:
        check_target(out)
    from r2d2c.train.pack import pack

    packed = pack(run, out, force=force)
    print(f"wrote {packed.path}: {plural(len(packed.files), 'file')}, {size(packed.bytes)}")
    print("next:")
    print(f"  r2d2c inspect {packed.path}")
    print(f"  r2d2c eval {packed.path}")
