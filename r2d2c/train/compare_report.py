"""What a comparison writes: ``table.csv``, ``table.md``, ``angles.csv``, and the figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from r2d2c.train.atomic import write_atomic
from r2d2c.train.compare_board import ALL, Board, Row, Stat


def rows(board: Board) -> list[dict[str, Any]]:
    """The table as data, a mapping for every competitor. ``seeds``: how many of its trainings are finished."""
    return [_row(board, row) for row in board.rows]


def _row(board: Board, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {"rule": row.label, "state": row.state, "seeds": len(row.finished)}
    for split in board.splits:
        found[split] = {name: _stat(row.metric(split, name)) for name in board.metrics}
    tasks = {task: stat.mean for task in board.tasks if (stat := row.angle(task)) is not None}
    found |= {
        "loss": _stat(row.final_loss()),
        "seconds": _stat(row.seconds()),
        "parameters_added": row.added,
        "of_these_trained": row.added_trained,
        "angle": _stat(row.angle()),
        "angle_of_tasks": tasks,
    }
    if row.reasons:
        found["why"] = [str(diagnostic) for diagnostic in row.reasons]
    return found


def _stat(stat: Stat | None) -> dict[str, Any] | None:
    if stat is None:
        return None
    return {"mean": _finite(stat.mean), "std": stat.std, "values": [_finite(value) for value in stat.values]}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def flat(board: Board) -> list[dict[str, Any]]:
    """The rows of ``table.csv``: a column for every number."""
    lines = []
    for found in rows(board):
        line = {key: found[key] for key in ("rule", "state", "seeds")}
        for split in board.splits:
            for name in board.metrics:
                line |= _columns(f"{split} {name}", found[split][name])
        for key in ("loss", "seconds"):
            line |= _columns(key, found[key])
        line |= {key: found[key] for key in ("parameters_added", "of_these_trained")}
        line |= _columns("angle", found["angle"])
        line |= {f"angle {task}": found["angle_of_tasks"].get(task) for task in board.tasks}
        lines.append(line)
    return lines


def _columns(name: str, stat: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{name} mean": stat["mean"] if stat else None, f"{name} std": stat["std"] if stat else None}


# -- for people
def headings(board: Board) -> list[str]:
    """The columns of the table that people read."""
    named = [f"{split} {short_name(name, board)}" for name in board.metrics for split in board.splits]
    return ["rule", *named, "loss", "seconds", "added", "angle", ""]


def cells(board: Board) -> list[list[str]]:
    """That table's rows; the last column says what is not as it should be."""
    lines = []
    for row in board.rows:
        stats = [row.metric(split, name) for name in board.metrics for split in board.splits]
        lines.append(
            [
                row.label,
                *(spread(stat) for stat in stats),
                spread(row.final_loss()),
                spread(row.seconds(), ".1f" if _longest(board) >= 10 else ".2f"),
                _added(row),
                degrees(row.angle()),
                remark(row, board),
            ]
        )
    return lines


def _added(row: Row) -> str:
    fixed = row.added - row.added_trained
    if row.state == "refused" or not fixed:
        return "–" if row.state == "refused" else f"{row.added:,}"
    return f"{fixed:,} fixed" if not row.added_trained else f"{row.added_trained:,} and {fixed:,} fixed"


def _longest(board: Board) -> float:
    return max((stat.mean for row in board.rows if (stat := row.seconds()) is not None), default=0.0)


def short_name(name: str, board: Board) -> str:
    """A metric without its arguments, where no other is called so."""
    short = name.partition("(")[0]
    return short if sum(other.partition("(")[0] == short for other in board.metrics) == 1 else name


def spread(stat: Stat | None, form: str = "") -> str:
    """``0.9712 ± 0.0031``; a dash where there is nothing."""
    if stat is None:
        return "–"
    form = form or (".4f" if abs(stat.mean) < 1000 else ".4g")
    return f"{stat.mean:{form}}" + (f" ± {stat.std:{form}}" if stat.std is not None else "")


