"""The state of a model in an emitted file: ports that need not be given."""

from __future__ import annotations

from collections.abc import Iterable

from r2d2c.graph import RESET, Graph
from r2d2c.lower.builder import TORCH_DTYPES, identifier
from r2d2c.types import evaluate, symbol


def parameters(graph: Graph, ports: Iterable[str]) -> list[str]:
    """The parameters of a method for ports; those of the state need not be given."""
    return [f"{identifier(name)}=None" if name in graph.hidden else identifier(name) for name in ports]


def fill_in(graph: Graph) -> list[str]:
    """The lines that fill in a state that is not given, that of samples which start anew."""
    if not graph.states:
        return []
    types = {port.name: graph.types[port.value] for port in graph.body.inputs}
    shows = next(
        name for name, type_ in types.items() if name not in graph.hidden and symbol("B") in type_.dims
    )
    first = identifier(shows)
    samples = f"{first}.shape[{types[shows].dims.index(symbol('B'))}]"
    ports = [state.port for state in graph.states]
    lines = [
        f"if {RESET} is None:",
        f"    {RESET} = torch.full(({samples},), {identifier(ports[0])} is None, device={first}.device)",
    ]
    for port in ports:
        type_ = types[port]
        sizes = "".join(f", {evaluate(dim, {})}" for dim in type_.dims[1:])
        shape = f"({samples}{sizes or ','})"
        made = f"torch.zeros({shape}, dtype={TORCH_DTYPES[type_.dtype]}, device={first}.device)"
        lines += [f"if {identifier(port)} is None:", f"    {identifier(port)} = {made}"]
    return lines
