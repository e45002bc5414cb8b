"""`r2d2c export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from r2d2c.cli.console import check_target
from r2d2c.cli.load import load
from r2d2c.cli.options import CreditOption, PluginOption, SetOption
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.driver import Checked
    from r2d2c.model import Model


def command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC_OR_RUN", help="A spec, or a run's folder or archive.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.onnx", help="The file to write.", show_default=False)
    ],
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0.0,
            help="The largest difference from PyTorch that is let through.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Literal["best", "last"],
        typer.Option("--checkpoint", help="Which one of a run; the best if there is one."),
    ] = "best",
    step: Annotated[
        bool,
        typer.Option(
            "--step",
            help="Write one step of a model with a state: one element of a sequence goes in and out.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.onnx if it exists.")] = False,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
) -> None:
    """Write the composed model as an ONNX file, checked and compared with PyTorch before it is kept.

    Of a run, the trained parameters are exported; of a spec, its first ones. Nodes carry the spec's names.
    """
    check_target(out)
    if out.exists() and not force:
        raise typer.BadParameter(f"{out} exists; --force replaces it", param_hint="-o")
    from r2d2c.train.pack import opened

    source = opened(source)
    run = source if source.is_dir() and (source / "lock.json").exists() else None
    if run is not None and credit is not None:
        raise typer.BadParameter("a run is exported as it was trained", param_hint="--credit")
    path = source / "spec.yaml" if run is not None else source
    checked = load(path, with_credit(settings, credit), plugins)
    write_onnx(
        checked,
        (run, checkpoint) if run is not None else None,
        out,
        overwrite=force,
        tolerance=tolerance,
        step=step,
    )


def write_onnx(
    checked: Checked,
    run: tuple[Path, Literal["best", "last"]] | None,
    out: Path,
    *,
    overwrite: bool,
    tolerance: float | None = None,
    step: bool = False,
) -> None:
    """Compile, load a run's parameters if there is one, and export."""
    from r2d2c.api import compile
    from r2d2c.backend import find_backend

    model = compile(checked)
    if run is not None:
        _load_parameters(model, *run)
    export = find_backend("onnx").export
    assert export is not None
    options: dict[str, Any] = {"overwrite": overwrite, "step": step}
    if tolerance is not None:
        options["tolerance"] = tolerance
    print(export(model, out, **options).text())
    if run is None:
        print("The parameters are untrained: `r2d2c export RUN` takes those of a run.", file=sys.stderr)


def _load_parameters(model: Model, folder: Path, which: Literal["best", "last"]) -> None:
    from r2d2c.train.run_folder import RunFolder
    from r2d2c.train.weights import load_weights

    run = RunFolder.open(folder)
    load_weights(model, run.load(which if run.has(which) else "last").model)