def degrees(stat: Stat | None) -> str:
    return (
        "–" if stat is None else f"{stat.mean:.1f}°" + (f" ± {stat.std:.1f}" if stat.std is not None else "")
    )


def remark(row: Row, board: Board) -> str:
    """Why a row is not all it should be; nothing if it is."""
    if row.state == "refused":
        return f"refused: {row.reasons[0].code}" if row.reasons else "refused"
    if row.state == "diverged":
        return f"diverged with seed {row.seed}"
    count = len(row.finished)
    return "" if count == len(board.seeds) else f"{count} of {len(board.seeds)} seeds"


def markdown(board: Board) -> str:
    """The text of ``table.md``."""
    head = headings(board)
    table = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    table += [[f"`{first}`", *rest] for first, *rest in cells(board)]
    if not any(row[-1] for row in table[2:]):
        table = [row[:-1] for row in table]
    lines = [
        f"# {board.model}: {len(board.rows)} rules compared",
        "",
        f"{told(board)}." + (" Mean ± standard deviation over the seeds." if len(board.seeds) > 1 else ""),
        "",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table),
        "",
        *(f"- {note}" for note in notes(board)),
        "",
        "![learning curves and angles](curves.svg)",
    ]
    return "\n".join(lines) + "\n"


def told(board: Board) -> str:
    """``digits, 30 epochs, seeds 0, 1, 2``."""
    seeds = ", ".join(map(str, board.seeds))
    epochs = f"{board.epochs} epoch{'s' if board.epochs != 1 else ''}"
    return f"{board.data or 'data'}, {epochs}, seed{'s' if len(board.seeds) > 1 else ''} {seeds}"


def notes(board: Board) -> list[str]:
    """What a reader of the table has to know."""
    shown = board.splits[-1]
    found = [f"loss: of the tasks alone, without the losses that rules add; {_where(shown)}."]
    if "test" in board.splits:
        best = any(
            run.test and run.test.get("checkpoint") == "best" for r in board.rows for run in r.finished
        )
        which = "the best checkpoint by the validation split" if best else "the last checkpoint"
        found.insert(0, f"test: measured once, at the end, on {which}.")
    found += [
        "seconds: of training, without measuring and saving.",
        "added: numbers that the rule stores beside the network's own, fixed if nothing trains them.",
    ]
    if any(row.angle() is not None for row in board.rows):
        found.append(
            "angle: between all that the rule would change and backprop's gradient, on one batch after the last epoch; "
            "0° is backprop, 90° has nothing to do with it."
        )
    for row in board.rows:
        if row.state in ("refused", "diverged"):
            found += [f"`{row.label}` was {_verb(row)}: {d.code}, {d.message}" for d in row.reasons]
    return found


def _where(split: str) -> str:
    return "on the validation split" if split == "validation" else "the mean of the last epoch of training"


def _verb(row: Row) -> str:
    return "refused" if row.state == "refused" else f"stopped with seed {row.seed}"


def write_all(board: Board, folder: Path) -> None:
    """Replace the files, each whole or not at all."""
    from r2d2c.train.compare_figure import draw

    write_atomic(folder / "table.csv", _csv(flat(board)))
    write_atomic(folder / "table.md", markdown(board).encode())
    write_atomic(folder / "angles.csv", _csv(_angles(board), ("rule", "seed", "epoch", "task", "degrees")))
    draw(board, folder)


def _angles(board: Board) -> list[dict[str, Any]]:
    return [
        {"rule": row.label, "seed": seed, "epoch": epoch, "task": task or "all", "degrees": f"{value:.4f}"}
        for row in board.rows
        for seed, run in row.runs.items()
        for epoch, found in run.angles.items()
        for task, value in found.items()
        if task == ALL or task in board.tasks
    ]


def _csv(lines: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(columns or (lines[0] if lines else ())), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue().encode()


__all__ = ["cells", "flat", "headings", "markdown", "notes", "rows", "told", "write_all"]
