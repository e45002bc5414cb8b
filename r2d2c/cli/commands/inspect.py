"""`r2d2c inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from r2d2c.cli.console import heading, plural, print_json, print_table, size
from r2d2c.cli.options import FormatOption


def command(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.onnx|RUN", help="An ONNX file, or a run's folder or archive.", show_default=False
        ),
    ],
    format_: FormatOption = "text",
) -> None:
    """Show what is in an ONNX file (inputs, outputs, tasks, ops, parameters, size), or in a run."""
    if model.suffix != ".onnx":
        from r2d2c.train.pack import is_run

        if is_run(model):
            _show_run(model, format_ == "json")
            return
    from r2d2c.backend import find_backend

    inspect = find_backend("onnx").inspect
    assert inspect is not None
    found = inspect(model)
    if format_ == "json":
        print_json(found.json())
    else:
        print(found.text().rstrip("\n"))


def _show_run(path: Path, as_json: bool) -> None:
    """A run: what it was started with, how far it is, what it measured last, and its files."""
    from r2d2c.train.pack import MEMBERS
    from r2d2c.train.run import open_run
    from r2d2c.train.summary import rows

    run = open_run(path)
    lock, records, state = run.files.lock, run.metrics, run.files.load().state
    files = {name: (run.folder / name).stat().st_size for name in MEMBERS if (run.folder / name).is_file()}
    if as_json:
        shown = {"seed": lock.seed, "device": lock.device, "threads": lock.threads, "versions": lock.versions}
        done = {key: state[key] for key in ("epoch", "epochs", "step", "finished", "best")}
        print_json({"model": run.spec.name, **done, **shown, "metrics": records, "files": files})
        return
    goes_on = "" if state["finished"] else ", to be resumed"
    heading(f"{run.spec.name}: {state['epoch']} of {plural(state['epochs'], 'epoch')}{goes_on}")
    print(
        f"seed {lock.seed}, {lock.device}, {plural(lock.threads, 'thread')}, torch {lock.versions['torch']}"
    )
    if any("losses" in record for record in records):
        print()
        first, *rest = rows(records)
        print_table(list(first), [list(row) for row in rest], "lrrr"[: len(first)])
    print()
    print_table(["file", "size"], [[name, size(count)] for name, count in files.items()], "lr")
