"""`r2d2c compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2d2c.cli.console import heading, print_json, print_table
from r2d2c.cli.load import parse_file
from r2d2c.cli.options import (
    BackendsOption,
    BatchSizeOption,
    DataOption,
    DeviceOption,
    EpochsOption,
    FirstSeedOption,
    FormatOption,
    LimitOption,
    PluginOption,
    QuietOption,
    SetOption,
    ThreadsOption,
    training_backend,
)
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
    seed: FirstSeedOption = None,
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
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    settings: SetOption = None,
    plugins: PluginOption = None,
    skip_refused: Annotated[
        bool, typer.Option("--skip-refused", help="Go on without rules that cannot apply to the spec.")
    ] = False,
    angles: Annotated[
        bool, typer.Option("--angles/--no-angles", help="Measure the angles to backprop.")
    ] = True,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    backend: BackendsOption = "eager",
    limit_batches: LimitOption = None,
    quiet: QuietOption = False,
    format_: FormatOption = "text",
) -> None:
    """Train a spec under several credit rules, with the same first weights, data order and noise, and compare them.

    Writes a run folder for every rule and seed, `table.csv`, `table.md`, `angles.csv`, and `curves.svg` and
    `curves.png` with all learning curves and the angle between what each rule learns and backprop's gradient.
    A rule that cannot apply is refused before anything trains; one that diverges is noted, and the others go on.

    Ctrl-C finishes the batch, saves and exits with 130; `--resume DIR` then goes on with what is missing.

    Example: r2d2c compare net.yaml --credit "backprop,direct,target(step=0.3, noise=0.1)" --seeds 3
    """
    if spec is not None and resume is not None:
        raise typer.BadParameter(
            f"--resume has the spec of the comparison: leave {spec} out", param_hint="SPEC"
        )
    if spec is None and resume is None:
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
    from r2d2c.cli.stopping import stopping
    from r2d2c.train.compare import compare

    progress = choose(quiet, format_ == "json")
    first = [f"train.seed={seed}"] if seed is not None else []
    with stopping(
        progress, lambda end: f"stopped and saved. Go on with:\n  r2d2c compare --resume {end.run}"
    ):
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
