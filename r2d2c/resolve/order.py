"""The order in which tasks are resolved: after the tasks they read."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from r2d2c.diagnostics import Sink
from r2d2c.source import Span
from r2d2c.syntax.ast import Syntax
from r2d2c.syntax.spec import Spec


def reads(syntax: Syntax | None, names: Iterable[str]) -> dict[str, Span]:
    """The tasks whose values an expression reads (``encode.h``), with the first place of each."""
    found: dict[str, Span] = {}
    if syntax is None:
        return found
    wanted = set(names)
    for index, node in enumerate(syntax.nodes):
        if node.kind == "attribute":
            base = syntax.nodes[node.args[0]]
            if base.kind == "name" and base.value in wanted:
                found.setdefault(str(base.value), syntax.span(index))
    return found


def topological(edges: dict[str, dict[str, Span]], what: str, sink: Sink) -> list[str]:
    """Names after those they read, otherwise as declared. A cycle is reported with every place that makes it."""
    done: dict[str, bool] = {}
    order: list[str] = []
    for root, read in edges.items():
        if root in done:
            continue
        stack = [(root, iter(read))]
        path = [root]
        done[root] = False
        while stack:
            name, rest = stack[-1]
            following = next((n for n in rest if n in edges and done.get(n) is not True), None)
            if following is None:
                done[name] = True
                order.append(name)
                stack.pop()
                path.pop()
            elif done.get(following) is False:
                cycle = [*path[path.index(following) :], following]
                places = [(edges[a][b], f"`{a}` reads `{b}` here") for a, b in pairwise(cycle)]
                message = f"{what} read each other in a circle: {' → '.join(cycle)}"
                sink.report("E420", places[0][0], message, places[0][1], also=places[1:])
            else:
                done[following] = False
                stack.append((following, iter(edges[following])))
                path.append(following)
    return order


def order_tasks(spec: Spec, sink: Sink) -> list[str]:
    """The tasks so that each comes after those whose behavior it reads."""
    names = [task.name for task in spec.tasks]
    edges = {task.name: reads(task.behavior, names) for task in spec.tasks}
    for name, read in edges.items():
        read.pop(name, None)
    return topological(edges, "tasks", sink)
