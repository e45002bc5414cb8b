"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SpecArgument = Annotated[
    Path, typer.Argument(metavar="SPEC", help="The spec, a YAML file.", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a value of the spec, as `dims.H=128`. May be repeated.",
        show_default=False,
    ),
]
CreditOption = Annotated[
    str | None,
    typer.Option(
        "--credit",
        metavar="RULE",
        help="The credit of every link, as `feedback(variant=sign)`, whatever the spec says.",
        show_default=False,
    ),
]
PluginOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="Python with ops and rules of your own; it is run. May be repeated.",
        show_default=False,
    ),
]
Format = Literal["text", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="For people or for programs.")]
OutOption = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="FILE", help="Write here, not to the terminal.", show_default=False),
]


def training_backend(name: str) -> None:
    """Refuse a backend that there is not, or that is for inference only."""
    from r2d2c.backend import backends

    if name not in backends() or name == "onnx":
        raise typer.BadParameter(
            f"`{name}` does not train; there are eager and inductor", param_hint="--backend"
        )
