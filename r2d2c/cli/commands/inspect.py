"""`r2d2c inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r2d2c.cli.console import print_json
from r2d2c.cli.options import FormatOption


def command(
    model: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="An ONNX file.", show_default=False)],
    format_: FormatOption = "text",
) -> None:
    """Show what is in an ONNX file: inputs, outputs, tasks, ops, parameters, size."""
    from r2d2c.backend import find_backend

    inspect = find_backend("onnx").inspect
    assert inspect is not None
    found = inspect(model)
    if format_ == "json":
        print_json(found.json())
    else:
        print(found.text().rstrip("\n"))
