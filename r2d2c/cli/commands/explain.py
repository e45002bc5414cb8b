"""`r2d2c explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from r2d2c.cli.console import heading, print_table
from r2d2c.diagnostics import suggest
from r2d2c.diagnostics.catalog import CATALOG

STAGES = {
    "0": "Files and YAML",
    "1": "Sections and expressions",
    "2": "Names",
    "3": "Types and shapes",
    "4": "Tasks, credit and wiring",
    "5": "Data and training",
    "6": "Export",
}


def command(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE", help="A code such as E104; without one, all are listed.", show_default=False
        ),
    ] = None,
) -> None:
    """Say what a diagnostic code means and what to do about it, or list all codes."""
    if code is None:
        _list()
        return
    wanted = code.strip().strip("[]").upper()
    entry = CATALOG.get(wanted)
    if entry is None:
        number = next((known for known in CATALOG if known[1:] == wanted.lstrip("EWN")), None)
        near = suggest(wanted, [number] if number else CATALOG)
        hint = f"; {near.text}" if near else ""
        raise typer.BadParameter(f"there is no code {code}{hint}", param_hint="CODE")
    heading(f"{entry.code}: {entry.title}")
    print(entry.text)
    if not entry.code.startswith("E"):
        print(f"\nWhere it is meant to be so, write `# r2d2c: allow({entry.code})` on the line, or above it.")


def _list() -> None:
    for digit, title in STAGES.items():
        rows = [
            (e.code, e.title)
            for e in sorted(CATALOG.values(), key=lambda e: e.code[1:])
            if e.code[1] == digit
        ]
        if rows:
            heading(f"{title}")
            print_table(("", ""), rows)
            print()
    print("`r2d2c explain CODE` says what one means. E: error, W: warning, N: note.")
