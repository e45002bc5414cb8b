"""The figure of a sweep: its settings, the best above, with their intervals; beside them what each key does."""

from __future__ import annotations

import io
import math
import statistics
from typing import TYPE_CHECKING, Any

from r2d2c.train.sweep_board import Board, Interval, Setting
from r2d2c.train.sweep_space import CREDIT, Axis, Range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = 56  # characters of a setting
SHOWN = 30  # settings that get a line
PANELS = 3  # keys that get a panel
BLUE, GREY, ORANGE = "#1f77b4", "0.6", "#d95f02"


def draw(board: Board) -> bytes | None:
    """A PNG; None if there is nothing to draw yet."""
    shown = [(s, found) for s in board.ranked() if _measured(s) and (found := s.value()) is not None]
    if not shown:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = [key for key in board.keys if len({s.values[key] for s, _ in shown}) > 1][:PANELS]
    lines = min(len(shown), SHOWN)
    labels = max(len(_label(s, board)) for s, _ in shown[:SHOWN])
    width = 5.0 + 0.065 * labels
    figure = Figure(
        figsize=(width + 3.4 * len(keys), max(3.4, 1.4 + 0.27 * lines)), dpi=120, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1 + len(keys), squeeze=False, width_ratios=[width, *[3.4] * len(keys)])[0]
    _settings(axes[0], board, shown)
    for axis, key in zip(axes[1:], keys, strict=True):
        _key(axis, board, key, shown)
    seeds = f"{len(board.seeds)} seeds" if len(board.seeds) > 1 else f"seed {board.seeds[0]}"
    left_out = len(board.settings) - lines
    more = f"; {left_out} of {len(board.settings)} settings not shown" if left_out else ""
    figure.suptitle(_plain(f"{board.model}: {board.data}, {seeds}{more}"), x=0.01, ha="left", fontsize=11)
    buffer = io.BytesIO()
    # No version in the file: the same sweep gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _measured(setting: Setting) -> bool:
    found = setting.value()
    return setting.state in ("done", "pruned") and found is not None and math.isfinite(found.mean)


def _label(setting: Setting, board: Board) -> str:
    """What it sets, in short: a text with holes, and a credit, say enough without their key."""
    words = []
    for axis in board.space.axes:
        value = setting.values[axis.key]
        bare = axis.key == CREDIT or len(axis.parts) > 1
        words.append(value if bare else f"{_tail(axis.key)}={value}")
    text = ", ".join(words)
    return text if len(text) <= LABEL else f"{text[: LABEL - 1]}…"


def _tail(key: str) -> str:
    return key.rpartition(".")[2]


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # dollars start mathematics


def _settings(axis: Axes, board: Board, shown: list[tuple[Setting, Interval]]) -> None:
    for place, (setting, found) in enumerate(shown[:SHOWN]):
        colour = GREY if setting.state == "pruned" else BLUE
        axis.plot(found.values, [place] * len(found.values), ".", color=colour, alpha=0.45, markersize=5)
        axis.errorbar(
            [found.mean], [place], xerr=None if found.half is None else [found.half], fmt="o", color=colour,
            markersize=5, capsize=3, linewidth=1.4, markerfacecolor="white" if setting.state == "pruned" else colour,
        )  # fmt: skip
    axis.set_yticks(range(len(shown[:SHOWN])))
    axis.set_yticklabels([_plain(_label(setting, board)) for setting, _ in shown[:SHOWN]], fontsize=8)
    axis.set_ylim(len(shown[:SHOWN]) - 0.4, -0.6)
    pruned = ", open: pruned" if any(s.state == "pruned" for s, _ in shown) else ""
    interval = "mean, 95 % interval, seeds" if len(board.seeds) > 1 else "one seed"
    axis.set_title(f"{interval}{pruned}", loc="left", fontsize=9)
    axis.set_xlabel(
        _plain(f"{board.split} {board.monitor.partition('(')[0]} ({board.better} is better)"), fontsize=9
    )
    _wide(axis.set_xscale, [value for _, found in shown for value in found.values], board)
    _frame(axis)


def _key(axis: Axes, board: Board, key: str, shown: list[tuple[Setting, Interval]]) -> None:
    """Every setting at its value of one key; of values that come several times the mean too."""
    done = [(s, found) for s, found in shown if s.state == "done"]
    (swept,) = (found for found in board.space.axes if found.key == key)
    drawn = next((part for part in swept.parts if isinstance(part, Range)), None)
    numbers = {s.values[key]: _number(s.values[key], swept) for s, _ in done}
    ordered = all(value is not None for value in numbers.values())
    order = sorted(numbers, key=lambda value: numbers[value] or 0.0) if ordered else list(numbers)
    scaled = ordered and drawn is not None
    place = {value: float(numbers[value] or 0.0) if scaled else float(k) for k, value in enumerate(order)}
    groups: dict[str, list[float]] = {}
    for setting, found in done:
        groups.setdefault(setting.values[key], []).append(found.mean)
        axis.plot([place[setting.values[key]]], [found.mean], "o", color=BLUE, alpha=0.6, markersize=4)
    if any(len(values) > 1 for values in groups.values()):
        means: Any = [statistics.fmean(groups[value]) for value in order]
        axis.plot(
            [place[value] for value in order], means, "_", color=ORANGE, markersize=16, markeredgewidth=2
        )
    if not scaled:
        axis.set_xticks(range(len(order)))
        cut = [value if len(value) <= 22 else f"{value[:21]}…" for value in order]
        turned = sum(map(len, cut)) > 30
        sides: Any = {"rotation": 30, "ha": "right"} if turned else {}
        axis.set_xticklabels([_plain(value) for value in cut], **sides)
        axis.set_xlim(-0.6, len(order) - 0.4)
    elif drawn is not None and drawn.log:
        axis.set_xscale("log")
        if drawn.high / drawn.low < 100:
            from matplotlib.ticker import LogLocator, NullLocator

            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_title(
        _plain(f"by {key}" if len(swept.parts) == 1 else f"by the hole in {key}"), loc="left", fontsize=9
    )
    _wide(axis.set_yscale, [value for values in groups.values() for value in values], board)
    _frame(axis)


def _number(text: str, axis: Axis) -> float | None:
    """The number that a value is, or that stands in its one hole."""
    before, after = (part if isinstance(part, str) else "" for part in (axis.parts[0], axis.parts[-1]))
    try:
        return float(text.removeprefix(before).removesuffix(after))
    except ValueError:
        return None


def _wide(scale: Any, values: list[float], board: Board) -> None:
    """A loss over several powers of ten reads best on a logarithmic scale."""
    if board.better == "lower" and values and min(values) > 0 and max(values) / min(values) > 50:
        scale("log")


def _frame(axis: Axes) -> None:
    axis.tick_params(labelsize=8)
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


__all__ = ["draw"]
