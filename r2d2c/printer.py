"""Graphs as text, for people and for goldens: `compile --emit graph|training|inference`.

    %name = op(%value, weight=@storage) {attribute: 2} : f32[B, 64]  # spec.yaml:12

``%`` is a value, ``@`` a read of storage; numbers stand where they are used. A value with several outputs is
``%name#1``. Attributes that are as an op's record says by default are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from r2d2c.graph import CORE_OPS, Graph, Node, Region, Value
from r2d2c.ops.record import Arg, Op
from r2d2c.print_loops import Lines, head_of, parts_of, steps_in_loops, storage_ports
from r2d2c.source import Span
from r2d2c.types import Named

_INLINE = ("param", "constant")
_COMMENT = 2  # blanks before a comment


def print_graph(graph: Graph, ops: Mapping[str, Op]) -> str:
    """The whole graph. No path but the file's name is in it, so the text is the same everywhere."""
    return "\n".join(_Printer(graph, ops).run()).rstrip() + "\n"


def place(span: Span | None) -> str:
    """``spec.yaml:12``."""
    return f"{PurePath(span.source.name).name}:{span.line}" if span is not None else ""


def signals_of(nodes: Iterable[Node]) -> tuple[str, ...]:
    """What nodes of a training graph learn from besides losses: δs of credit rules, and plastic changes."""
    found: dict[str, None] = {}
    for node in nodes:
        if node.op == "vjp":
            found |= {s[0]: None for s in node.attrs.get("signals", ()) if s is not None and s[1] is not None}
        elif node.op == "accumulate" and "rule" in node.attrs:
            found[node.attrs["link"]] = None
    return tuple(found)


