"""`r2d2c train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from r2d2c.cli.console import heading, plural, print_table
from r2d2c.cli.load import parse_file
from r2d2c.cli.main import AT_FAULT, MACHINE
from r2d2c.cli.options import (
    BackendOption,
    BatchSizeOption,
    CreditOption,
    DataOption,
    DepthOption,
    DeviceOption,
    EpochsOption,
    LimitOption,
    PluginOption,
    QuietOption,
    SetOption,
    SizeOption,
    ThreadsOption,
    WidthOption,
    given_sizes,
    training_backend,
)
from r2d2c.diagnostics import CompileError
from r2d2c.syntax.override import with_credit

if TYPE_CHECKING:
    from r2d2c.train.run import Run

LISTED = 30  # parameters, of those that did not stay as they were


def command(
    spec: Annotated[
        Path | None,
        typer.Argument(metavar="SPEC", help="The spec; none with --resume.", show_default=False),
    ] = None,
    data: DataOption = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="DIR", help="The run's folder.", show_default="runs/NAME-NNN"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with a run, exactly; of an archive, in a new folder.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Begin with what a run of another spec has learned, by name.",
            show_default=False,
        ),
    ] = None,
    rename: Annotated[
        list[str] | None,
        typer.Option(metavar="OLD=NEW", help="With --from: a name that has changed.", show_default=False),
    ] = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1, help="Steps of a sequence in a learning pass; the state goes on.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of first weights, order and noise.", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read and augment the data.", show_default=False),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    size: SizeOption = None,
    depth: DepthOption = None,
    width: WidthOption = None,
    settings: SetOption = None,
    credit: CreditOption = None,
    plugins: PluginOption = None,
    backend: BackendOption = "eager",
    limit_batches: LimitOption = None,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Save within an epoch too.")
    ] = 120.0,
    angles: Annotated[
        bool, typer.Option("--angles", help="Write the angles to backprop's gradient into angles.csv.")
    ] = False,
    parallel: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Under torchrun: `data` shares batches, `tasks` gives each process some tasks.",
            show_default="data",
        ),
    ] = None,
    shard_optimizer: Annotated[
        bool,
        typer.Option(
            "--shard-optimizer", help="Under torchrun: spread the optimizer's state over processes."
        ),
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Log to wandb or mlflow too. May be repeated.", show_default=False),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard/--no-tensorboard", help="Write TensorBoard's events.")
    ] = True,
    quiet: QuietOption = False,
) -> None:
    """Train a spec on data, into a run folder with checkpoints, metrics and curves.

    Ctrl-C finishes the batch, saves and exits with 130; `--resume RUN` then goes on as if nothing had
    happened. A second Ctrl-C quits at once.

    `--from RUN` begins with the parameters of a run whose spec may be another one: layers may be wider, tasks
    new, op graphs grow on.

    `--depth 1..4` draws another depth for every batch.

    `torchrun --nproc-per-node 2 -m r2d2c train SPEC` trains with two processes what one would, on shares of its batches.
    """
    sizes = given_sizes(size, depth, width)
    if spec is not None and resume is not None:
        raise typer.BadParameter(f"--resume has the spec of the run: leave {spec} out", param_hint="SPEC")
    if spec is None and resume is None:
        raise typer.BadParameter("give a SPEC to train, or --resume RUN", param_hint="SPEC")
    if rename and start is None:
        raise typer.BadParameter("names are those of --from RUN", param_hint="--rename")
    if resume is not None:
        given = {
            "--from": start,
            "--out": out if resume.suffix != ".r2d2c" else None,
            "--batch-size": batch_size,
            "--chunk": chunk,
            "--seed": seed,
            "--size": sizes,
            "--set": settings,
            "--credit": credit,
        }
        fixed = [name for name, value in (given | {"--limit-batches": limit_batches}).items() if value]
        if fixed:
            raise typer.BadParameter("a run goes on as it was started", param_hint=fixed[0])
    if spec is not None:
        parse_file(spec, with_credit(settings, credit))  # a syntax error must not pay for torch
    training_backend(backend)
    # Heavy imports only now: usage mistakes and syntax errors were found without them.
    from r2d2c.cli.console import print_diagnostics
    from r2d2c.cli.progress import choose
    from r2d2c.cli.stopping import stopping
    from r2d2c.train.api import train
    from r2d2c.train.distributed.team import ProcessLostError, rank_here
    from r2d2c.train.interrupt import Interrupted

    first = rank_here() == 0
    quiet = quiet or not first  # of several processes one speaks
    progress = choose(quiet)

    def goes_on(end: Interrupted) -> str:
        where = f"epoch {end.epoch}" + (f", after batch {end.batch}" if end.batch else "")
        return f"stopped and saved in {where}. Go on with:\n  r2d2c train --resume {end.run}" if first else ""

    try:
        with stopping(progress, goes_on):
            run = train(
                spec,
                data=data,
                out=out,
                epochs=epochs,
                batch_size=batch_size,
                seed=seed,
                chunk=chunk,
                workers=workers,
                sizes=sizes,
                settings=with_credit(settings, credit),
                plugins=plugins or (),
                callbacks=[progress],
                resume=resume,
                start=start,
                rename=rename or (),
                device=device,
                threads=threads,
                backend=backend,
                limit_batches=limit_batches,
                checkpoint_every=checkpoint_every,
                angles=angles,
                log=log or (),
                tensorboard=tensorboard,
                parallel=parallel,
                shard_optimizer=shard_optimizer,
            )
    except ProcessLostError as gone:
        print_diagnostics(gone.diagnostics)
        raise typer.Exit(MACHINE) from None
    except CompileError as mistake:
        if first:
            raise
        print(f"r2d2c: process {rank_here()}: {mistake.diagnostics[0].message}", file=sys.stderr)
        raise typer.Exit(AT_FAULT) from None
    if not quiet:
        _report(run)
        if start is not None:
            _report_start(run)


def _report(run: Run) -> None:
    from r2d2c.train.events import EarlyStop
    from r2d2c.train.summary import rows

    print()
    first, *rest = rows(run.metrics)
    state = run.files.load().state
    heading(f"{run.spec.name}: {plural(state['epoch'], 'epoch')}")
    print_table(list(first), [list(row) for row in rest], "lrrr"[: len(first)])
    stop = EarlyStop.of(state)
    if stop is not None:
        print(f"\n{stop}")
    if run.test is not None:
        print(f"\ntest is measured once, at the end, on the {run.which} checkpoint")
    print(f"\n{run.folder}/  spec.yaml  metrics.jsonl  curves.png  summary.txt  checkpoints/")
    print("next:")
    print(f"  r2d2c eval {run.folder}")
    print(f"  r2d2c predict {run.folder} -o predictions.csv")
    print(f"  r2d2c export {run.folder} -o {run.spec.name}.onnx")


def _report_start(run: Run) -> None:
    """What a run began with that started from another one."""
    from r2d2c.train.transplant_report import FILE, read_report

    report = read_report(run.folder)
    if report is not None:
        print()
        rows = report.rows(kept=False)
        if rows:
            print_table(["", "what", "shape", "optimizer"], [list(row) for row in rows[:LISTED]])
            more = len(rows) - LISTED
            print(f"and {more} more, see {run.folder / FILE}\n" if more > 0 else "")
        print("\n".join(report.lines()))
