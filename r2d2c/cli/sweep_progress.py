"""What `sweep` shows while it runs: a table of the best settings on a terminal, a line for each training otherwise."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from r2d2c.cli.console import colored, plural, print_diagnostics
from r2d2c.train.summary import short
from r2d2c.train.sweep_board import Board, Outcome, Setting, SweepCallback
from r2d2c.train.sweep_report import remark, spread

if TYPE_CHECKING:
    from rich.live import Live

    from r2d2c.diagnostics import Diagnostic

REFRESH = 0.5  # seconds between two drawings of the table
SHOWN = 12  # settings in the table
_OVER = ("done", "failed", "pruned", "refused")


class Lines(SweepCallback):
    """A line for every training, on stdout or, where that is for data, on stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout

    def say(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def on_sweep(self, board: Board) -> None:
        what = f"{plural(board.total, 'setting')}, {plural(len(board.seeds), 'seed')}, {plural(board.epochs, 'epoch')} each"
        self.say(f"{board.model}: {what}, by {board.monitor} ({board.better})")
        self.say(f"folder: {board.folder}")
        done = sum(len(setting.seeds) for setting in board.settings.values())
        if done:
            self.say(f"goes on: {plural(done, 'training')} finished before")

    def on_training(self, board: Board, setting: Setting, seed: int, outcome: Outcome) -> None:
        digits = len(str(max(board.seeds)))
        value = (
            f"{board.monitor.partition('(')[0]} {short(outcome.value)}" if outcome.value is not None else ""
        )
        state = {"done": "", "pruned": f"pruned after epoch {outcome.epoch}"}.get(
            outcome.state, outcome.state
        )
        cells = [f"setting {setting.number}", setting.label(), f"seed {seed:>{digits}}", value, state]
        self.say("  ".join([*(cell for cell in cells if cell), *outcome.reasons[:1]]))

    def on_left(self, board: Board, setting: Setting) -> None:
        self.say(f"setting {setting.number}: its machine gave no sign any more, so it is given out again")

    def on_warning(self, board: Board, diagnostic: Diagnostic) -> None:
        print_diagnostics([diagnostic], total=False)

    def close(self) -> None:
        """Leave the terminal as it was."""


class Quiet(Lines):
    def say(self, text: str) -> None: ...


class Table(Lines):
    """The best settings, and those that are being trained, as a table that is drawn again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.live: Live | None = None
        self.drawn = 0.0
        self.now: dict[int, tuple[int, int, float]] = {}

    def on_sweep(self, board: Board) -> None:
        from rich.console import Console
        from rich.live import Live

        super().on_sweep(board)
        self.live = Live(console=Console(highlight=False), auto_refresh=False, transient=True)
        self.live.start()
        self.draw(board)

    def on_epoch(self, board: Board, setting: Setting, seed: int, epoch: int, value: float) -> None:
        self.now[setting.number] = (seed, epoch, value)
        self.draw(board, now=False)

    def on_training(self, board: Board, setting: Setting, seed: int, outcome: Outcome) -> None:
        self.draw(board)

    def on_left(self, board: Board, setting: Setting) -> None:
        self.close()
        super().on_left(board, setting)
        if self.live is not None:
            self.live.start()

    def on_warning(self, board: Board, diagnostic: Diagnostic) -> None:
        self.close()
        super().on_warning(board, diagnostic)
        if self.live is not None:
            self.live.start()

    def draw(self, board: Board, now: bool = True) -> None:
        moment = time.monotonic()
        if self.live is not None and (now or moment - self.drawn >= REFRESH):
            self.drawn = moment
            self.live.update(_table(board, self.now), refresh=True)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()


def _table(board: Board, now: dict[int, tuple[int, int, float]]) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    over = board.count(*_OVER)
    bad = {state: board.count(state) for state in _OVER[1:]}
    table = RichTable(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="bold",
        caption=", ".join(
            [f"{over} of {plural(board.total, 'setting')} over", *(f"{n} {s}" for s, n in bad.items() if n)]
        ),
    )
    for key in board.keys:
        table.add_column(Text(key), overflow="ellipsis", max_width=40)
    table.add_column("seeds", no_wrap=True)
    table.add_column(Text(f"{board.split} {board.monitor.partition('(')[0]}"), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    running = [setting for setting in board.ranked() if setting.state == "running"]
    best = [setting for setting in board.ranked() if setting.state in _OVER]
    for setting in [*best[: max(SHOWN - len(running), 3)], *running]:
        seed, epoch, value = now.get(setting.number, (board.seeds[0], 0, None))
        doing = f"seed {seed}, epoch {epoch}/{board.epochs}" + (
            f", {short(value)}" if value is not None else ""
        )
        table.add_row(
            *(Text(setting.values.get(key, "")) for key in board.keys),
            f"{len(setting.done)}/{len(board.seeds)}",
            spread(setting.value()),
            Text(doing if setting.state == "running" else remark(setting, board), style="dim"),
        )
    return table


def choose(quiet: bool, data_on_stdout: bool) -> Lines:
    """The table on a terminal, lines elsewhere."""
    if quiet:
        return Quiet()
    if data_on_stdout:
        return Lines(sys.stderr)
    return Table() if sys.stdout.isatty() and colored(sys.stdout) else Lines()
