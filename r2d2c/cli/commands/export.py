"""`r2d2c export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r2d2c.cli.console import check_target, size
from r2d2c.cli.load import load
from r2d2c.cli.options import PluginOption, SetOption

if TYPE_CHECKING:
    from r2d2c.driver import Checked


def command(
    source: Annotated[
        Path, typer.Argument(metavar="SPEC_OR_RUN", help="A spec, or the folder of a run.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE.onnx", help="The file to write.", show_default=False)
    ],
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", min=0.0, help="The largest difference from PyTorch that is let through.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", help="Of a run: `best` or `last`.")
    ] = "best",
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.onnx if it exists.")] = False,
    settings: SetOption = None,
    plugins: PluginOption = None,
) -> None:
    """Write the composed model as an ONNX file, checked and compared with PyTorch before it is kept.

    Of a run, the trained parameters are exported; of a spec, its first ones. Nodes carry the names of the spec.
    """
    check_target(out)
    if out.exists() and not force:
        raise typer.BadParameter(f"{out} exists; --force replaces it", param_hint="-o")
    if checkpoint not in ("best", "last"):
        raise typer.BadParameter(f"`{checkpoint}` is neither `best` nor `last`", param_hint="--checkpoint")
    run = source if source.is_dir() and (source / "lock.json").exists() else None
    checked = load(source / "spec.yaml" if run is not None else source, settings, plugins)
    write_onnx(checked, (run, checkpoint) if run is not None else None, out, overwrite=force, tolerance=tolerance)


def write_onnx(
    checked: Checked,
    run: tuple[Path, str] | None,
    out: Path,
    *,
    overwrite: bool,
    tolerance: float | None = None,
) -> None:
    """Compile, load a run's parameters if there is one, and export."""
    from r2d2c.api import compile
    from r2d2c.backend import find_backend

    model = compile(checked)
    if run is not None:
        from r2d2c.train.checkpoint import load_parameters

        load_parameters(model, *run)
    export = find_backend("onnx").export
    assert export is not None
    options: dict[str, Any] = {"overwrite": overwrite}
    if tolerance is not None:
        options["tolerance"] = tolerance
    report = export(model, out, **options)
    if str(report) and not repr(report).startswith("<"):
        print(report)
    print(f"wrote {out} ({size(out.stat().st_size)})")
    if run is None:
        print("The parameters are the first ones of the spec; `r2d2c export RUN` takes those of a training run.")
