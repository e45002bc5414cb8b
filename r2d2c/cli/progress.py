"""What `train` shows while it runs: bars on a terminal, one plain line an epoch otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.cli.console import colored, number, plural, print_diagnostics, size
from r2d2c.train.summary import short

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from r2d2c.diagnostics import Diagnostic
    from r2d2c.train.events import EpochInfo, Progress, Start

SHOWN = 6  # losses in a line; a thousand tasks are a sum


def describe_losses(losses: Mapping[str, float]) -> str:
    """``encode 0.0123  classify 0.4560``."""
    parts = [f"{name} {short(value)}" for name, value in list(losses.items())[:SHOWN]]
    return "  ".join([*parts, f"+{len(losses) - SHOWN} more"] if len(losses) > SHOWN else parts)


class PlainProgress:
    """One line an epoch, on stdout."""

    def on_start(self, start: Start) -> None:
        samples = f", {plural(start.samples, 'sample')}" if start.samples is not None else ""
        parameters = plural(start.parameters, "parameter")
        print(f"{start.model}: {parameters}, {start.data}{samples}, {start.device}", flush=True)
        print(f"run folder: {start.folder}", flush=True)
        if start.batch:
            print(f"goes on in epoch {start.epoch + 1}, after batch {start.batch}", flush=True)
        elif start.epoch:
            print(f"goes on after epoch {start.epoch}", flush=True)
        self.epochs = start.epochs

    def on_epoch(self, info: EpochInfo) -> None:
        width = len(str(self.epochs))
        self.say(f"epoch {info.epoch:>{width}}/{self.epochs}  {self.words(info)}")
        if info.stop is not None:
            self.say(str(info.stop))

    def say(self, text: str) -> None:
        print(text, flush=True)

    def words(self, info: EpochInfo) -> str:
        parts = [describe_losses(info.train["losses"])]
        record, where = (info.validation, "validation ") if info.validation else (info.train, "train ")
        if info.validation:
            parts.append(f"validation loss {short(info.validation['loss'])}")
        parts += [f"{where}{name} {short(value)}" for name, value in record.get("metrics", {}).items()]
        parts += [f"{name} {plural(count, 'op')}" for name, count in info.train.get("ops", {}).items()]
        parts.append(f"{_rate(info.train.get('rate'))}")
        return "  ".join([*parts, *(["best"] if info.best and info.validation else [])])

    def on_warning(self, diagnostic: Diagnostic) -> None:
        print_diagnostics([diagnostic], total=False)

    def close(self) -> None:
        """Leave the terminal as it was."""


class BarProgress(PlainProgress):
    """Two bars (epochs and batches) with losses, rate and time left; every epoch's line scrolls above
    them.
    """

    def __init__(self) -> None:
        self.bars: Bars | None = None

    def on_start(self, start: Start) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        super().on_start(start)
        self.batches, self.device = start.batches, start.device
        self.bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            TimeRemainingColumn(),
            console=Console(highlight=False),
            transient=True,
        )
        self.of_epochs = self.bars.add_task("epoch", total=start.epochs, completed=start.epoch, said="")
        self.of_batches = self.bars.add_task("batch", total=start.batches, completed=start.batch, said="")
        self.bars.start()

    def on_progress(self, progress: Progress) -> None:
        assert self.bars is not None
        self.bars.update(self.of_batches, completed=progress.batch, said=describe_losses(progress.losses))
        self.bars.update(self.of_epochs, said=f"{_rate(progress.rate)}  {_memory(self.device)}")
        if self.batches:
            self.bars.update(self.of_epochs, completed=progress.epoch + progress.batch / self.batches)

    def on_epoch(self, info: EpochInfo) -> None:
        assert self.bars is not None
        super().on_epoch(info)
        self.bars.update(self.of_epochs, completed=info.epoch)
        self.bars.update(self.of_batches, completed=0)

    def say(self, text: str) -> None:
        assert self.bars is not None
        self.bars.console.print(text, markup=False, soft_wrap=True)

    def on_warning(self, diagnostic: Diagnostic) -> None:
        self.close()
        super().on_warning(diagnostic)
        if self.bars is not None:
            self.bars.start()

    def close(self) -> None:
        if self.bars is not None:
            self.bars.stop()


class NoProgress(PlainProgress):
    """``--quiet``: warnings alone."""

    def on_start(self, start: Start) -> None: ...

    def on_epoch(self, info: EpochInfo) -> None: ...


def choose(quiet: bool) -> PlainProgress:
    """Bars on a terminal, lines elsewhere."""
    if quiet:
        return NoProgress()
    return BarProgress() if sys.stdout.isatty() and colored(sys.stdout) else PlainProgress()


def _memory(device: str) -> str:
    """What the process has now: memory of the device, or of the machine."""
    if device.startswith("cuda"):
        import torch

        return f"{size(torch.cuda.memory_allocated(device))} on {device}"
    try:
        return size(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return ""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"at most {size(most if sys.platform == 'darwin' else most * 1024)}"


def _rate(rate: Any) -> str:
    return f"{number(round(rate))} samples/s" if rate else ""
