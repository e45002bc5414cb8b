"""From the arguments of a command to a checked spec. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from r2d2c.diagnostics import CompileError, Sink
from r2d2c.pause import paused_collector

if TYPE_CHECKING:
    from r2d2c.driver import Checked
    from r2d2c.syntax.spec import Spec


def check_file(
    path: Path,
    settings: Sequence[str] | None = None,
    plugins: Sequence[Path] | None = None,
    warnings_are_errors: bool = False,
) -> Checked:
    """Read and check a spec. Raises `CompileError`.

    The syntax is looked at before ops and plug-ins are imported: a syntax error does not pay for them.
    """
    from r2d2c.syntax.files import read_source
    from r2d2c.syntax.parse import parse

    sink = Sink(warnings_are_errors=warnings_are_errors)
    with paused_collector():
        source = read_source(path, sink, str(path))
        if source is None:
            raise CompileError(sink.diagnostics)
        spec = parse(source, sink, settings or ())
        sink.stop_on_errors()
        assert spec is not None

        from r2d2c import driver
        from r2d2c.ops.registry import Ops
        from r2d2c.plugins import collect

        found = collect(plugins or ())
        return driver.check_spec(
            spec, sink, Ops(found.ops), found.rules, path.parent, tuple(settings or ()), None
        )


def parse_file(path: Path, settings: Sequence[str] | None = None) -> Spec:
    """Only the syntax of a spec. Raises `CompileError`."""
    from r2d2c.syntax.files import read_source
    from r2d2c.syntax.parse import parse

    sink = Sink()
    source = read_source(path, sink, str(path))
    spec = parse(source, sink, settings or ()) if source is not None else None
    sink.stop_on_errors()
    assert spec is not None
    return spec


def load(path: Path, settings: Sequence[str] | None = None, plugins: Sequence[Path] | None = None) -> Checked:
    """As `check_file`, with the warnings printed; notes are for `check`."""
    from r2d2c.cli.console import print_diagnostics

    checked = check_file(path, settings, plugins)
    print_diagnostics([d for d in checked.diagnostics if d.severity == "warning"], total=False)
    return checked
