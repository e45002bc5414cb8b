"""Printing: results on stdout, diagnostics on stderr, colour and boxes on a terminal only."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import typer

from r2d2c.diagnostics import Diagnostic

Align = Literal["left", "right", "center"]
_SIDES: dict[str, Align] = {"l": "left", "r": "right", "c": "center"}


def colored(stream: TextIO) -> bool:
    """Whether a stream takes colour: a terminal, unless NO_COLOR says no or FORCE_COLOR says yes."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def print_diagnostics(diagnostics: Iterable[Diagnostic], *, total: bool = True) -> None:
    """Diagnostics on stderr, each with its source lines, then ``2 errors, 1 warning``."""
    from r2d2c.diagnostics.catalog import CATALOG
    from r2d2c.diagnostics.render import render_text, summary

    found = list(diagnostics)
    color = colored(sys.stderr)
    for diagnostic in found:
        print(render_text(diagnostic, color), end="\n\n", file=sys.stderr)
    if found and total:
        print(summary(found), file=sys.stderr)
        codes = [d.code for d in found if d.severity == "error" and d.code in CATALOG]
        if codes:
            print(f"`r2d2c explain {codes[0]}` says more.", file=sys.stderr)


def print_json(value: Any) -> None:
    """Data on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    align: str = "",
    tints: dict[str, str] | None = None,
) -> None:
    """A table: with rules and colour on a terminal, else text in columns.

    align: ``l``, ``r`` or ``c`` for each column; left where it says nothing.
    tints: rich styles of cells by their whole text.
    """
    sides = [_SIDES[letter] for letter in align.ljust(len(columns), "l")]
    if colored(sys.stdout):
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            show_header=any(columns),
            header_style="bold",
        )
        for name, side in zip(columns, sides, strict=True):
            table.add_column(Text(name), justify=side, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell, style=(tints or {}).get(cell, "")) for cell in row))
        Console(highlight=False).print(table)
        return
    for line in _columns([columns, *rows] if any(columns) else rows, sides):
        print(line)


def _columns(rows: Sequence[Sequence[str]], align: Sequence[Align]) -> list[str]:
    if not rows:
        return []
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    place = {"left": str.ljust, "right": str.rjust, "center": str.center}
    lines = []
    for row in rows:
        cells = [place[side](cell, width) for cell, width, side in zip(row, widths, align, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return lines


def heading(text: str) -> None:
    """A title over what follows, and a blank line."""
    print(f"\x1b[1m{text}\x1b[0m" if colored(sys.stdout) else text)
    print()


def write_result(path: Path | None, text: str, *, quiet: bool = False) -> None:
    """A text to a file, whole or not at all, or to stdout."""
    if path is None:
        print(text, end="" if text.endswith("\n") else "\n")
        return
    write_file(path, text.encode())
    if not quiet:
        print(f"wrote {path}", file=sys.stderr)


def check_target(path: Path, option: str = "-o") -> None:
    """Refuse, as wrong usage, a path where no file can be written."""
    parent = path.parent
    if path.is_dir():
        raise typer.BadParameter(f"{path} is a folder", param_hint=option)
    if not parent.is_dir():
        what = "is not a folder" if parent.exists() else "does not exist"
        raise typer.BadParameter(f"the folder {parent} {what}", param_hint=option)
    if not os.access(parent, os.W_OK):
        raise typer.BadParameter(f"you may not write into the folder {parent}", param_hint=option)


def write_file(path: Path, data: bytes, option: str = "-o") -> None:
    """Replace a file, whole or not at all. Devices such as /dev/stdout are written to as they are."""
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(data)
        return
    check_target(path, option)
    from r2d2c.train.atomic import write_atomic

    write_atomic(path.resolve(), data)


def number(value: int | float) -> str:
    """``1,234,567``."""
    return f"{value:,}"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """``1 task``, ``1,200 tasks``."""
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"


def size(count: int) -> str:
    """Bytes as a person reads them."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
