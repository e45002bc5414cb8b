"""The ports of a graph as data sees them: dtype, sizes, bounds; and sizes that data tells (`D: infer`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r2d2c.driver import Checked
from r2d2c.graph import Graph
from r2d2c.source import Span
from r2d2c.train.data import Dataset, Port
from r2d2c.train.refuse import refuse
from r2d2c.types import Dim, Unifier


def data_ports(graph: Graph, names: Sequence[str] | None = None) -> dict[str, Port]:
    """The dtype and sizes of each port (of those in ``names``); None is a size that only a batch tells."""
    found: dict[str, Port] = {}
    for port in graph.body.inputs:
        if port.name not in graph.hidden and (names is None or port.name in names):
            type_ = graph.types[port.value]
            found[port.name] = (
                type_.dtype,
                tuple(int(d) if isinstance(d, int) else None for d in type_.dims),
            )
    return found


def data_bounds(graph: Graph) -> dict[str, int]:
    """Integers of a port lie below its bound."""
    limits = {port.name: graph.bounds.get(port.value) for port in graph.body.inputs}
    return {name: int(limit) for name, limit in limits.items() if isinstance(limit, int)}


def port_spans(checked: Checked) -> dict[str, Span]:
    """Where the spec declares each port."""
    return {port.name: port.span for port in (*checked.spec.inputs, *checked.spec.targets)}


def solve_dims(graph: Graph, dataset: Dataset, places: Mapping[str, Span]) -> dict[str, int]:
    """The sizes of dims to infer, from the shapes of the data's columns and the number of its classes.

    ``graph`` went through the shape pass; ``places`` are where the dims are declared. E544 where the data
    does not tell a size.
    """
    unifier = Unifier()
    for port in graph.body.inputs:
        type_ = graph.types[port.value]
        for column in _candidates(port.name, dataset):
            shape = dataset.train.columns[column].shape
            sizes = type_.dims[1:]
            if len(shape) == len(sizes):
                for dim, size in zip(sizes, shape, strict=True):
                    unifier.unify(dim, size)
                break
    for port in graph.body.inputs:
        limit = graph.bounds.get(port.value)
        classes = next((dataset.train.columns[c].classes for c in _candidates(port.name, dataset)), None)
        if isinstance(limit, Dim) and classes is not None:
            unifier.unify(limit, len(classes))
    solved: dict[str, int] = {}
    for name, span in places.items():
        found = unifier.resolve(graph.dims.get(name, 0))
        if isinstance(found, int) and found > 0:
            solved[name] = int(found)
            continue
        columns = ", ".join(f"`{c}` {dataset.train.columns[c].type_text}" for c in dataset.train)
        refuse(
            "E544",
            f"{dataset.name} does not tell the size of the dim `{name}`",
            span,
            notes=[f"its columns are: {columns}"],
            fix=f"give it a number: --set dims.{name}=64",
        )
    return solved


def unsolved(graph: Graph) -> set[str]:
    """The dims that the shape pass left to infer."""
    found: set[str] = set()
    for name, dim in graph.dims.items():
        if isinstance(dim, Dim) and any(s.startswith("?") for s in dim.symbols()):
            found.add(name)
    return found


def _candidates(port: str, dataset: Dataset) -> list[str]:
    """The columns that may feed a port; `x` and `image` stand in for each other."""
    twin = {"x": "image", "image": "x"}.get(port)
    return [name for name in (port, twin) if name is not None and name in dataset.train.columns]


def input_names(graph: Graph) -> list[str]:
    """The inputs of the composed model that data is for: all ports but the targets and the state."""
    return [p.name for p in graph.body.inputs if p.name not in graph.targets and p.name not in graph.hidden]
