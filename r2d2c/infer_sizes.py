"""What the shape pass does with sizes that were inferred: nodes compute with them as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Region, Value
from r2d2c.loops import Loop
from r2d2c.types import Dim, TensorType, Unifier, symbol


def sized_regions(
    graph: Graph, types: Mapping[Value, TensorType], unifier: Unifier, sink: Sink
) -> Mapping[str, Region]:
    """The regions with what was inferred in place of the dims that nodes compute with; E217 where nothing was."""
    if not any(map(_open, symbols_of(graph.dims.values()))):
        return graph.regions
    ports = [unifier.resolve_type(types[port.value]) for port in graph.body.inputs]
    axes = {dim for type_ in ports for dim in type_.dims}
    regions = {}
    for name, region in graph.regions.items():
        nodes = []
        for node in region.nodes:
            if any(map(_open, symbols_of(node.attrs.values()))):
                attrs = {key: _sized(value, unifier) for key, value in node.attrs.items()}
                node = replace(node, attrs=attrs)
                for s in sorted(filter(_open, symbols_of(attrs.values()))):
                    if symbol(s) not in axes:
                        message = f"`{s[1:]}` cannot be inferred, and no port has it as an axis"
                        fix = f"give it a number: `dims: {{{s[1:]}: 64}}`"
                        sink.report("E217", node.origin, message, fix=fix)
            nodes.append(node)
        regions[name] = replace(region, nodes=tuple(nodes))
    return regions


def _open(name: str) -> bool:
    """Whether a dim is one to infer."""
    return name.startswith("?")


def _sized(value: Any, unifier: Unifier) -> Any:
    if isinstance(value, Dim):
        return unifier.resolve(value)
    if isinstance(value, Loop):
        return value.mapped(unifier.resolve)
    if type(value) is dict:
        return {key: _sized(part, unifier) for key, part in value.items()}
    return tuple(_sized(part, unifier) for part in value) if type(value) is tuple else value


def symbols_of(values: Iterable[Any]) -> set[str]:
    """The symbols of all dims among attributes."""
    found: set[str] = set()
    for value in values:
        if isinstance(value, Dim):
            found |= value.symbols()
        elif isinstance(value, Loop):
            found |= symbols_of(value.dims)
        elif type(value) in (tuple, dict):
            found |= symbols_of(value.values() if type(value) is dict else value)
    return found
