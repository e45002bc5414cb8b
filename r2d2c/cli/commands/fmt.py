"""`r2d2c fmt`."""

from __future__ import annotations

import difflib
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from r2d2c.cli.console import colored, plural, print_diagnostics
from r2d2c.diagnostics import CompileError, Sink


def command(
    specs: Annotated[
        list[Path], typer.Argument(metavar="SPEC", help="One or more specs.", show_default=False)
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 if a spec would change.")
    ] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Write nothing; print what would change.")] = False,
) -> None:
    """Lay specs out in the one way: sections in the order of the reference, one style, comments kept."""
    changed, failed = 0, False
    for path in specs:
        try:
            before = _readable(path)
        except CompileError as error:
            print_diagnostics(error.diagnostics)
            failed = True
            continue
        from r2d2c.syntax.fmt import format_spec

        after = format_spec(before)
        if after == before:
            if not check and not diff:
                print(f"{path}: as it should be")
            continue
        changed += 1
        if diff:
            _print_diff(path, before, after)
        if check:
            print(f"{path}: would change", file=sys.stderr)
        elif not diff:
            _replace(path, after)
            print(f"{path}: formatted")
    if check and changed:
        print(f"{plural(changed, 'spec')} would change: run `r2d2c fmt`", file=sys.stderr)
    if failed or (check and changed):
        raise typer.Exit(1)


def _readable(path: Path) -> str:
    """The text of a spec that can be formatted. Raises `CompileError` if it is not even YAML."""
    from r2d2c.syntax.files import read_source
    from r2d2c.syntax.yaml_tree import compose

    sink = Sink()
    source = read_source(path, sink, str(path))
    if source is not None:
        compose(source, sink)
    sink.stop_on_errors()
    if source is None:
        raise CompileError(sink.diagnostics)
    return source.text


def _replace(path: Path, text: str) -> None:
    from r2d2c.train.atomic import replacing

    target = path.resolve()
    with replacing(target) as partial:
        partial.write_bytes(text.encode())
        shutil.copymode(target, partial)


def _print_diff(path: Path, before: str, after: str) -> None:
    tints = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"} if colored(sys.stdout) else {}
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), str(path), f"{path} formatted", lineterm=""
    )
    for line in lines:
        tint = tints.get(line[:1])
        print(f"{tint}{line}\x1b[0m" if tint else line)
