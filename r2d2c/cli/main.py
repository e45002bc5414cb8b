"""The entry point of the command line: the table of commands, and what becomes of every exception.

Exit codes: 0 fine, 1 the spec, the data or the model is at fault, 2 wrong usage, 3 the machine, 70 a bug of
ours, 130 interrupted. Only the command that is called for is imported, so that ``--help`` and a mistake in a
spec are quick.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

OK, AT_FAULT, USAGE, MACHINE, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130

DOC = """A compiler for neural networks that do not learn the usual way: losses, credit and learning rules are
part of the graph. Start with `r2d2c new my.yaml`, then check, wiring, train."""


# What other tools call it.
MEANT = {
    "init": "new",
    "create": "new",
    "run": "train",
    "fit": "train",
    "resume": "train",
    "lint": "check",
    "validate": "check",
    "format": "fmt",
    "test": "eval",
    "evaluate": "eval",
    "infer": "predict",
    "sample": "generate",
    "tune": "sweep",
    "search": "evolve",
    "draw": "graph",
    "show": "inspect",
    "help": "--help",
}
# What typer says of wrong values, and what we say instead.
_PLAIN = (
    (r"Value error, ", ""),
    (r"Input should be a valid integer.*", "this should be a whole number"),
    (r"Input should be a valid number.*", "this should be a number"),
    (r"Input should be greater than or equal to", "this should be at least"),
    (r"Input should be less than or equal to", "this should be at most"),
)


class Commands(TyperGroup):
    """All commands. Names of other tools, and wrong values, are told in our words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            for said, ours in _PLAIN:
                error.message = re.sub(said, ours, error.message)
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in MEANT:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{MEANT[args[0]]}'?")
        return super().resolve_command(ctx, args)


@dataclass(frozen=True, slots=True)
class Row:
    """A command: its module in `commands/`, what help says of it, and the heading it stands under."""

    name: str
    help: str
    panel: str


COMMANDS: tuple[Row, ...] = (
    Row("new", "Write a commented spec to start from.", "Write a spec"),
    Row("check", "Find every mistake before anything runs.", "Write a spec"),
    Row("fmt", "Lay specs out in the one way; comments are kept.", "Write a spec"),
    Row("explain", "Say what a diagnostic code means.", "Write a spec"),
    Row("ops", "List and describe the ops and credit rules.", "Write a spec"),
    Row("wiring", "Show which loss trains which parameter, and prove it.", "Look inside"),
    Row("plan", "Show what runs when, how large it is and what it costs.", "Look inside"),
    Row("graph", "Draw the tasks, links and losses as Mermaid or DOT.", "Look inside"),
    Row("compile", "Print any stage: syntax, graph, training, fx, Python.", "Look inside"),
    Row("data", "List data sources, or show what one gives.", "Train and use"),
    Row("train", "Train a spec on data.", "Train and use"),
    Row("compare", "Train a spec under several credit rules, side by side.", "Train and use"),
    Row("sweep", "Train a spec with many settings, and compare them.", "Train and use"),
    Row("evolve", "Search for better op graphs of a spec, several at a time.", "Train and use"),
    Row("eval", "Measure a trained run on data.", "Train and use"),
    Row("predict", "Run a trained model on data.", "Train and use"),
    Row("generate", "Go on with a text, or another sequence of tokens.", "Train and use"),
    Row("replay", "Rebuild the op graphs of a run from the log of their growth.", "Train and use"),
    Row("pack", "Write one file of a whole run, to hand on.", "Train and use"),
    Row("export", "Write a verified ONNX file.", "Train and use"),
    Row("inspect", "Show what is in an ONNX file, a run or its archive.", "Train and use"),
)


def run() -> None:
    """The console script."""
    # Start-up makes many objects that stay; looking for garbage among them every 700 is time lost.
    gc.set_threshold(50_000, 20, 20)
    # Pydantic would look through the metadata of every installed package for plug-ins of its own.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit code."""
    arguments = list(arguments)
    show = "--traceback" in arguments or bool(os.environ.get("R2D2C_TRACEBACK"))
    if "--traceback" in arguments:
        arguments.remove("--traceback")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone; nothing more can be said, and Python must not try at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return AT_FAULT
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException as error:
        from r2d2c.cli.failures import report

        return report(error, arguments, show)
    return code


def _run(arguments: list[str]) -> int:
    try:
        build(arguments)(args=arguments, prog_name="r2d2c")
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or OK
        raise
    return OK


def build(arguments: Sequence[str]) -> typer.Typer:
    """The application. Only the command that ``arguments`` name is real; the rest is there for help."""
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    on_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    app = typer.Typer(
        cls=Commands,
        help=" ".join(DOC.split()),
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich" if on_terminal else None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def options(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
        ] = False,
        traceback: Annotated[
            bool, typer.Option("--traceback", help="Show where an unexpected error came from.")
        ] = False,
    ) -> None:
        """Options of all commands."""

    for row in COMMANDS:
        if row.name == wanted:
            function = _function(row.name)
            app.command(row.name, help=_reflowed(function.__doc__), rich_help_panel=row.panel)(function)
        else:
            app.command(row.name, help=row.help, rich_help_panel=row.panel)(_not_loaded)
    return app


def _reflowed(doc: str | None) -> str | None:
    """A docstring with every paragraph in one line: Rich would keep the line breaks of the source."""
    return "\n\n".join(" ".join(part.split()) for part in doc.split("\n\n")) if doc else None


def _not_loaded() -> None:
    """Stands for a command that this call does not use."""


def _version(wanted: bool) -> None:
    if wanted:
        from r2d2c import __version__

        print(f"r2d2c {__version__}")
        raise typer.Exit


def _function(command: str) -> Callable[..., Any]:
    name = f"r2d2c.cli.commands.{command}"
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        print(f"r2d2c: `{command}` is not part of this installation", file=sys.stderr)
        raise SystemExit(USAGE) from None
    function: Callable[..., Any] = getattr(module, "command", None) or getattr(module, command)
    return function
