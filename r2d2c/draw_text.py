"""A `Picture` as DOT (Graphviz) or Mermaid text."""

from __future__ import annotations

from collections.abc import Mapping

from r2d2c.draw import DATA, GROUP, TEXT, TINTS, TRAINS, Kind, Picture, Shape
from r2d2c.draw_loops import CARRIED

_DOT_SHAPES: dict[Kind, str] = {
    "input": 'shape=box style="rounded,filled"',
    "target": 'shape=hexagon style="filled" margin="0.05,0.03"',
    "value": 'shape=box style="filled"',
    "representative": 'shape=box style="filled,dashed"',
    "loss": 'shape=ellipse style="filled" margin="0.02,0.02"',
    "output": 'shape=box style="rounded,filled,bold"',
    "gradient": 'shape=note style="filled"',
    "credit": 'shape=cylinder style="filled"',
    "memory": 'shape=cylinder style="filled"',
}
_MERMAID_SHAPES: dict[Kind, tuple[str, str]] = {
    "input": ("([", "])"),
    "target": ("{{", "}}"),
    "value": ("[", "]"),
    "representative": ("[/", "/]"),
    "loss": ("((", "))"),
    "output": ("([", "])"),
    "gradient": (">", "]"),
    "credit": ("[(", ")]"),
    "memory": ("[(", ")]"),
}


def _kinds(picture: Picture) -> list[Kind]:
    """The kinds of shapes there are, in the order of the legend."""
    present = {shape.kind for shape in picture.shapes.values()}
    return [kind for kind in TINTS if kind in present]


# -- DOT


def to_dot(picture: Picture) -> str:
    """For Graphviz: ``dot -Tsvg model.dot``."""
    ids = {key: f"n{number}" for number, key in enumerate(picture.shapes)}
    lines = [
        f"digraph {_quoted(picture.title)} {{",
        f"  label=<{_dot_legend(picture)}> labelloc=t",
        '  rankdir=LR compound=true nodesep=0.3 ranksep=0.55 fontname="Helvetica" bgcolor="white"',
        f'  node [fontname="Helvetica" fontsize=11 fontcolor="{TEXT}" height=0.3 margin="0.12,0.06"]',
        f'  edge [fontname="Helvetica" fontsize=9 color="{DATA}" arrowsize=0.7]',
    ]
    loose = [shape for shape in picture.shapes.values() if shape.group is None]
    lines += [f"  {_dot_node(ids[shape.key], shape)}" for shape in loose]
    for group in picture.groups:
        if picture.parents.get(group) is None:
            lines += _dot_group(picture, group, ids, "  ")
    for arrow in picture.arrows:
        attributes = [f'color="{arrow.colour}"']
        if arrow.label:
            attributes += [f"label={_quoted(arrow.label)}", f'fontcolor="{arrow.colour}"']
        if arrow.style == "link":
            attributes.append("penwidth=2.2")
        if arrow.style == "trains":
            # What trains what is not an order of things: it must not pull the layout about.
            attributes += ["style=dashed", "constraint=false", "arrowhead=vee"]
        if arrow.style == "carried":
            attributes += ["style=bold", "constraint=false"]
        lines.append(f"  {ids[arrow.start]} -> {ids[arrow.end]} [{' '.join(attributes)}]")
    return "\n".join([*lines, "}", ""])


def _dot_group(picture: Picture, group: str, ids: Mapping[str, str], space: str) -> list[str]:
    """A task, or a loop inside of one."""
    number, loop = list(picture.groups).index(group), group in picture.parents
    fill, border = ("#f3eef7", CARRIED) if loop else ("#f7f9fa", GROUP)
    look = f'style="rounded,filled" fillcolor="{fill}"'
    lines = [f"{space}subgraph cluster_{number} {{"]
    lines.append(f'{space}  label={_quoted(picture.groups[group])} {look} color="{border}" labeljust=l')
    inside = [shape for shape in picture.shapes.values() if shape.group == group]
    lines += [f"{space}  {_dot_node(ids[shape.key], shape)}" for shape in inside]
    for other, parent in picture.parents.items():
        if parent == group:
            lines += _dot_group(picture, other, ids, f"{space}  ")
    return [*lines, f"{space}}}"]


def _dot_node(id_: str, shape: Shape) -> str:
    fill, border = TINTS[shape.kind]
    first, *rest = shape.lines
    small = "".join(f'<br/><font point-size="9" color="#455a64">{_html(line)}</font>' for line in rest)
    look = f'{_DOT_SHAPES[shape.kind]} fillcolor="{fill}" color="{border}"'
    top = "<br/>" if shape.kind == "memory" else ""  # below the lid of a high cylinder
    return f"{id_} [label=<{top}<b>{_html(first)}</b>{small}> {look}]"


