"""The figure of a comparison: losses and metrics above, angles to backprop below; one colour a rule, one band a seed set."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2d2c.train.atomic import write_atomic
from r2d2c.train.compare_board import ALL, Board, Row
from r2d2c.train.compare_report import short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 5  # columns of angles: all parameters, and some tasks
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)))
Curves = Sequence[dict[int, float]]


def draw(board: Board, folder: Path) -> bool:
    """Write ``curves.svg`` and ``curves.png``, atomically; False (and no file) if there is nothing to draw yet."""
    rows = [row for row in board.rows if any(run.splits or run.angles for run in row.runs.values())]
    if not rows:
        return False
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    upper = [_loss(board, rows), *(_metric(board, rows, name) for name in board.metrics[:2])]
    upper = [panel for panel in upper if panel is not None]
    lower = _angles(board, rows)
    height = 0.9 + 3.2 * bool(upper) + 2.6 * bool(lower)
    figure = Figure(figsize=(12.0, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    bands: Any = figure.subfigures(2, 1, height_ratios=(3.2, 2.6)) if upper and lower else [figure]
    for band, panels in zip(bands, [group for group in (upper, lower) if group], strict=True):
        axes = band.subplots(1, len(panels), sharey=panels is lower, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            panel(axis)
            _frame(axis)
    figure.legend(handles=_legend(rows), loc="outside right upper", frameon=False, fontsize=9)
    seeds = f"{len(board.seeds)} seeds" if len(board.seeds) > 1 else f"seed {board.seeds[0]}"
    figure.suptitle(f"{board.model}: {board.data}, {seeds}", x=0.01, ha="left", fontsize=11)
    # No date, no version and ids by content: the same comparison gives the same bytes.
    with rc_context({"svg.hashsalt": "r2d2c"}):
        for form, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=form, metadata=metadata)
            write_atomic(folder / f"curves.{form}", buffer.getvalue())
            figure.set_layout_engine("none")  # what was laid out once stays where it is
    return True


def _loss(board: Board, rows: Sequence[Row]) -> Any:
    found = [(row, row.loss_curves()) for row in rows]
    if not any(any(curves) for _, curves in found):
        return None

    def panel(axis: Axes) -> None:
        _lines(axis, found)
        values = [v for _, curves in found for curve in curves for v in curve.values() if math.isfinite(v)]
        if values and min(values) > 0 and max(values) / min(values) > 50:
            axis.set_yscale("log")
        axis.set_title(f"{_split(rows)} loss of the tasks", loc="left", fontsize=10)

    return panel


def _metric(board: Board, rows: Sequence[Row], name: str) -> Any:
    found = [(row, row.metric_curves(name)) for row in rows]
    if not any(any(curves) for _, curves in found):
        return None

    def panel(axis: Axes) -> None:
        _lines(axis, found)
        axis.set_title(f"{_split(rows)} {short_name(name, board)}", loc="left", fontsize=10)

    return panel


def _split(rows: Sequence[Row]) -> str:
    run = next(iter(rows[0].runs.values()))
    return "validation" if run.shown == "validation" else "training"


def _angles(board: Board, rows: Sequence[Row]) -> list[Any]:
    """A panel for all parameters and one for each of some tasks that not everybody learns as backprop does."""
    curves = {task: [(row, row.angle_curves(task)) for row in rows] for task in (ALL, *board.tasks)}
    largest = {
        task: max((v for _, mine in found for curve in mine for v in curve.values()), default=None)
        for task, found in curves.items()
    }
    tasks = [task for task in board.tasks if (largest[task] or 0.0) > 1]
    if len(tasks) >= PANELS:  # from the lowest to the highest
        tasks = [tasks[round(k * (len(tasks) - 1) / (PANELS - 2))] for k in range(PANELS - 1)]
    shown = [ALL, *tasks] if largest[ALL] is not None else []
    return [_angle_panel(task, curves[task], first=task == ALL) for task in shown]


def _angle_panel(task: str, found: Sequence[tuple[Row, Curves]], first: bool) -> Any:
    def panel(axis: Axes) -> None:
        axis.axhline(90, color="0.35", linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        _lines(axis, found)
        top = max([95.0, *(v for _, curves in found for curve in curves for v in curve.values())])
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, -4.0), max(high, top + 5))
        axis.set_yticks([0, 30, 60, 90, *([120] if axis.get_ylim()[1] > 120 else [])])
        axis.yaxis.set_major_formatter("{x:.0f}°")
        axis.set_title("angle to backprop, all" if task == ALL else f"in {task}", loc="left", fontsize=10)
        if first:
            axis.text(
                0.99, 90, "90°: unrelated", transform=axis.get_yaxis_transform(), ha="right", va="bottom"
            )
            axis.texts[-1].set(fontsize=7.5, color="0.35")

    return panel


def _lines(axis: Axes, found: Sequence[tuple[Row, Curves]]) -> None:
    """The mean over seeds of every row, and a band one standard deviation wide on each side."""
    for row, curves in found:
        epochs = sorted({epoch for curve in curves for epoch in curve})
        values = [
            [curve[epoch] for curve in curves if math.isfinite(curve.get(epoch, math.nan))]
            for epoch in epochs
        ]
        points = [(epoch, here) for epoch, here in zip(epochs, values, strict=True) if here]
        xs, means = [epoch for epoch, _ in points], [statistics.fmean(here) for _, here in points]
        stds = [statistics.stdev(here) if len(here) > 1 else 0.0 for _, here in points]
        dashes = _DASHES[row.dashes % len(_DASHES)]
        axis.plot(
            xs,
            means,
            linestyle=dashes,
            linewidth=1.6,
            marker="." if len(xs) == 1 else None,
            color=row.colour,
            zorder=3,
        )
        if any(stds):
            low, high = ([m + side * s for m, s in zip(means, stds, strict=True)] for side in (-1, 1))
            axis.fill_between(xs, low, high, color=row.colour, alpha=0.15, linewidth=0, zorder=2)


def _frame(axis: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_xlabel("epoch", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=6))


def _legend(rows: Sequence[Row]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [],
            [],
            color=row.colour,
            linestyle=_DASHES[row.dashes % len(_DASHES)],
            linewidth=1.6,
            label=_cut(row),
        )
        for row in rows
    ]


def _cut(row: Row) -> str:
    return row.label if len(row.label) <= 34 else f"{row.label[:33]}…"


__all__ = ["draw"]
