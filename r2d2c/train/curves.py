"""Curves of a run as one PNG: losses above, metrics below, and the sizes of op graphs that grow."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.train.atomic import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 10  # curves that get a colour and a name; a thousand tasks are a grey cloud behind them
_LABELS = {"losses": "loss", "metrics": "metric", "ops": "ops"}
_STYLES: dict[str, Literal["-", "--", ":"]] = {"train": "-", "validation": "--", "test": ":"}

Curve = tuple[list[float], list[float]]
Curves = dict[tuple[str, str], Curve]
"""(name, split) -> epochs and values."""


def collect(records: Iterable[Mapping[str, Any]], key: str) -> Curves:
    """The curves under ``key`` (``losses``, ``metrics`` or ``ops``) of the records that have an ``epoch``.

    A record is ``{"epoch": 3, "split": "train", "losses": {"encode": 0.2}, "metrics": {"accuracy": 0.9},
    …}``.
    """
    curves: Curves = {}
    for record in records:
        values, epoch = record.get(key), record.get("epoch")
        if not isinstance(values, Mapping) or not isinstance(epoch, int | float):
            continue
        for name, value in values.items():
            if isinstance(value, int | float):
                xs, ys = curves.setdefault((str(name), str(record.get("split", "train"))), ([], []))
                xs.append(float(epoch))
                ys.append(float(value) if math.isfinite(value) else math.nan)
    return curves


def draw_curves(records: Iterable[Mapping[str, Any]], path: Path, *, title: str = "") -> bool:
    """Write a PNG of the records' losses, metrics and ops, atomically; False (and no file) if there are none."""
    image = png_of(records, title=title)
    if image is not None:
        write_atomic(path, image)
    return image is not None


def png_of(records: Iterable[Mapping[str, Any]], *, title: str = "") -> bytes | None:
    """A PNG of the records' losses, metrics and ops; None if there are none."""
    records = list(records)
    panels = [(key, curves) for key in _LABELS if (curves := collect(records, key))]
    if not panels:
        return None
    # The object interface, with Agg's canvas: no global state, no window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 1.0 + 3.0 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (key, curves) in zip(axes, panels, strict=True):
        _panel(axis, key, curves)
    axes[-1].set_xlabel("epoch")
    if title:
        axes[0].set_title(title, loc="left", fontsize=11)
    buffer = io.BytesIO()
    # No version in the file: the same run gives the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(axis: Axes, key: str, curves: Curves) -> None:
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for name, _ in curves))
    colours = {name: colormaps["tab10"](at) for at, name in enumerate(names[:NAMED])}
    splits = [split for split in _STYLES if any(split == other for _, other in curves)]
    for (name, split), (xs, ys) in curves.items():
        named = name in colours
        axis.plot(
            xs,
            ys,
            _STYLES.get(split, "-."),
            color=colours.get(name, "0.75"),
            linewidth=1.6 if named else 0.5,
            marker="." if len(xs) == 1 else None,
            zorder=3 if named else 2,
        )
    _legend(axis, colours, splits, len(names))
    axis.set_ylabel(_LABELS[key])
    axis.grid(color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    epochs = [x for xs, _ in curves.values() for x in xs]
    if min(epochs) == max(epochs):
        axis.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)
    seen = [y for _, ys in curves.values() for y in ys if math.isfinite(y)]
    # Metrics between 0 and 1 read best on a plain scale; a perplexity beside them would flatten them there.
    wide = seen and min(seen) > 0 and max(seen) / min(seen) > 50
    if wide and key != "ops" and (key == "losses" or max(seen) > 10):
        axis.set_yscale("log")


def _legend(axis: Axes, colours: Mapping[str, Any], splits: list[str], total: int) -> None:
    """Colours are names, line styles are splits: so many entries, not their product."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=_short(name)) for name, colour in colours.items()]
    if total > len(colours):
        handles.append(Line2D([], [], color="0.75", label=f"{total - len(colours)} more"))
    if len(splits) > 1:
        handles += [Line2D([], [], color="0.3", linestyle=_STYLES[split], label=split) for split in splits]
    axis.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)


def _short(name: str, most: int = 24) -> str:
    # A leading underscore hides a legend entry, and dollars start mathematics.
    name = name.replace("$", r"\$")
    name = name if len(name) <= most else name[: most - 1] + "…"
    return f" {name}" if name.startswith("_") else name
