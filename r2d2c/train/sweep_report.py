"""What a sweep writes: ``table.csv``, ``table.md`` and the figure; and its table for the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r2d2c.train.atomic import write_atomic
from r2d2c.train.sweep_board import CONFIDENCE, Board, Interval, Setting

_REMARKS = {"waiting": "not trained yet", "running": "not trained yet", "elsewhere": "trained elsewhere"}


def rows(board: Board) -> list[dict[str, Any]]:
    """A mapping for every setting, the best first. ``seeds``: how many of its trainings are done."""
    return [_row(board, setting) for setting in board.ranked()]


def _row(board: Board, setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {
        "setting": setting.number,
        "values": dict(setting.values),
        "state": setting.state,
        "seeds": len(setting.done),
        "value": _interval(setting.value()),
    }
    for split in board.splits:
        found[split] = {name: _interval(setting.measured(split, name)) for name in (*board.metrics, "loss")}
    found["epoch"] = _interval(setting.epoch())
    found["seconds"] = _interval(setting.seconds())
    if setting.reasons:
        found["why"] = list(setting.reasons)
    return found


def _interval(found: Interval | None) -> dict[str, Any] | None:
    if found is None or not math.isfinite(found.mean):  # JSON has no NaN
        return None
    low, high = (None if found.half is None else found.mean + side * found.half for side in (-1, 1))
    return {"mean": found.mean, "low": low, "high": high, "values": list(found.values)}


def csv_bytes(board: Board) -> bytes:
    """A row for every setting; a column for every key, and for every number its mean and interval."""
    lines = []
    for found in rows(board):
        line: dict[str, Any] = {"setting": found["setting"], **found["values"]}
        line |= {key: found[key] for key in ("state", "seeds")}
        line |= _columns(f"{board.split} {board.monitor}", found["value"])
        for split in board.splits:
            for name, interval in found[split].items():
                line |= _columns(f"{split} {name}", interval)
        line |= {"epoch mean": (found["epoch"] or {}).get("mean")}
        line |= _columns("seconds", found["seconds"])
        lines.append(line | {"why": "; ".join(found.get("why", ()))})
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(lines[0] if lines else ("setting",)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue().encode()


def _columns(name: str, found: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{name} {part}": found[part] if found else None for part in ("mean", "low", "high")}


# -- for people
def _shown(board: Board) -> list[tuple[str, str]]:
    """Split and name of the columns of measurements, beside the one that decides."""
    names = [*board.metrics, *([] if board.metrics else ["loss"])]
    found = [(split, name) for split in board.splits for name in names]
    return [pair for pair in found if pair != (board.split, board.monitor)]


def headings(board: Board) -> list[str]:
    """The columns of the table that people read."""
    named = [f"{split} {_short(name)}" for split, name in _shown(board)]
    counts = ["epoch"] if _sooner(board) else []
    return ["setting", *board.keys, f"{board.split} {_short(board.monitor)}", *named, *counts, "seconds", ""]


def _sooner(board: Board) -> bool:
    """Whether the checkpoint that counts is of an epoch before the last one anywhere."""
    return any(
        outcome.epoch < board.epochs for setting in board.settings.values() for outcome in setting.done
    )


def _short(name: str) -> str:
    return name.partition("(")[0]


def cells(board: Board) -> list[list[str]]:
    """That table's rows; the last column says what is not as it should be."""
    return [
        [
            str(setting.number),
            *(setting.values.get(key, "") for key in board.keys),
            spread(setting.value()),
            *(spread(setting.measured(split, name)) for split, name in _shown(board)),
            *([_mean(setting.epoch())] if _sooner(board) else []),
            spread(setting.seconds(), ".1f"),
            remark(setting, board),
        ]
        for setting in board.ranked()
    ]


def spread(found: Interval | None, form: str = "") -> str:
    """``0.9712 ± 0.0031``; a dash where there is nothing."""
    if found is None:
        return "–"
    form = form or (".4f" if 1e-3 <= abs(found.mean) < 1000 else ".4g")
    return f"{found.mean:{form}}" + (f" ± {found.half:{form}}" if found.half is not None else "")


def _mean(found: Interval | None) -> str:
    return "–" if found is None else f"{found.mean:.1f}".removesuffix(".0")


def remark(setting: Setting, board: Board) -> str:
    """Why a row is not all it should be; nothing if it is."""
    if setting.state == "failed":
        code = setting.reasons[0].partition(":")[0] if setting.reasons else ""
        bad = setting.bad()
        with_seed = f" with seed {bad[0]}" if bad is not None else ""
        return f"failed{with_seed}" + (f": {code}" if code[1:].isdecimal() else "")
    if setting.state == "refused":
        return f"refused: {setting.reasons[0].partition(':')[0]}" if setting.reasons else "refused"
    if setting.state == "pruned":
        return f"pruned after epoch {_last_epoch(setting)}"
    return _REMARKS.get(setting.state, "")


def _last_epoch(setting: Setting) -> int:
    bad = setting.bad()
    return bad[1].epoch if bad is not None else 0


def told(board: Board) -> str:
    """``digits, 30 epochs, seeds 0, 1, 2``."""
    seeds = ", ".join(map(str, board.seeds))
    epochs = f"{board.epochs} epoch{'s' if board.epochs != 1 else ''}"
    return f"{board.data or 'data'}, {epochs}, seed{'s' if len(board.seeds) > 1 else ''} {seeds}"


def notes(board: Board) -> list[str]:
    """What a reader of the table has to know."""
    found = []
    if len(board.seeds) > 1:
        found.append(f"±: half of the {CONFIDENCE:.0%} confidence interval over the seeds, by Student's t.")
    found.append(f"ordered by {board.monitor} ({board.better} is better) on the {board.split} split.")
    if _sooner(board):
        found.append("epoch: of the checkpoint that counts, the best one; the mean over the seeds.")
    if board.count("pruned"):
        found.append("pruned: given up by the epochs of the first seed; shown is the last value seen.")
    found += [
        f"setting {setting.number} ({setting.label()}) {setting.state}: {reason}"
        for setting in board.ranked()
        if setting.state in ("failed", "refused")
        for reason in setting.reasons[:1]
    ]
    return found


def markdown(board: Board) -> str:
    """The text of ``table.md``."""
    head, count = headings(board), len(board.keys)
    table = [head, ["---:", *["---"] * count, *["---:"] * (len(head) - count - 2), "---"]]
    table += [[first, *(f"`{v}`" for v in rest[:count]), *rest[count:]] for first, *rest in cells(board)]
    if not any(row[-1] for row in table[2:]):
        table = [row[:-1] for row in table]
    lines = [
        f"# {board.model}: a sweep over {', '.join(f'`{key}`' for key in board.keys)}",
        "",
        f"{told(board)}.",
        "",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table),
        "",
        *(f"- {note}" for note in notes(board)),
        "",
        "![settings by what they reach](sweep.png)",
    ]
    return "\n".join(lines) + "\n"


def write_all(board: Board, folder: Path) -> None:
    """Replace the files, each whole or not at all."""
    from r2d2c.train.sweep_figure import draw

    write_atomic(folder / "table.csv", csv_bytes(board))
    write_atomic(folder / "table.md", markdown(board).encode())
    image = draw(board)
    if image is not None:
        write_atomic(folder / "sweep.png", image)


__all__ = [
    "cells",
    "csv_bytes",
    "headings",
    "markdown",
    "notes",
    "remark",
    "rows",
    "spread",
    "told",
    "write_all",
]
