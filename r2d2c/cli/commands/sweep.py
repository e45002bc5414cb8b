"""`r2d2c sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from r2d2c.cli.console import heading, plural, print_json, print_table
from r2d2c.cli.load import parse_file
from r2d2c.cli.main import AT_FAULT
from r2d2c.cli.options import (
    BackendsOption,
    BatchSizeOption,
    DataOption,
    DeviceOption,
    FirstSeedOption,
    FormatOption,
    LimitOption,
    PluginOption,
    QuietOption,
    SetOption,
    SpecArgument,
    training_backend,
)

if TYPE_CHECKING:
    from r2d2c.train.sweep import Sweep

SHOWN = 40  # settings in the table of the terminal


def command(
    spec: SpecArgument,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=VALUES",
            help="What varies, as `credit=backprop,direct` or `dims.H=16..256:log`. May be repeated.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every setting.")] = 3,
    seed: FirstSeedOption = None,
    sampler: Annotated[
        Literal["grid", "tpe", "random"], typer.Option(help="All settings, or some that are drawn.")
    ] = "grid",
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="How many settings tpe or random draw.", show_default=False),
    ] = None,
    prune: Annotated[
        Literal["none", "median", "halving"],
        typer.Option(help="Give settings up that fall behind in their first seed."),
    ] = "none",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data.", show_default=False)
    ] = None,
    batch_size: BatchSizeOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR",
            help="Where all is written; with a sweep in it, that goes on.",
            show_default="runs/sweep-NAME-NNN",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="A database that several machines share.", show_default="SQLite in DIR"
        ),
    ] = None,
    settings: SetOption = None,
    plugins: PluginOption = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Go on without settings that the spec cannot have.")
    ] = False,
    device: DeviceOption = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of each process.", show_default="its share of the CPUs"),
    ] = None,
    backend: BackendsOption = "eager",
    limit_batches: LimitOption = None,
    quiet: QuietOption = False,
    format_: FormatOption = "text",
) -> None:
    """Train a spec with many settings, each with several seeds, and say which is best.

    Tries every combination of the values that `--over` gives, or draws `--trials` settings from ranges with Optuna:
    `--over "train.optimizer=adam(lr={1e-4..1e-1:log})" --sampler tpe --trials 30`. Braces make a hole in a text.
    Writes a run folder for every setting and seed, and `table.csv`, `table.md` and `sweep.png` with means and 95 %
    confidence intervals over the seeds. A setting whose loss is no longer a number is listed as failed.

    Ctrl-C finishes the batches, saves and exits with 130; the same command with the same `--out` then goes on.
    With `--storage URL` the same command on several machines works on the same sweep, and what a machine had that died
    is taken by the others.

    Example: r2d2c sweep net.yaml --over credit=backprop,direct --over dims.H=64,128 --seeds 3 --workers 2
    """
    if not over:
        raise typer.BadParameter("say what varies, as `dims.H=64,128`", param_hint="--over")
    if (sampler == "grid") != (trials is None):
        what = "a grid has as many settings as it has" if trials else f"{sampler} needs to know how many"
        raise typer.BadParameter(what, param_hint="--trials")
    parse_file(spec, settings)  # a syntax error must not pay for torch
    training_backend(backend)
    from r2d2c.cli.stopping import stopping
    from r2d2c.cli.sweep_progress import choose
    from r2d2c.train.sweep import sweep

    progress = choose(quiet, format_ == "json")
    first = [f"train.seed={seed}"] if seed is not None else []
    with stopping(
        progress, lambda end: f"stopped and saved. Go on with the same command and --out {end.run}"
    ):
        found = sweep(
            spec,
            over,
            seeds=seeds,
            sampler=sampler,
            trials=trials,
            prune=prune,
            epochs=epochs,
            batch_size=batch_size,
            data=data,
            out=out,
            storage=storage,
            workers=workers,
            skip_refused=skip_refused,
            settings=[*first, *(settings or ())],
            plugins=plugins or (),
            callbacks=[progress],
            device=device,
            threads=threads,
            backend=backend,
            limit_batches=limit_batches,
        )
    if format_ == "json":
        print_json(_json(found))
    elif not quiet:
        _report(found)
    if found.best is None and not found.board.count("waiting", "elsewhere"):
        raise typer.Exit(AT_FAULT)


def _json(found: Sweep) -> dict[str, object]:
    board = found.board
    best = found.best
    return {
        "model": board.model,
        "data": board.data,
        "folder": board.folder,
        "epochs": board.epochs,
        "seeds": list(board.seeds),
        "monitor": board.monitor,
        "split": board.split,
        "better": board.better,
        "best": None if best is None else best.number,
        "settings": found.rows,
    }


def _report(found: Sweep) -> None:
    from r2d2c.train.sweep_report import cells, headings, notes, told

    board = found.board
    columns, rows = headings(board), cells(board)
    align = "r" + "l" * len(board.keys) + "r" * (len(columns) - len(board.keys) - 2) + "l"
    if not any(row[-1] for row in rows):
        columns, rows, align = columns[:-1], [row[:-1] for row in rows], align[:-1]
    print()
    heading(f"{board.model}: {told(board)}")
    print_table(columns, rows[:SHOWN], align)
    if len(rows) > SHOWN:
        print(f"and {plural(len(rows) - SHOWN, 'setting')} more, see {found.folder / 'table.md'}")
    print()
    for note in notes(board):
        print(note)
    print(f"\n{found.folder}/  table.csv  table.md  sweep.png  sweep.db  trials/")
    best = found.best
    if best is not None:
        print("next:")
        print(f"  r2d2c eval {found.folder}/trials/{best.number}/seed-{board.seeds[0]}")
