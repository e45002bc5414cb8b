"""`r2d2c check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from r2d2c.cli.console import plural, print_diagnostics, print_json
from r2d2c.cli.load import check_file
from r2d2c.cli.options import CreditOption, FormatOption, PluginOption, SetOption
from r2d2c.diagnostics import CompileError, Diagnostic
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.driver import Checked


def command(
    specs: Annotated[
        list[Path], typer.Argument(metavar="SPEC", help="One or more specs.", show_default=False)
    ],
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
    warnings: Annotated[
        Literal["default", "error"], typer.Option("-W", help="`-W error` makes warnings errors.")
    ] = "default",
    format_: FormatOption = "text",
) -> None:
    """Find every mistake of a spec before anything runs, and show where and why.

    Mistakes go to stderr and the exit code is 1; a spec without any gets a line on stdout with what is in it.
    Nothing of PyTorch is imported.
    """
    results = []
    for path in specs:
        checked: Checked | None = None
        diagnostics: Sequence[Diagnostic]
        try:
            checked = check_file(path, with_credit(settings, credit), plugins, warnings == "error")
            diagnostics = [*checked.diagnostics, *_training_mistakes(checked)]
            if any(d.severity == "error" for d in diagnostics):
                checked = None
        except CompileError as error:
            diagnostics = error.diagnostics
        if format_ == "text":
            print_diagnostics(diagnostics)
            if checked is not None:
                print(f"{path}: ok. {_in_words(_counts(checked))}", flush=True)
        results.append((path, checked, diagnostics))
    if format_ == "json":
        print_json({"ok": all(c is not None for _, c, _ in results), "specs": [_json(*r) for r in results]})
    if any(checked is None for _, checked, _ in results):
        raise typer.Exit(1)


def _training_mistakes(checked: Checked) -> list[Diagnostic]:
    """What `train` would say of the spec's `train:` section."""
    from r2d2c.diagnostics import Sink
    from r2d2c.train.settings import read_settings

    sink = Sink()
    read_settings(checked, sink)
    return sink.diagnostics


def _json(path: Path, checked: Checked | None, diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    from r2d2c.diagnostics.render import render_json

    return {
        "spec": str(path),
        "ok": checked is not None,
        "model": checked.name if checked is not None else None,
        "counts": _counts(checked) if checked is not None else None,
        "diagnostics": render_json(diagnostics),
    }


def _counts(checked: Checked) -> dict[str, int]:
    from r2d2c.graph import walk
    from r2d2c.plan_sizes import elements

    graph = checked.graph
    return {
        "tasks": len(graph.tasks),
        "losses": len(graph.losses),
        "parameters": sum(elements(row.type) for row in graph.storage.values() if row.kind == "param"),
        "ops": sum(node.op in checked.ops for _, node in walk(graph)),
    }


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(
        [
            plural(counts["tasks"], "task"),
            plural(counts["losses"], "loss", "losses"),
            plural(counts["parameters"], "parameter"),
            plural(counts["ops"], "op"),
        ]
    )
