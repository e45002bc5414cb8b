"""How specs, models and wirings look in a notebook: HTML that needs no file beside it. Nothing here imports torch.

Names come from specs, which are data: every text is escaped, and no script, link or image of another place is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from r2d2c.draw_bodies import plain_type
from r2d2c.plan_sizes import elements

if TYPE_CHECKING:
    from r2d2c.driver import Checked
    from r2d2c.graph import Graph, Port

MOST = 200  # rows of a table; the rest is counted
_GREY = "color:#888"
_CELL = "padding:2px 10px;text-align:left;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.25)"
_NUMBER = f"{_CELL};text-align:right;font-variant-numeric:tabular-nums"
# Backgrounds of entries, with a dark text of their own, so that they can be read on dark pages too.
_GRADIENT, _RULE, _PLASTIC = "#cfead6", "#fde3bd", "#e6d8f3"


def box(title: str, *parts: str, note: str = "") -> str:
    """A heading and what belongs under it. ``parts`` are HTML."""
    said = f' <span style="{_GREY}">{escape(note)}</span>' if note else ""
    head = f'<div style="margin-bottom:4px"><b>{escape(title)}</b>{said}</div>'
    return (
        '<div class="r2d2c" style="font-family:sans-serif;font-size:13px;overflow-x:auto">'
        f"{head}{''.join(parts)}</div>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "", *, most: int = MOST) -> str:
    """A table of texts. align: ``l`` or ``r`` for each column; left where it says nothing."""
    cells = [[(cell, "") for cell in row] for row in rows]
    return colored_table(head, cells, align, most=most)


def colored_table(
    head: Sequence[str], rows: Iterable[Sequence[tuple[str, str]]], align: str = "", *, most: int = MOST
) -> str:
    """As `table`, with cells of a text and a background, which may be empty."""
    listed = list(rows)
    styles = [_NUMBER if side == "r" else _CELL for side in align.ljust(len(head), "l")]
    lines = ["<table style='border-collapse:collapse;margin:4px 0'>"]
    if any(head):
        names = (f'<th style="{style}">{escape(n)}</th>' for n, style in zip(head, styles, strict=True))
        lines.append(f"<thead><tr>{''.join(names)}</tr></thead>")
    lines.append("<tbody>")
    for row in listed[:most]:
        texts = (
            f'<td style="{style}{f";background:{back};color:#222" if back else ""}">{escape(text)}</td>'
            for (text, back), style in zip(row, styles, strict=True)
        )
        lines.append(f"<tr>{''.join(texts)}</tr>")
    lines.append("</tbody></table>")
    left = len(listed) - most
    return "".join(lines) + (paragraph(f"and {left:,} more") if left > 0 else "")


def paragraph(text: str) -> str:
    return f'<div style="{_GREY};margin:2px 0">{escape(text)}</div>'


def details(title: str, part: str) -> str:
    """What is shown only when somebody asks. ``part`` is HTML."""
    return f'<details style="margin:4px 0"><summary>{escape(title)}</summary>{part}</details>'


# -- wirings
def wiring_html(matrix: Mapping[str, Mapping[str, str | None]]) -> str:
    """A row for every place of parameters that the same losses train, a column for every loss."""
    losses = list(matrix)
    names = list(dict.fromkeys(name for row in matrix.values() for name in row))
    rows = []
    for label, entries in _grouped(matrix, names):
        rows.append([(label, ""), *((_word(entry), _background(entry)) for entry in entries)])
    note = f"{_count(len(losses), 'loss', 'losses')}, {_count(len(names), 'parameter')}"
    legend = paragraph("· this loss does not reach them")
    return box(
        "Which loss trains which parameters", colored_table(["parameters", *losses], rows), legend, note=note
    )


def _grouped(
    matrix: Mapping[str, Mapping[str, str | None]], names: Sequence[str]
) -> list[tuple[str, tuple[str | None, ...]]]:
    """Neighbours of one task that have the same entries, under what their names share."""
    groups: list[tuple[tuple[str, tuple[str | None, ...]], list[str]]] = []
    for name in names:
        key = (name.partition(".")[0], tuple(row.get(name) for row in matrix.values()))
        if groups and groups[-1][0] == key:
            groups[-1][1].append(name)
        else:
            groups.append((key, [name]))
    return [(_shared(members), entries) for (_, entries), members in groups]


def _shared(names: Sequence[str]) -> str:
    """``encode.h.*``."""
    if len(names) == 1:
        return names[0]
    first, shared = names[0].split("."), 0
    while all(n.split(".")[: shared + 1] == first[: shared + 1] and n.count(".") > shared for n in names):
        shared += 1
    return ".".join([*first[:shared], f"* ({len(names)})"])


def _word(entry: str | None) -> str:
    return "·" if entry is None else entry.removeprefix("rule:")


def _background(entry: str | None) -> str:
    return "" if entry is None else {"gradient": _GRADIENT, "plastic": _PLASTIC}.get(entry, _RULE)


# -- specs and models
def model_html(checked: Checked, kind: str = "model") -> str:
    """The tasks of a spec, with what they learn by and how many parameters they have; its ports and parameters."""
    graph = checked.graph
    trained = {name: row for name, row in graph.storage.items() if row.kind == "param"}
    total = sum(elements(row.type) for row in trained.values())
    note = f"{kind}, {_count(len(graph.tasks), 'task')}, {_count(total, 'parameter')}"
    rows = [(n, *_task(graph, n, [r for r in trained if r.startswith(f"{n}.")])) for n in graph.tasks]
    parameters = [(name, plain_type(row.type), f"{elements(row.type):,}") for name, row in trained.items()]
    doc = checked.spec.document.doc
    said = [paragraph(doc)] if doc else []
    return box(
        graph.name,
        *said,
        table(["task", "gives", "loss", "credit of its links", "parameters"], rows, "llllr"),
        table(["port", "", "type"], _ports(graph)),
        details(_count(len(trained), "tensor of parameters", "tensors of parameters"), table(["name", "type", "numbers"], parameters, "llr")),
        note=note,
    )  # fmt: skip


def _task(graph: Graph, name: str, parameters: Sequence[str]) -> tuple[str, str, str, str]:
    task = graph.tasks[name]
    calls = {node.id: node for node in graph.body.nodes}
    region = graph.regions[calls[task.behavior].attrs["region"]] if task.behavior in calls else None
    gives = ", ".join(port.name for port in region.outputs) if region is not None else ""
    losses = [
        loss.name + (f" · {loss.weight:g}" if loss.weight != 1 else "")
        for loss in graph.losses.values()
        if loss.owner == name
    ]
    credit = [f"{link.source_task} → {link.credit}" for link in graph.links if link.target == name]
    count = sum(elements(graph.storage[row].type) for row in parameters)
    return gives, ", ".join(losses), "; ".join(credit), f"{count:,}"


def _ports(graph: Graph) -> list[tuple[str, str, str]]:
    def type_of(port: Port) -> str:
        return plain_type(graph.types.get(port.value))

    targets = set(graph.targets)
    given = [port for port in graph.body.inputs if port.name not in graph.hidden]
    rows = [(port.name, "target" if port.name in targets else "input", type_of(port)) for port in given]
    return [*rows, *((p.name, "output", type_of(p)) for p in graph.body.outputs if p.name in graph.outputs)]


def _count(number: int, noun: str, many: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else many or f'{noun}s'}"


__all__ = ["box", "colored_table", "details", "model_html", "paragraph", "table", "wiring_html"]
