"""`r2d2c evolve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from r2d2c.cli.console import colored, heading, plural, print_diagnostics, print_json, print_table
from r2d2c.cli.load import parse_file
from r2d2c.cli.options import DataOption, FormatOption, PluginOption, QuietOption, SetOption, SpecArgument

if TYPE_CHECKING:
    from rich.live import Live

    from r2d2c.diagnostics import Diagnostic
    from r2d2c.train.evolve import Candidate, Evolution, Search


def command(
    spec: SpecArgument,
    population: Annotated[
        int, typer.Option(min=1, help="How many are kept, and made in every generation.")
    ] = 8,
    generations: Annotated[int, typer.Option(min=0, help="How often the best get children.")] = 5,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data for each candidate.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the result stays the same.")] = 1,
    keep: Annotated[int, typer.Option(min=1, help="Of how many the ensemble is.")] = 3,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Of first weights, order and mutations.", show_default="the spec's"),
    ] = None,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Where all is written; with a search in it, that goes on.",
            show_default="runs/evolve-NAME-NNN",
        ),
    ] = None,
    settings: SetOption = None,
    plugins: PluginOption = None,
    quiet: QuietOption = False,
    format_: FormatOption = "text",
) -> None:
    """Search for better op graphs of a spec.

    The spec's own op graphs, trained for some epochs, are the first candidate. In every generation the best get
    children: ops are pruned and added at random, and training goes on from the parent's weights. The best by the
    monitored metric on validation data are kept, and the mean of the best `--keep` is measured on test data.

    Ctrl-C exits with 130; the same command with the same `--out` then goes on as if nothing had happened.
    """
    parse_file(spec, settings)  # a syntax error must not pay for torch
    from r2d2c.cli.stopping import stopping
    from r2d2c.train.evolve import evolve
    from r2d2c.train.interrupt import Interrupted

    board = _choose(quiet, format_ == "json")

    def goes_on(end: Interrupted) -> str:
        return f"stopped; what was made is in {end.run}. Go on with the same command and --out {end.run}"

    with stopping(board, goes_on):
        found = evolve(
            spec,
            population=population,
            generations=generations,
            epochs=epochs,
            workers=workers,
            keep=keep,
            seed=seed,
            data=data,
            out=out,
            settings=settings or (),
            plugins=plugins or (),
            callbacks=[board],
        )
    if format_ == "json":
        print_json(_json(found))
    elif not quiet:
        _report(found)


class Lines:
    """A line for every candidate, then the best of the generation."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def on_search(self, search: Search) -> None:
        each = f"{plural(search.generations, 'generation')} of {plural(search.population, 'candidate')}"
        self.say(
            f"{search.model}: {each}, {plural(search.epochs, 'epoch')} each, by {search.monitor} ({search.better})"
        )
        self.say(f"folder: {search.folder}")
        done = sum(c.state != "waiting" for c in search.candidates.values())
        if done:
            self.say(f"goes on: {plural(done, 'candidate')} made before")

    def on_candidate(self, search: Search, candidate: Candidate) -> None:
        self.say("  ".join(cell for cell in _cells(candidate) if cell))

    def on_generation(self, search: Search, generation: int) -> None:
        best = search.best()[0]
        self.say(f"generation {generation}: best {_short(best.metric)} of candidate {best.id}")

    def on_warning(self, diagnostic: Diagnostic) -> None:
        print_diagnostics([diagnostic], total=False)

    def close(self) -> None:
        """Leave the terminal as it was."""


class Quiet(Lines):
    def say(self, text: str) -> None: ...


class Table(Lines):
    """The population as a table that is drawn again after every candidate."""

    live: Live | None = None

    def on_search(self, search: Search) -> None:
        from rich.console import Console
        from rich.live import Live

        super().on_search(search)
        self.live = Live(console=Console(highlight=False), auto_refresh=False, transient=True)
        self.live.start()

    def on_candidate(self, search: Search, candidate: Candidate) -> None:
        if self.live is not None:
            self.live.update(_table(search), refresh=True)

    def on_generation(self, search: Search, generation: int) -> None:
        """The table says it."""

    def on_warning(self, diagnostic: Diagnostic) -> None:
        self.close()
        super().on_warning(diagnostic)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()


def _choose(quiet: bool, data_on_stdout: bool) -> Lines:
    if quiet:
        return Quiet()
    if data_on_stdout:
        return Lines(sys.stderr)
    return Table() if sys.stdout.isatty() and colored(sys.stdout) else Lines()


_COLUMNS = ("candidate", "generation", "parent", "metric", "ops", "changes")


def _cells(candidate: Candidate) -> tuple[str, ...]:
    steps = [step for one in candidate.mutations.values() for step in one]
    added = sum(step["do"] == "add" for step in steps)
    return (
        f"candidate {candidate.id}",
        f"generation {candidate.generation}",
        f"of {candidate.parent}" if candidate.parent is not None else "",
        _short(candidate.metric) if candidate.state == "done" else candidate.state,
        ", ".join(f"{name} {plural(count, 'op')}" for name, count in candidate.ops.items()),
        f"+{added} -{len(steps) - added}" if steps else "",
    )


def _short(value: float | None) -> str:
    from r2d2c.train.summary import short

    return short(value) if value is not None else "–"


def _table(search: Search) -> Any:
    from rich import box
    from rich.table import Table as RichTable

    made = sum(c.state != "waiting" for c in search.candidates.values())
    total = 1 + search.generations * search.population
    table = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        header_style="bold",
        caption=f"{made} of {plural(total, 'candidate')} made, by {search.monitor}",
    )
    for name in _COLUMNS:
        table.add_column(name, no_wrap=True)
    for candidate in search.best():
        table.add_row(*_row(candidate))
    return table


def _row(candidate: Candidate) -> list[str]:
    """The cells without the words that the heads of the columns have."""
    first, second, third, *rest = _cells(candidate)
    return [*(cell.rpartition(" ")[2] for cell in (first, second, third)), *rest]


def _json(found: Evolution) -> dict[str, Any]:
    return {
        "folder": str(found.folder),
        "monitor": found.search.monitor,
        "better": found.search.better,
        "candidates": [candidate.json() for candidate in found.candidates],
        "best": [candidate.id for candidate in found.best],
        "test": found.test,
        "formulas": found.formulas(),
    }


def _report(found: Evolution) -> None:
    print()
    search = found.search
    made = plural(len(found.candidates), "candidate")
    heading(f"{search.model}: the best of {made}, by {search.monitor} on validation data")
    print_table(list(_COLUMNS), [_row(candidate) for candidate in found.best], "rrrrll")
    best = found.best[0]
    for name, nodes in found.formulas().items():
        print(f"\nthe ops of {name} that count most in candidate {best.id}:")
        for node, text in nodes.items():
            print(f"  {node} = {text}")
    if found.test:
        print("\non test data:")
        rows = [
            [
                f"the mean of {plural(len(found.best), 'candidate')}",
                *map(_short, found.test["ensemble"].values()),
            ],
            [f"candidate {best.id} alone", *map(_short, found.test["best"].values())],
        ]
        print_table(["", *found.test["best"]], rows, "l" + "r" * len(found.test["best"]))
    print(f"\n{search.folder}/  evolve.db  spec.yaml  candidates/")
    print("next:")
    print(f"  r2d2c eval {search.folder}/candidates/{best.id}")
    print(f"  r2d2c export {search.folder}/candidates/{best.id} -o {search.model}.onnx")