def _dot_legend(picture: Picture) -> str:
    """The title over a row of what shapes and colours mean: the graph's own label, outside the layout."""
    cells = []
    for kind in _kinds(picture):
        fill, border = TINTS[kind]
        cells.append(f'<td bgcolor="{fill}" color="{border}" border="1">{_small(kind)}</td>')
    for rule, colour in picture.legend:
        cells.append(f"<td>{_small(f'━━ link: {rule}', colour)}</td>")
    if any(arrow.style == "trains" for arrow in picture.arrows):
        cells.append(f"<td>{_small('╌╌ trains', TRAINS)}</td>")
    if any(arrow.style == "carried" for arrow in picture.arrows):
        cells.append(f"<td>{_small('━━ carried to the next step', CARRIED)}</td>")
    title = f'<font point-size="18">{_html(picture.title)}</font>'
    legend = f'<table border="0" cellspacing="6" cellpadding="3"><tr>{"".join(cells)}</tr></table>'
    row = f"<tr><td>{legend}</td></tr>" if cells else ""
    return f'<table border="0"><tr><td>{title}</td></tr>{row}</table>'


def _small(text: str, colour: str = TEXT) -> str:
    return f'<font point-size="9" color="{colour}">{_html(text)}</font>'


def _quoted(text: str) -> str:
    """A DOT string. A backslash would start an escape of Graphviz's own."""
    clean = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{clean}"'


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


# -- Mermaid


def to_mermaid(picture: Picture) -> str:
    """For Markdown pages: GitHub and most editors draw it."""
    ids = {key: f"n{number}" for number, key in enumerate(picture.shapes)}
    lines = ["---", f"title: {_yaml(picture.title)}", "---", "flowchart LR"]
    loose = [shape for shape in picture.shapes.values() if shape.group is None]
    lines += [f"  {_mermaid_node(ids[shape.key], shape)}" for shape in loose]
    for group in picture.groups:
        if picture.parents.get(group) is None:
            lines += _mermaid_group(picture, group, ids, "  ")
    styles = []
    for number, arrow in enumerate(picture.arrows):
        start, end = ids[arrow.start], ids[arrow.end]
        shaft = {"data": "-->", "link": "==>", "trains": "-.->", "carried": "-->"}[arrow.style]
        label = f'|"{_escaped(arrow.label)}"|' if arrow.label else ""
        lines.append(f"  {start} {shaft}{label} {end}")
        if arrow.style != "data":
            styles.append(f"  linkStyle {number} stroke:{arrow.colour},color:{arrow.colour}")
    lines += _mermaid_legend(picture, len(picture.arrows))
    lines += styles
    for kind in _kinds(picture):
        fill, border = TINTS[kind]
        dashes = ",stroke-dasharray:4 3" if kind == "representative" else ""
        lines.append(f"  classDef {kind} fill:{fill},stroke:{border},color:{TEXT}{dashes}")
    for kind in _kinds(picture):
        members = [ids[shape.key] for shape in picture.shapes.values() if shape.kind == kind]
        lines.append(f"  class {','.join([*members, f'k_{kind}'])} {kind}")
    return "\n".join([*lines, ""])


def _mermaid_group(picture: Picture, group: str, ids: Mapping[str, str], space: str) -> list[str]:
    lines = [f'{space}subgraph g{list(picture.groups).index(group)}["{_escaped(picture.groups[group])}"]']
    inside = [shape for shape in picture.shapes.values() if shape.group == group]
    lines += [f"{space}  {_mermaid_node(ids[shape.key], shape)}" for shape in inside]
    for other, parent in picture.parents.items():
        if parent == group:
            lines += _mermaid_group(picture, other, ids, f"{space}  ")
    return [*lines, f"{space}end"]


def _mermaid_node(id_: str, shape: Shape) -> str:
    opening, closing = _MERMAID_SHAPES[shape.kind]
    first, *rest = (_escaped(line) for line in shape.lines)
    text = "<br/>".join([f"<b>{first}</b>", *(f"<small>{line}</small>" for line in rest)])
    return f'{id_}{opening}"{text}"{closing}'


def _mermaid_legend(picture: Picture, edges: int) -> list[str]:
    lines = ['  subgraph legend["legend"]']
    for kind in _kinds(picture):
        opening, closing = _MERMAID_SHAPES[kind]
        lines.append(f'    k_{kind}{opening}"{kind}"{closing}')
    styles = []
    entries = [(f"link: {rule}", colour, "==>") for rule, colour in picture.legend]
    if any(arrow.style == "trains" for arrow in picture.arrows):
        entries.append(("trains", TRAINS, "-.->"))
    if any(arrow.style == "carried" for arrow in picture.arrows):
        entries.append(("carried to the next step", CARRIED, "-->"))
    for number, (text, colour, shaft) in enumerate(entries):
        lines.append(f'    k{number}a[" "] {shaft}|"{_escaped(text)}"| k{number}b[" "]')
        styles.append(f"  linkStyle {edges + number} stroke:{colour},color:{colour}")
    return [*lines, "  end", *styles]


def _escaped(text: str) -> str:
    """Text inside the quotes of a Mermaid label: its entities are written with `#`, not with `&`."""
    text = text.replace("#", "#35;").replace('"', "#quot;").replace("&", "#amp;")
    text = text.replace("<", "#lt;").replace(">", "#gt;").replace("`", "#96;").replace("\\", "#92;")
    return text.replace("\n", " ")


def _yaml(text: str) -> str:
    clean = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{clean}"'
