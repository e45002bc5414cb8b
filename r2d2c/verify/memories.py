"""Memories that are written and never read."""

from __future__ import annotations

from collections.abc import Iterable

from r2d2c.graph import Region, walk
from r2d2c.loops import Store, loop_of
from r2d2c.verify.context import Context, closure


def check_memories(c: Context) -> None:
    syntaxes = {memory.name: memory for memory in c.spec.memories}
    given = _given(c)
    for _, node in list(walk(c.graph)):
        if node.op != "loop":
            continue
        loop, step = loop_of(node), c.graph.regions[node.attrs["region"]]
        for store in loop.memories:
            syntax = syntaxes[store.name]
            outside = given.get(loop.name, set())
            spans = {entry.name: entry.span for entry in syntax.fields}
            if not _whole_is_read(step, store) and not any(f"{store.name}.{f}" in outside for f in spans):
                message = f"the memory `{store.name}` is written and never read"
                fix = f"read it: `{store.name}.{next(iter(spans))}`; or remove it"
                c.sink.report("W478", syntax.span, message, fix=fix)
                continue
            for name, place in store.fields:
                if _is_read(step, (place,), place) or f"{store.name}.{name}" in outside:
                    continue
                message = f"the field `{name}` of the memory `{store.name}` is written and never read"
                c.sink.report("W478", spans[name], message, fix="read it, or remove it")


def _whole_is_read(step: Region, store: Store) -> bool:
    own = [place for _, place in store.fields] + [store.age, store.count]
    return any(_is_read(step, own, place) for place in own)


def _is_read(step: Region, own: Iterable[int], place: int) -> bool:
    """Whether something else than what comes back to the carries ``own`` is made of the one at ``place``."""
    left = set(own)
    roots = [port.value for number, port in enumerate(step.outputs) if number not in left]
    nodes = {node.id: node for node in step.nodes}
    return step.inputs[place].value.node in closure(nodes, roots)


def _given(c: Context) -> dict[str, set[str]]:
    """What is read of loops from outside; that it is the state of a model is no reading."""
    found: dict[str, set[str]] = {}
    for _, node in walk(c.training):
        if node.op == "loop":
            loop, step = loop_of(node), c.training.regions[node.attrs["region"]]
            names = (
                step.outputs[g.port].name for g in loop.gives if not (loop.stateful and g.kind == "last")
            )
            found.setdefault(loop.name, set()).update(names)
    return found
