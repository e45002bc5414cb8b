"""Timing two ways of doing the same work, one after the other, over and over."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Work = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """How to run: on which device, and whether only to try that it runs."""

    device: str = "cpu"
    quick: bool = False

    def sync(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            import torch

            torch.accelerator.synchronize()


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured, ours and theirs in the same unit: seconds or bytes."""

    ours: float
    theirs: float
    unit: str = "s"

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


def clock(work: Work, calls: int, setting: Setting, wall: bool = False) -> float:
    """Seconds a call: of the processor, so that nothing else on the machine counts, or by the clock."""
    now = time.perf_counter if wall or setting.device != "cpu" else time.process_time
    began = now()
    for _ in range(calls):
        work()
    setting.sync()
    return (now() - began) / calls


def interleaved(
    ours: Work,
    theirs: Work,
    setting: Setting,
    *,
    seconds: float = 4.0,
    block: float = 0.004,
    least: int = 5,
    wall: bool = False,
) -> Result:
    """Medians of both, measured in turn, each time in the other order.

    Blocks of calls last ``block`` seconds or one call. They repeat for ``seconds``, ``least`` times at least.
    """
    if setting.quick:
        seconds, block, least = 0.0, 0.0, 2
    works, times = (ours, theirs), ([], [])  # type: tuple[Work, Work], tuple[list[float], list[float]]
    calls = []
    for work in works:
        first = clock(work, 1, setting, wall)
        # The first call compiles and allocates; where that was quick, the next says how long a call takes.
        again = min(clock(work, 2, setting, wall), first) if first < seconds / 8 or setting.quick else first
        calls.append(max(1, math.ceil(block / again)))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        began, number = time.perf_counter(), 0
        while number < least or time.perf_counter() - began < seconds:
            for side in (0, 1) if number % 2 else (1, 0):
                times[side].append(clock(works[side], calls[side], setting, wall))
            number += 1
    finally:
        if collecting:
            gc.enable()
    return Result(statistics.median(times[0]), statistics.median(times[1]))
