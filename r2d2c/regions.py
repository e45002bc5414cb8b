"""Where regions belong: which behavior or representative a block's parameters are part of."""

from __future__ import annotations

from r2d2c.graph import USES, Graph

_HOMES = ("behavior", "representative", "loss", "output", "credit", "model")


def homes(graph: Graph) -> dict[str, str]:
    """The behavior, representative, loss, output or credit that every region is part of.

    Those are part of themselves; a block is part of what the first region that calls it is part of.
    """
    found = {name: name for name, region in graph.regions.items() if region.kind in _HOMES}
    todo = list(found)
    while todo:
        name = todo.pop(0)
        for node in graph.regions[name].nodes:
            callee = str(node.attrs["region"]) if node.op in USES else ""
            if callee and callee not in found:
                found[callee] = found[name]
                todo.append(callee)
    return found
