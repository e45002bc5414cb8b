"""`r2d2c compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2d2c.cli.console import heading, print_json, print_table
from r2d2c.cli.load import parse_file
from r2d2c.cli.main import INTERRUPTED
from r2d2c.cli.options import DataOption, FormatOption, PluginOption, SetOption, training_backend
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.train.compare import Comparison


def command(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC", help="The spec; none with --resume.", show_default=False),
    ] = None,
    credit: Annotated[
        list[str] | None,
        typer.Option(
            "--credit",
            metavar="RULE,RULE…",
            help="The rules, with commas between; `spec` is what the spec itself says of its links.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of every rule.")] = 3,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The first seed.", show_default="the spec's")
    ] = None,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", metavar="DIR", help="Where all is written.", show_default="runs/compare-NAME-NNN"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Go on with a comparison: train what is missing.", show_default=False
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=0, help="Passes over the data.", show_default=False)
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples in a batch.", show_default=False)
    ] = None,
    settings: SetOption = None,
    plugins: PluginOption = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Go on without rules that cannot apply to the spec.")
    ] = False,
    angles: Annotated[
        bool, typer.Option("--angles/--no-angles", help="Measure the angles to backprop.")
    ] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0 or mps.", show_default="cpu")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the CPU.", show_default="torch's choice")
    ] = None,
    backend: Annotated[str, typer.Option(help="What runs the models: eager or inductor.")] = "eager",
    limit_batches: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many batches an epoch, for a try.", show_default=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
    format_: FormatOption = "text",
) -> None:
    """Train a spec under several credit rules, with the same first weights, data order and noise, and compare them.

    Writes a run folder for every rule and seed, `table.csv`, `table.md`, `angles.csv`, and `curves.svg` and
    `curves.png` with all learning curves and the angle between what each rule learns and backprop's gradient.
    A rule that cannot apply is refused before anything trains; one that diverges is noted, and the others go on.

    Ctrl-C finishes the batch, saves and exits with 130; `--resume DIR` then goes on with what is missing.

    Example: r2d2c compare net.yaml --credit "backprop,direct,target(step=0.3, noise=0.1)" --seeds 3
    """
    if (spec is None) == (resume is None):
        raise typer.BadParameter("give a SPEC to compare on, or --resume DIR", param_hint="SPEC")
    if resume is not None:
        given = {"--credit": credit, "--seed": seed, "--out": out, "--epochs": epochs, "--set": settings}
        given |= {"--batch-size": batch_size, "--limit-batches": limit_batches}
        fixed = [name for name, value in given.items() if value]
        if fixed:
            raise typer.BadParameter("a comparison goes on as it was started", param_hint=fixed[0])
    elif not credit:
        raise typer.BadParameter(
            "say which rules, as `backprop,direct,spec`; `r2d2c ops --credit` lists them",
            param_hint="--credit",
        )
    if spec is not None:
        from r2d2c.train.compare_plan import SPEC, split_credits

        for rule in split_credits(credit or ()):  # a syntax error must not pay for torch
            parse_file(spec, with_credit(settings, rule if rule != SPEC else None))
    training_backend(backend)
    from r2d2c.cli.compare_progress import choose
    from r2d2c.train.compare import compare
    from r2d2c.train.interrupt import Interrupted

    progress = choose(quiet, format_ == "json")
    first = [f"train.seed={seed}"] if seed is not None else []
    try:
        found = compare(
            spec,
            credit or (),
            seeds=seeds,
            data=data,
            out=out,
            epochs=epochs,
            batch_size=batch_size,
            settings=[*first, *(settings or ())],
            plugins=plugins or (),
            callbacks=[progress],
            resume=resume,
            device=device,
            threads=threads,
            backend=backend,
            limit_batches=limit_batches,
            angles=angles,
            skip_refused=skip_refused,
        )
    except Interrupted as stopped:
        progress.close()
        print(f"\nstopped and saved. Go on with:\n  r2d2c compare --resume {stopped.run}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        progress.close()
    if format_ == "json":
        print_json(_json(found))
    elif not quiet:
        _report(found)


def _json(found: Comparison) -> dict[str, object]:
    board = found.board
    return {
        "model": board.model,
        "data": board.data,
        "folder": board.folder,
        "epochs": board.epochs,
        "seeds": list(board.seeds),
        "rules": found.table,
    }


def _report(found: Comparison) -> None:
    from r2d2c.train.compare_report import cells, headings, notes, told

    board = found.board
    columns, rows = headings(board), cells(board)
    align = "l" + "r" * (len(columns) - 2) + "l"
    if not any(row[-1] for row in rows):
        columns, rows, align = columns[:-1], [row[:-1] for row in rows], align[:-1]
    print()
    heading(f"{board.model}: {told(board)}")
    print_table(columns, rows, align)
    print()
    for note in notes(board):
        print(note)
    print(f"\n{found.folder}/  table.csv  table.md  angles.csv  curves.svg  curves.png  RULE/seed-N/")
