"""What `compare` shows while it runs: one live table on a terminal, one plain line an epoch otherwise."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from r2d2c.cli.console import colored, plural, print_diagnostics
from r2d2c.train.compare_board import Board, CompareCallback, Row
from r2d2c.train.compare_report import degrees, short_name, spread
from r2d2c.train.summary import short

if TYPE_CHECKING:
    from rich.live import Live

    from r2d2c.diagnostics import Diagnostic
    from r2d2c.train.events import EpochInfo, Progress

REFRESH = 0.5  # seconds between two drawings of the table, as each takes some milliseconds from the training
_STYLES = {"running": "bold", "waiting": "dim", "refused": "red", "diverged": "red", "stopped": "yellow"}


class PlainBoard(CompareCallback):
    """A line for every epoch, on stdout or, where that is for data, on stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def on_compare(self, board: Board) -> None:
        able = [row for row in board.rows if row.state != "refused"]
        what = f"{plural(len(able), 'rule')}, {plural(len(board.seeds), 'seed')}"
        self.say(f"{board.model}: {what}, {plural(board.epochs, 'epoch')} each")
        self.say(f"folder: {board.folder}")
        done = sum(len(row.finished) for row in board.rows)
        if done:
            self.say(f"goes on: {done} of {plural(len(able) * len(board.seeds), 'training')} finished before")
        for row in board.rows:
            if row.state == "refused":
                print_diagnostics(row.reasons, total=False)
                self.say(f"{row.label}: refused, the others go on without it")
        self.width = max(len(row.label) for row in board.rows)

    def on_epoch(self, board: Board, row: Row, info: EpochInfo) -> None:
        width, digits = len(str(board.epochs)), len(str(max(board.seeds)))
        head = (
            f"{row.label:{self.width}}  seed {row.seed:>{digits}}  epoch {info.epoch:>{width}}/{board.epochs}"
        )
        self.say("  ".join([head, *_words(board, row, info)]))

    def on_state(self, board: Board, row: Row) -> None:
        if row.state == "diverged":
            print_diagnostics(row.reasons, total=False)
            self.say(f"{row.label}: diverged with seed {row.seed}, the others go on")

    def on_warning(self, board: Board, row: Row, diagnostic: Diagnostic) -> None:
        print_diagnostics([diagnostic], total=False)

    def close(self) -> None:
        """Leave the terminal as it was."""


class QuietBoard(PlainBoard):
    """``--quiet``: warnings, and rules that are given up."""

    def say(self, text: str) -> None: ...


class LiveBoard(PlainBoard):
    """One table, a row for every rule, that is drawn again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Live | None = None
        self.drawn = 0.0

    def on_compare(self, board: Board) -> None:
        from rich.console import Console
        from rich.live import Live

        super().on_compare(board)
        print()
        self.live = Live(
            console=Console(highlight=False),
            auto_refresh=False,  # a thread of its own would take time from the training
            transient=True,
            vertical_overflow="visible",
        )
        self.live.start()
        self.draw(board)

    def on_run(self, board: Board, row: Row) -> None:
        self.draw(board)

    def on_progress(self, board: Board, row: Row, progress: Progress) -> None:
        self.draw(board, now=False)

    def on_epoch(self, board: Board, row: Row, info: EpochInfo) -> None:
        self.draw(board, now=False)

    def on_state(self, board: Board, row: Row) -> None:
        super().on_state(board, row)
        self.draw(board)

    def say(self, text: str) -> None:
        if self.live is not None and self.live.is_started:
            self.live.console.print(text, markup=False)
        else:
            super().say(text)

    def draw(self, board: Board, now: bool = True) -> None:
        moment = time.monotonic()
        if self.live is not None and (now or moment - self.drawn >= REFRESH):
            self.drawn = moment
            self.live.update(_table(board), refresh=True)

    def on_warning(self, board: Board, row: Row, diagnostic: Diagnostic) -> None:
        self.close()
        super().on_warning(board, row, diagnostic)
        if self.live is not None:
            self.live.start()

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()


def _words(board: Board, row: Row, info: EpochInfo) -> list[str]:
    """What an epoch measured: of this training, not the mean over seeds."""
    record = info.validation or info.train
    loss = row.loss(record)
    parts = [f"loss {short(loss)}"] if loss is not None else []
    parts += [
        f"{short_name(name, board)} {short(value)}" for name, value in record.get("metrics", {}).items()
    ]
    run = row.runs.get(row.seed if row.seed is not None else -1)
    if run is not None and "" in run.angles.get(info.epoch, {}):
        parts.append(f"angle {run.angles[info.epoch]['']:.1f}°")
    return [*parts, f"{info.train['seconds']:.2f} s", *(["stopped early"] if info.stop is not None else [])]


def _table(board: Board) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("rule")
    for name in ("state", "epoch"):
        table.add_column(name, no_wrap=True)
    for name in ("loss", *(short_name(metric, board) for metric in board.metrics), "s/epoch", "angle"):
        table.add_column(Text(name), justify="right", no_wrap=True)
    for row in board.rows:
        style = _STYLES.get(row.state, "")
        each = row.seconds_an_epoch()
        table.add_row(
            Text.assemble(("● ", row.colour), row.label),
            Text(_state(board, row), style=style),
            _epoch(board, row),
            spread(row.final_loss()),
            *(spread(row.metric("shown", metric)) for metric in board.metrics),
            f"{each:.2f}" if each is not None else "–",
            degrees(row.angle()),
        )
    return table


def _state(board: Board, row: Row) -> str:
    count = len(board.seeds)
    if row.state == "running" and count > 1 and row.seed is not None:
        return f"seed {board.seeds.index(row.seed) + 1}/{count}"
    if row.state == "waiting" and row.finished:
        return f"{len(row.finished)}/{count} done"
    return row.state


def _epoch(board: Board, row: Row) -> str:
    run = row.runs.get(row.seed) if row.seed is not None else None
    return f"{run.epoch}/{board.epochs}" if run is not None and row.state in ("running", "stopped") else ""


def choose(quiet: bool, data_on_stdout: bool) -> PlainBoard:
    """The table on a terminal, lines elsewhere."""
    if quiet:
        return QuietBoard()
    if data_on_stdout:
        return PlainBoard(sys.stderr)
    return LiveBoard() if sys.stdout.isatty() and colored(sys.stdout) else PlainBoard()
