"""What the command line says of an exception that no command has dealt with, and the exit code."""

from __future__ import annotations

import errno
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from r2d2c.cli.main import AT_FAULT, BUG, MACHINE
from r2d2c.diagnostics import CompileError

_PLUGIN = "r2d2c_plugin_"
_MACHINE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your disk quota is used up",
    errno.EROFS: "the file system is read-only",
    errno.EMFILE: "too many open files",
    errno.EIO: "the disk reports an error",
}


def report(error: BaseException, arguments: Sequence[str], show_traceback: bool) -> int:
    """Say on stderr what happened, without a traceback unless one is asked for."""
    if isinstance(error, CompileError):
        from r2d2c.cli.console import print_diagnostics

        if show_traceback:
            traceback.print_exception(error)
        print_diagnostics(error.diagnostics)
        return AT_FAULT
    if show_traceback:
        traceback.print_exception(error)
    machine = _of_the_machine(error)
    if machine is not None:
        _say(machine)
        return MACHINE
    frame = _in_a_plugin(error)
    if frame is not None:
        _say(f"the plug-in {frame.filename}:{frame.lineno} fails: {_named(error)}")
        if frame.line:
            print(f"  {frame.line}", file=sys.stderr)
        return AT_FAULT
    _bug(error, arguments, show_traceback)
    return BUG


def _say(text: str) -> None:
    print(f"r2d2c: {text}", file=sys.stderr)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _of_the_machine(error: BaseException) -> str | None:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory: try a smaller batch or smaller dims"
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return "out of memory: try a smaller batch or smaller dims"
    if isinstance(error, OSError):
        reason = _MACHINE.get(error.errno or 0) or (error.strerror or str(error)).lower()
        return f"{error.filename}: {reason}" if error.filename else reason
    return None


def _in_a_plugin(error: BaseException) -> traceback.FrameSummary | None:
    """The deepest place in the user's own code that the error went through."""
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith(_PLUGIN):
            found = traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
    return found


def _bug(error: BaseException, arguments: Sequence[str], shown: bool) -> None:
    from r2d2c import __version__

    _say(f"internal error: {_named(error)}")
    torch = getattr(sys.modules.get("torch"), "__version__", "not loaded")
    text = "\n".join(
        [
            f"r2d2c {__version__}, Python {platform.python_version()}, torch {torch}, {platform.platform()}",
            f"arguments: {' '.join(arguments)}",
            "",
            *traceback.format_exception(error),
        ]
    )
    print("This is a bug in r2d2c, not a mistake of yours.", file=sys.stderr)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="r2d2c-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        if not shown:
            print(text, file=sys.stderr)
        return
    print(
        f"Please report it with your spec and this file, which says what happened: {Path(file.name)}",
        file=sys.stderr,
    )
