"""The plain-text summary of a run, and a record in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2d2c.train.settings import Settings


def short(value: Any) -> str:
    """A number as a person reads it: four significant digits."""
    if not isinstance(value, int | float):
        return str(value)
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4f}"
        if 1e-3 <= abs(value) < 1e4
        else f"{value:.3g}"
    )


def line(record: Mapping[str, Any]) -> str:
    """``loss 0.1234 (encode 0.05, classify 0.07), accuracy(logits, y) 0.9812``."""
    losses = ", ".join(f"{name} {short(value)}" for name, value in list(record.get("losses", {}).items())[:8])
    parts = [f"loss {short(record['loss'])}" + (f" ({losses})" if len(record["losses"]) > 1 else "")]
    parts += [f"{name} {short(value)}" for name, value in record.get("metrics", {}).items()]
    parts += [f"{name} {value} ops" for name, value in record.get("ops", {}).items()]
    return ", ".join(parts)


def rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """What the last epoch measured, as rows ``what, train, validation, test``."""
    last: dict[str, Mapping[str, Any]] = {}
    for record in records:
        last[str(record.get("split"))] = record
    splits = [split for split in ("train", "validation", "test") if split in last]
    named: dict[str, dict[str, str]] = {}
    for split in splits:
        record = last[split]
        for name, value in record.get("losses", {}).items():
            named.setdefault(f"loss {name}", {})[split] = short(value)
        for name, value in record.get("metrics", {}).items():
            named.setdefault(name, {})[split] = short(value)
        for name, value in record.get("spread", {}).items():
            named.setdefault(f"spread {name}", {})[split] = short(value)
        for name, value in record.get("ops", {}).items():
            named.setdefault(f"ops {name}", {})[split] = short(value)
    return [
        ("", *splits),
        *((name, *(cells.get(split, "") for split in splits)) for name, cells in named.items()),
    ]


def optimizer_facts(settings: Settings) -> dict[str, Any]:
    """What else the spec says of how parameters are stepped."""
    others = {choice.key: choice.call for choice in settings.others.values()}
    clips = {clip.key: clip for clip in settings.clips.values()}
    facts: dict[str, Any] = {f"optimizer of {key}": call for key, call in others.items()}
    if settings.schedule:
        facts["schedule"] = " |> ".join(map(str, settings.schedule))
    facts |= {f"clip of {key}" if key else "clip": clip for key, clip in clips.items()}
    if settings.accumulate > 1:
        facts["accumulate"] = f"{settings.accumulate} batches a step"
    if settings.precision != "f32":
        facts["precision"] = settings.precision
    return facts


def growth_facts(counts: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """What became of op graphs that grew, from what a checkpoint counts of them."""
    return {
        f"growth of {name}": f"{count['rounds']} round{'s' * (count['rounds'] != 1)}, "
        f"{count['added']} ops added, {count['pruned']} pruned"
        + "".join(f", {count[did]} {did}" for did in ("split", "merged") if count.get(did))
        for name, count in counts.items()
    }


def table(cells: Sequence[Sequence[str]]) -> str:
    """Rows as text in columns, the first to the left and the others to the right."""
    widths = [max(len(row[k]) for row in cells) for k in range(len(cells[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if k == 0 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(text.rstrip() for text in lines)


def summarize(name: str, records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """The text of ``summary.txt``."""
    head = [f"{key}: {value}" for key, value in {"model": name, **facts}.items()]
    return "\n".join([*head, "", table(rows(records))])
