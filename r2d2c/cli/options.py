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
        help="Python with ops, credit rules, data sources or sinks of your own; it is run. May be repeated.",
        show_default=False,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="SOURCE",
        help="Data, as `digits` or `csv:wine.csv`; else what the spec names. See `r2d2c data`.",
        show_default=False,
    ),
]
SizeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="NAME=N",
        help="A size that the model takes when it runs, as `depth=5`. May be repeated.",
        show_default=False,
    ),
]
DepthOption = Annotated[
    str | None, typer.Option("--depth", metavar="N", help="Short for `--size depth=N`.", show_default=False)
]
WidthOption = Annotated[
    str | None,
    typer.Option("--width", metavar="W", help="Short for `--size width=W`, as `1/4`.", show_default=False),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0 or mps.", show_default="cpu")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Threads of the CPU.", show_default="torch's choice")
]
BackendOption = Annotated[str, typer.Option("--backend", help="What runs the model: eager or inductor.")]
BackendsOption = Annotated[str, typer.Option("--backend", help="What runs the models: eager or inductor.")]
LimitOption = Annotated[
    int | None,
    typer.Option(min=1, help="At most so many batches an epoch, for a try.", show_default=False),
]
EpochsOption = Annotated[int | None, typer.Option(min=0, help="Passes over the data.", show_default=False)]
BatchSizeOption = Annotated[int | None, typer.Option(min=1, help="Samples in a batch.", show_default=False)]
FirstSeedOption = Annotated[
    int | None, typer.Option(min=0, help="The first seed.", show_default="the spec's")
]
CheckpointOption = Annotated[
    Literal["best", "last"] | None,
    typer.Option(help="Which weights.", show_default="best if a validation split chose it"),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Format = Literal["text", "json"]
FormatOption = Annotated[Format, typer.Option("--format", help="For people or for programs.")]
OutOption = Annotated[
    Path | None,
    typer.Option("-o", "--out", metavar="FILE", help="Write here, not to the terminal.", show_default=False),
]


def given_sizes(size: list[str] | None, depth: str | None = None, width: str | None = None) -> dict[str, str]:
    """The texts of `--size`, `--depth` and `--width` by name."""
    found: dict[str, str] = {}
    short = {"depth": depth, "width": width}
    for text in size or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (equals and name.isidentifier() and value):
            raise typer.BadParameter(f"`{text}` is not NAME=N", param_hint="--size")
        if name in found or short.get(name) is not None:
            raise typer.BadParameter(f"`{name}` is given twice", param_hint="--size")
        found[name] = value
    return found | {name: value.strip() for name, value in short.items() if value is not None}


def training_backend(name: str) -> None:
    """Refuse a backend that there is not, or that is for inference only."""
    from r2d2c.backend import backends

    if name not in backends() or name == "onnx":
        raise typer.BadParameter(
            f"`{name}` does not train; there are eager and inductor", param_hint="--backend"
        )