class _Printer:
    def __init__(self, graph: Graph, ops: Mapping[str, Op]) -> None:
        self.graph, self.ops = graph, ops
        self.nodes = {node.id: node for region in graph.regions.values() for node in region.nodes}
        self.homes = {node.id: region for region in graph.regions.values() for node in region.nodes}
        self.stored = {
            id_: name for step in graph.steps.values() for id_, name in storage_ports(graph, step).items()
        }
        self.printed: set[str] = set()

    def run(self) -> Iterator[str]:
        graph = self.graph
        yield f"{graph.stage} graph {graph.name}, seed {graph.seed}"
        yield from self._dims()
        yield ""
        yield from self._storage()
        yield from self._tables()
        if graph.visits:
            yield from self._visits()
            return
        inside = steps_in_loops(graph)
        for region in graph.regions.values():
            if (region.nodes or region.outputs) and region.name not in inside:
                yield from self._region(region)
                yield ""

    # -- tables
    def _dims(self) -> Iterator[str]:
        dims = self.graph.dims
        shown = [f"{name} = {_literal(dim)}" if str(dim) != name else name for name, dim in dims.items()]
        ranges = self.graph.ranges
        shown = [text for text in shown if text not in ranges]
        shown += [f"{name} = {low}..{high}" for name, (low, high) in ranges.items()]
        if shown:
            yield f"dims {', '.join(shown)}"
        given = [
            f"{a.name} = {a.usual:g}"
            + (f" of {', '.join(f'{v:g}' for v in a.allowed)}" if a.allowed else f" of {a.low:g}..{a.high:g}")
            for a in self.graph.arguments.values()
        ]
        if given:
            yield f"arguments {'; '.join(given)}"

    def _storage(self) -> Iterator[str]:
        if not self.graph.storage:
            return
        yield "storage"
        rows = []
        for row in self.graph.storage.values():
            axes = f"[{', '.join(row.axes)}]" if row.axes else ""
            type_ = _plain_type(row.type) if row.type is not None else "?"
            rows.append((f"  @{row.name}", row.kind, type_, axes, str(row.init), f"# {place(row.origin)}"))
        yield from _aligned(rows)
        yield ""

    def _tables(self) -> Iterator[str]:
        graph = self.graph
        for title, lines in (
            ("tasks", [self._task(name) for name in graph.tasks] if graph.stage != "inference" else []),
            ("losses", [self._loss(name) for name in graph.losses]),
            ("links", [self._link(k) for k in range(len(graph.links))]),
            ("metrics", [(f"  {metric.label}", f"# {place(metric.origin)}") for metric in graph.metrics]),
        ):
            if lines:
                yield title
                yield from _aligned(lines)
                yield ""

    def _task(self, name: str) -> tuple[str, ...]:
        task = self.graph.tasks[name]
        parts = [f"behavior {task.behavior}"]
        parts += [f"representative {task.representative}"] if task.representative else []
        parts += [f"loss {task.loss}"] if task.loss else []
        parts += [f"teach {task.teach}"] if task.teach else []
        parts += ["keeps its own loss"] if task.keep_own else []
        return f"  {name}:", ", ".join(parts), f"# {place(task.origin)}"

    def _loss(self, name: str) -> tuple[str, ...]:
        loss = self.graph.losses[name]
        weight = f"{loss.weight:g} * " if loss.weight != 1.0 else ""
        owner = f"of {loss.owner}" if loss.owner else "of no task"
        owner += f", for the credit {loss.rule}" if loss.rule else ""
        owner += f", every {loss.every} passes" if loss.every > 1 else ""
        if loss.trains is not None:
            owner += f", trains by {self._value(loss.trains)}"
        if loss.closed is not None:
            h, delta = map(self._value, loss.closed)
            owner += f", trains by the signal {delta} at {h}"
        return f"  {name}:", f"{weight}{self._value(loss.value)}", owner, f"# {place(loss.origin)}"

    def _link(self, position: int) -> tuple[str, ...]:
        link = self.graph.links[position]
        feed = f", feed {self._value(link.feed)}" if link.feed is not None else ""
        return (
            f"  {self._value(link.source)} -> {link.target}:",
            f"credit {link.credit}{feed}",
            f"# {place(link.origin)}",
        )

    # -- regions and visits
    def _region(self, region: Region) -> Iterator[str]:
        ports = ", ".join(f"{self._value(port.value)}{self._type(port.value)}" for port in region.inputs)
        name = f"region {region.name} ({region.kind})" if region.name != self.graph.main else "model"
        yield f"{name}{' ' * _COMMENT}# {place(region.origin)}" if region.origin else name
        yield f"  in  {ports}" if ports else "  in  nothing"
        yield from self._body(region.nodes)
        for port in region.outputs:
            yield f"  out {port.name} = {self._value(port.value)}{self._type(port.value)}"

    def _visits(self) -> Iterator[str]:
        body = self.graph.body
        ports = ", ".join(f"{self._value(port.value)}{self._type(port.value)}" for port in body.inputs)
        yield f"in  {ports}"
        for number, visit in enumerate(self.graph.visits, 1):
            yield ""
            nodes = [self.nodes[id_] for id_ in visit.nodes]
            more = signals_of(nodes)
            signals = f", signals {', '.join(more)}" if more else ""
            yield f"visit {number} `{visit.name}`: losses {', '.join(visit.losses) or 'none'}{signals}"
            yield from self._body(nodes)
        yield ""
        for port in body.outputs:
            yield f"out {port.name} = {self._value(port.value)}{self._type(port.value)}"

    def _body(self, nodes: Iterable[Node]) -> Iterator[str]:
        for text, where in self._lines(nodes):
            yield f"{text}{' ' * _COMMENT}{where}" if where else text

    def _lines(self, nodes: Iterable[Node]) -> Lines:
        for node in nodes:
            if node.op == "port" or (node.op in _INLINE and self._inlined(node)):
                continue
            where = f"# {place(node.origin)}" if node.origin is not None else ""
            yield f"  {self._left(node)}{self._right(node)}{self._attributes(node)}{self._types(node)}", where
            if node.op == "loop":
                known = node.attrs["region"] in self.printed
                self.printed.add(node.attrs["region"])
                parts = parts_of(self.graph, node, self._value, self._type, self._lines, known)
                yield from ((f"  {text}", where) for text, where in parts)

    def _inlined(self, node: Node) -> bool:
        return not any(port.value.node == node.id for port in self.homes[node.id].outputs)

    # -- a node
    def _left(self, node: Node) -> str:
        return "" if node.op in ("accumulate", "update") else f"%{node.id} = "

    def _right(self, node: Node) -> str:
        attrs = node.attrs
        if node.op in ("accumulate", "update"):
            source = f" <- {self._value(node.inputs[0])}" if node.inputs else ""
            return f"{node.op} @{attrs['storage']}{source}"
        if node.op == "vjp":
            return self._vjp(node)
        if node.op == "call":
            region = self.graph.regions[attrs["region"]]
            given = [f"{p.name}={self._value(v)}" for p, v in zip(region.inputs, node.inputs, strict=True)]
            return f"call {attrs['region']}({', '.join(given)})"
        if node.op == "loop":
            return head_of(node, _literal)
        if node.op == "param":
            return f"@{attrs['storage']}"
        if node.op == "argument":
            return f"argument {attrs['name']}"
        if node.op == "constant":
            return f"constant {_literal(attrs['value'])}"
        if node.op == "size":
            return f"size {attrs['dim']}"
        return f"{node.op}({', '.join(self._arguments(node))})"

    def _vjp(self, node: Node) -> str:
        """``vjp(0.5 * %loss, %t1.h along %t1.synthetic.delta of t1.synthetic) by (@…)``."""
        attrs = node.attrs
        count, wrt = attrs["outputs"], attrs["wrt"]
        given = iter(node.inputs[count + wrt :])
        weights = attrs["weights"] or (None,) * count
        signals = attrs.get("signals") or (None,) * count
        outputs = []
        for value, weight, signal in zip(node.inputs[:count], weights, signals, strict=True):
            shown = self._value(value)
            if weight is None:
                named = f" of {signal[0].removesuffix('.delta')}" if signal is not None and signal[1] else ""
                shown = f"{shown} along {self._value(next(given))}{named}"
            elif weight != 1.0:
                shown = f"{weight:g} * {shown}"
            outputs.append(shown)
        by = [f"@{name}" for name in attrs["params"]]
        by += [self._value(value) for value in node.inputs[count : count + wrt]]
        kept = " retained" if attrs["retain"] else ""
        return f"vjp({', '.join(outputs)}){kept} by ({', '.join(by)})"

    def _arguments(self, node: Node) -> Iterator[str]:
        op = self.ops.get(node.op)
        names: list[Arg | None] = list(op.values) if op is not None else []
        skipped = False
        for position, value in enumerate(node.inputs):
            arg = names[min(position, len(names) - 1)] if names else None
            if value is None:
                skipped = True
                continue
            named = arg is not None and arg.kind != "values" and (skipped or arg.kind == "param")
            yield f"{arg.name}={self._value(value)}" if named and arg is not None else self._value(value)

    def _attributes(self, node: Node) -> str:
        if node.op in CORE_OPS:
            return ""
        op = self.ops.get(node.op)
        defaults = {arg.name: arg.default for arg in op.attributes} if op is not None else {}
        shown = [
            f"{name}: {_literal(value)}"
            for name, value in node.attrs.items()
            if not (name in defaults and _same(defaults[name], value))
        ]
        return f" {{{', '.join(shown)}}}" if shown else ""

    def _types(self, node: Node) -> str:
        if node.op in ("accumulate", "update", "vjp"):
            return ""
        types = [self.graph.types.get(Value(node.id, port)) for port in range(len(node.outputs))]
        if not types or any(type_ is None for type_ in types):
            return ""
        text = ", ".join(map(_plain_type, types))
        return f" : {text}" if len(types) == 1 else f" : ({text})"

    def _type(self, value: Value) -> str:
        type_ = self.graph.types.get(value)
        return f": {_plain_type(type_)}" if type_ is not None else ""

    def _value(self, value: Value | None) -> str:
        if value is None:
            return "none"
        node = self.nodes.get(value.node)
        if node is None:
            return f"%{value.node}"
        if node.op == "param" and self._inlined(node):
            return f"@{node.attrs['storage']}"
        if node.op == "constant" and self._inlined(node):
            return _literal(node.attrs["value"])
        if node.op == "port":
            if node.id in self.stored:
                return f"@{self.stored[node.id]}"
            name = str(node.attrs["name"])
            return f"%{node.id}" if name in self.nodes else f"%{name}"
        return f"%{value.node}#{value.port}" if len(node.outputs) > 1 else f"%{value.node}"


def _plain_type(type_: Any) -> str:
    return (
        f"{type_.dtype}[{', '.join(_literal(dim) for dim in type_.dims)}]" if type_.dims else str(type_.dtype)
    )


def _same(default: Any, value: Any) -> bool:
    return bool(type(default) is type(value) and default == value)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Named):
        return str(int(value))
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, str):
        return value
    return "none" if value is None else str(value)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows in columns; a last cell that is only ``#`` is dropped."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False) if width]
        last = row[-1] if row[-1].strip("# ") else ""
        yield "  ".join([*cells, last] if last else cells).rstrip()
