"""`r2d2c compile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from r2d2c.cli.console import check_target, write_result
from r2d2c.cli.load import load, parse_file
from r2d2c.cli.options import CreditOption, OutOption, PluginOption, SetOption, SpecArgument
from r2d2c.syntax.override import with_credit

Emit = Literal["syntax", "graph", "inference", "training", "fx", "python", "onnx"]


def command(
    spec: SpecArgument,
    emit: Annotated[Emit, typer.Option("--emit", "-e", help="The stage to print.", show_default=False)],
    out: OutOption = None,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
) -> None:
    """Print any stage of the compiler.

    syntax: the parsed expressions. graph: the typed graph. inference: the composed model as one flat graph.
    training: the training graph, visit by visit, with its stops and gradients. fx: the code of the torch.fx
    modules. python: one readable PyTorch file that needs no r2d2c. onnx: an ONNX file, verified, as `export`
    writes it.
    """
    if out is not None:
        check_target(out)
    elif emit == "onnx":
        raise typer.BadParameter(
            "an ONNX file is no text: say where to write it, -o FILE.onnx", param_hint="-o"
        )
    changed = with_credit(settings, credit)
    if emit == "onnx":
        assert out is not None
        from r2d2c.cli.commands.export import write_onnx

        write_onnx(load(spec, changed, plugins), None, out, overwrite=True)
        return
    write_result(out, _text(spec, emit, changed, plugins))


def _text(spec: Path, emit: Emit, settings: Sequence[str], plugins: list[Path] | None) -> str:
    if emit == "syntax":
        from r2d2c.syntax_printer import print_syntax

        return print_syntax(parse_file(spec, settings))
    checked = load(spec, settings, plugins)
    if emit in ("graph", "inference", "training"):
        from r2d2c.credit.registry import rules
        from r2d2c.passes.inline import inference_graph
        from r2d2c.passes.training import training_graph
        from r2d2c.printer import print_graph

        graph = checked.graph
        if emit == "inference":
            graph = inference_graph(graph, checked.ops)
        elif emit == "training":
            graph = training_graph(graph, checked.ops, rules(checked.rules))
        return print_graph(graph, checked.ops)
    from r2d2c.api import compile

    model = compile(checked)
    if emit == "python":
        from r2d2c.emit import emit_python

        return emit_python(model)
    from r2d2c.emit_loops import fx_text

    return fx_text(model.graphs)
