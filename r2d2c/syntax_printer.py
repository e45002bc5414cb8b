"""A parsed spec as text, for `compile --emit syntax`: every expression as one nested form with its place.

task encode  # spec.yaml:10
  behavior
    h = (|> (|> x (linear (* 2 H))) relu)  # spec.yaml:11
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from r2d2c.printer import place
from r2d2c.source import Span
from r2d2c.syntax.ast import LinkKey, Syntax, TypeSyntax
from r2d2c.syntax.spec import LoopSyntax, Named, Spec


def print_syntax(spec: Spec) -> str:
    """The whole spec. No path but the file's name is in it."""
    return "\n".join(_spec(spec)).rstrip() + "\n"


def _spec(spec: Spec) -> Iterator[str]:
    yield f"spec {spec.name}"
    for name, span in spec.imports:
        yield _line(f"import {name}", span)
    for word, entries in (("dim", spec.dims), ("input", spec.inputs), ("target", spec.targets)):
        for entry in entries:
            yield _line(f"{word} {entry.name}: {_plain(entry)}", entry.span)
    for places in spec.places:
        yield _line(f"places {places.name}: {_plain(places)}", places.span)
    for block in spec.blocks:
        parameters = ", ".join(
            name if default < 0 else f"{name}={form(block.signature.syntax, default)}"
            for name, default in block.signature.parameters
        )
        yield _line(f"block {block.signature.name}({parameters})", block.span)
        yield from _body(block.body, "  ")
    for net in spec.hypernets:
        yield _line(f"hypernet {net.name}", net.span)
        yield from _part("makes", net.makes)
        for word, given in net.options.items():
            yield from _part(word, given)
    for loop in spec.loops:
        yield from _loop(loop)
    for task in spec.tasks:
        yield _line(f"task {task.name}", task.span)
        for word in ("behavior", "representative", "distance", "teach", "weight"):
            yield from _part(word, getattr(task, word))
        if task.keep_own:
            yield "  keep own"
    for loss in spec.losses:
        yield _line(f"loss {loss.name}", loss.span)
        for word in ("body", "value", "weight"):
            yield from _part(word, getattr(loss, word))
        if loss.steps is not None:
            first, last = loss.steps
            yield f"  steps {form(first, first.root)}..{form(last, last.root)}"
    yield from _part("credit", spec.credit, "")
    yield from _part("credit of every link:", spec.override, "")
    for link in spec.links:
        yield _line(f"link {_key(link.key)}", link.span)
        yield from _part("credit", link.credit)
        yield from _part("feed", link.feed)
    for output in spec.outputs:
        yield _line(f"output {output.name}: {_plain(output)}", output.span)
    for metric in spec.metrics:
        yield _line(f"metric {form(metric, metric.root)}", metric.span(metric.root))


def _loop(loop: LoopSyntax) -> Iterator[str]:
    parameters = ", ".join(name for name, _ in loop.signature.parameters)
    yield _line(f"loop {loop.signature.name}({parameters})", loop.span)
    for word, given in (
        ("repeat", loop.repeat),
        ("over", loop.over),
        ("until", loop.until),
        ("max", loop.maximum),
        ("epsilon", loop.epsilon),
    ):
        yield from _part(word, given)
    for entry in loop.each:
        yield _line(f"  each {entry.name}: {_plain(entry)}", entry.span)
    for carry in loop.carry:
        type_ = _plain(Named(carry.name, carry.span, carry.type))
        credit = "" if carry.credit is None else f", credit {form(carry.credit, carry.credit.root)}"
        text = f"  carry {carry.name}: {type_} = {form(carry.initial, carry.initial.root)}{credit}"
        yield _line(text, carry.span)
    for entry in loop.widths:
        listed = ", ".join(form(width, width.root) for width in entry.syntax if width is not None)
        yield _line(f"  widths {entry.name}: {listed}", entry.span)
    if loop.per_step:
        yield "  parameters per_step"
    if loop.recompute:
        yield "  recompute"
    yield "  body"
    yield from _body(loop.body, "    ")


def _key(key: LinkKey) -> str:
    return f"{key.source} -> {key.target}"


def _plain(entry: Named) -> str:
    syntax = entry.syntax
    if isinstance(syntax, TypeSyntax):
        dims = ", ".join(form(syntax.syntax, dim) for dim in syntax.dims)
        return f"{syntax.dtype}[{dims}]" if dims else syntax.dtype
    if isinstance(syntax, Syntax):
        return form(syntax, syntax.root)
    if isinstance(syntax, tuple):
        low, high, usual = syntax
        return f"{low}..{high}" + (f" = {usual}" if usual != high else "")
    return str(syntax)


def _part(word: str, syntax: Syntax | None, indent: str = "  ") -> Iterator[str]:
    if syntax is None:
        return
    if syntax.statements:
        yield f"  {word}"
        yield from _body(syntax, "    ")
    else:
        yield _line(f"{indent}{word} {form(syntax, syntax.root)}", syntax.span(syntax.root))


def _body(syntax: Syntax, indent: str) -> Iterator[str]:
    for statement in syntax.statements:
        targets = ", ".join(name for name, _, _ in statement.targets)
        lead = "return " if statement.returns else f"{targets} = " if targets else ""
        span = Span(syntax.source, statement.start, statement.end)
        yield _line(f"{indent}{lead}{form(syntax, statement.root)}", span)


def _line(text: str, span: Span) -> str:
    where = place(span)
    return f"{text}  # {where}" if where else text


def form(syntax: Syntax, root: int) -> str:
    """One expression with its operators in front, ``(* 2 H)``. A loop: chains may be thousands long."""
    pieces: list[str] = []
    todo: list[int | str] = [root]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            pieces.append(item)
        else:
            todo.extend(reversed(_parts(syntax, item)))
    return "".join(pieces)


def _parts(syntax: Syntax, index: int) -> list[int | str]:
    node = syntax.nodes[index]
    if node.kind in ("name", "number"):
        return [str(node.value)]
    if node.kind == "bool":
        return ["true" if node.value else "false"]
    if node.kind == "string":
        return [f'"{node.value}"']
    if node.kind == "ellipsis":
        return ["…"]
    if node.kind == "attribute":
        return [node.args[0], f".{node.value}"]
    if node.kind == "slice":
        return ["(slice ", *_spaced([arg if arg >= 0 else "_" for arg in node.args]), ")"]
    head = {"tuple": "tuple", "index": "index", "call": ""}.get(node.kind, str(node.value))
    items: list[int | str] = [head, *node.args] if head else [*node.args]
    parts: list[int | str] = ["(", *_spaced(items)]
    for name, value in node.keywords:
        parts += [f" {name}=" if name else " ", value]
    return [*parts, ")"]


def _spaced(items: Sequence[int | str]) -> list[int | str]:
    found: list[int | str] = []
    for item in items:
        found += [" ", item] if found else [item]
    return found
