"""Draws docs/pipeline.svg, the picture of the pipeline: ``python docs/pipeline.py [FILE]``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, SOFT, LINE, RED = "#263238", "#607d8b", "#90a4ae", "#c62828"
TEXT, GRAPH, LEARN, USE, RECORD = "#fff8e1", "#e3f2fd", "#f3e5f5", "#e8f5e9", "#fafafa"
WIDTH, HEIGHT = 2.0, 0.92

# name: (x, y, title, what is in it, colour)
BOXES = {
    "spec": (0.0, 2.0, "spec.yaml", "20 to 40 lines", TEXT),
    "syntax": (2.6, 2.0, "syntax", "YAML, expressions,\nspans", TEXT),
    "resolved": (5.2, 2.0, "resolved graph", "names, blocks,\nparameters as values", GRAPH),
    "typed": (7.8, 2.0, "typed graph", "dims unified, forms\nchosen, verified", GRAPH),
    "training": (10.7, 3.1, "training graph", "attach, flatten, hoist,\nrewire, differentiate", LEARN),
    "inference": (10.7, 0.9, "inference graph", "no target, loss\nor representative", USE),
    "visits": (13.3, 3.1, "fx, by visit", "readable code,\nloops in phases", LEARN),
    "fx": (13.3, 0.9, "fx", "readable code,\nspans kept", USE),
    "learn": (15.9, 3.1, "eager · inductor", "learn, train,\nprove", LEARN),
    "use": (15.9, 0.9, "eager · ONNX", "predict, export,\ninspect", USE),
}
ARROWS = [
    ("spec", "syntax"),
    ("syntax", "resolved"),
    ("resolved", "typed"),
    ("typed", "training"),
    ("typed", "inference"),
    ("training", "visits"),
    ("visits", "learn"),
    ("inference", "fx"),
    ("fx", "use"),
]
# What a user reads at each stage.
ABOVE = {"spec": "diagnostics", "syntax": "E0xx  E1xx", "resolved": "E2xx", "typed": "E3xx  E4xx"}
# title, from x, to x, y, the boxes it is used by
RECORDS = [
    ("op records: signature, shape, storage, lowering, ONNX form", 5.2, 9.8, 0.25, ("resolved", "typed")),
    ("credit records: what a link lets back, δ, storage, losses", 10.7, 15.3, 4.35, ("training",)),
]


def box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, edge: str = LINE) -> None:
    style = "round,pad=0,rounding_size=0.12"
    corner = (x, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, style, fc=colour, ec=edge, lw=1.0, zorder=2))


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], dashed: bool = False) -> None:
    rad = 0.0 if start[1] == end[1] or dashed else -0.12 if end[1] > start[1] else 0.12
    style = "-|>,head_length=5,head_width=2.4"
    axes.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle=style, connectionstyle=f"arc3,rad={rad}", color=LINE if dashed else SOFT,
            lw=1.0 if dashed else 1.4, ls=(0, (4, 3)) if dashed else "-", shrinkA=2, shrinkB=2, zorder=1,
        )
    )  # fmt: skip


def write(
    axes: Axes, x: float, y: float, text: str, size: float, colour: str, weight: str = "normal"
) -> None:
    axes.text(x, y, text, ha="center", va="center", size=size, color=colour, weight=weight, linespacing=1.25)


def draw(path: Path) -> None:
    plt.rcParams |= {"font.family": "DejaVu Sans", "svg.hashsalt": "r2d2c", "svg.fonttype": "path"}
    figure, axes = plt.subplots(figsize=(12.4, 3.6))
    for x, y, title, content, colour in BOXES.values():
        box(axes, x, y, WIDTH, HEIGHT, colour)
        lines = content.count("\n")
        write(axes, x + WIDTH / 2, y + 0.24, title, 8.6, INK, "bold")
        write(axes, x + WIDTH / 2, y - 0.14 - 0.02 * lines, content, 7.0, SOFT)
    for left, right in ARROWS:
        start = (BOXES[left][0] + WIDTH, BOXES[left][1])
        arrow(axes, start, (BOXES[right][0], BOXES[right][1]))
    for name, text in ABOVE.items():
        x, y = BOXES[name][:2]
        write(axes, x + WIDTH / 2, y + HEIGHT / 2 + 0.17, text, 7.0, RED)
    for title, left, right, y, users in RECORDS:
        box(axes, left, y, right - left, 0.42, RECORD)
        write(axes, (left + right) / 2, y, title, 7.4, INK)
        for name in users:
            x, other = BOXES[name][0] + WIDTH / 2, BOXES[name][1]
            above = other > y
            edge = (y + 0.21, other - HEIGHT / 2) if above else (y - 0.21, other + HEIGHT / 2)
            arrow(axes, (x, edge[0]), (x, edge[1]), dashed=True)
    axes.set_xlim(-0.15, 18.05)
    axes.set_ylim(-0.1, 4.7)
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    # No date inside, so that the same picture is the same file.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, dpi=160, facecolor="white", metadata=metadata)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("pipeline.svg"))
