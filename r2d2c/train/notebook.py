"""How runs, comparisons and sweeps look in a notebook: tables, and their curves as a picture inside the page."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from r2d2c.html import box, colored_table, paragraph, table

if TYPE_CHECKING:
    from r2d2c.train.compare import Comparison
    from r2d2c.train.run import Run
    from r2d2c.train.sweep import Sweep

_BEST = "#cfead6"


def run_html(run: Run) -> str:
    """What the last epoch measured, and the curves. A run that has no epoch yet says so."""
    from r2d2c.train.curves import png_of
    from r2d2c.train.summary import rows

    records = run.metrics
    name = run.folder.resolve().name
    if not records:
        return box(name, paragraph("nothing measured yet"), note="run")
    first, *rest = rows(records)
    epoch = max((r["epoch"] for r in records if isinstance(r.get("epoch"), int)), default=0)
    found = ""
    if run.test is not None:
        found = paragraph(f"test: measured once, at the end, on the {run.which} checkpoint")
    image = png_of(records)
    return box(
        name,
        table(first, rest, "l" + "r" * (len(first) - 1)),
        found,
        _picture(image, "curves of the run") if image is not None else "",
        note=f"run of {run.spec.name}, {epoch} epoch{'s' * (epoch != 1)}",
    )


def comparison_html(found: Comparison) -> str:
    """The table of the rules, what is to be known of it, and the curves."""
    from r2d2c.train.compare_report import cells, headings, notes, told

    board = found.board
    head, rows = headings(board), cells(board)
    align = "l" + "r" * (len(head) - 2) + "l"
    said = "".join(map(paragraph, notes(board)))
    picture = _picture_of(found.folder / "curves.png", "learning curves and angles")
    title = f"{board.model}: {len(board.rows)} rules compared"
    return box(title, table(head, rows, align), said, picture, note=told(board))


def sweep_html(found: Sweep) -> str:
    """The table of the settings, the best first, and the figure."""
    from r2d2c.train.sweep_figure import draw
    from r2d2c.train.sweep_report import cells, headings, notes, told

    board = found.board
    head, rows = headings(board), cells(board)
    align = "r" + "l" * len(board.keys) + "r" * (len(head) - len(board.keys) - 2) + "l"
    best = str(found.best.number) if found.best is not None else ""
    lines = [[(cell, _BEST if row[0] == best else "") for cell in row] for row in rows]
    image = draw(board)
    return box(
        f"{board.model}: a sweep over {', '.join(board.keys)}",
        colored_table(head, lines, align),
        "".join(map(paragraph, notes(board))),
        _picture(image, "settings by what they reach") if image is not None else "",
        note=told(board),
    )


def _picture_of(path: Path, what: str) -> str:
    try:
        return _picture(path.read_bytes(), what)
    except OSError:
        return ""


def _picture(png: bytes, what: str) -> str:
    """An image that is in the page itself. ``what`` is a text of ours."""
    data = b64encode(png).decode()
    return f'<img alt="{what}" style="max-width:100%;background:#fff" src="data:image/png;base64,{data}">'


__all__ = ["comparison_html", "run_html", "sweep_html"]
