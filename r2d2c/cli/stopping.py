"""How a command ends that trains: its progress is closed, and after Ctrl-C it says how to go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import typer

from r2d2c.cli.main import INTERRUPTED
from r2d2c.train.interrupt import Interrupted


class _Closing(Protocol):
    def close(self) -> None: ...


@contextmanager
def stopping(progress: _Closing, said: Callable[[Interrupted], str]) -> Iterator[None]:
    """Close ``progress`` at the end. Of a stop, print what ``said`` makes of it (nothing if that is empty), exit 130."""
    try:
        yield
    except Interrupted as stopped:
        progress.close()
        text = said(stopped)
        if text:
            print(f"\n{text}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        progress.close()
