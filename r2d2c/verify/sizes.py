"""Sizes of storage: all must be known when compiling."""

from __future__ import annotations

from r2d2c.types import Dim, as_dim
from r2d2c.verify.context import Context, listed


def check_sizes(c: Context) -> None:
    declared = {entry.name: entry.span for entry in c.spec.dims}
    makers = {node.id: node.origin for region in c.graph.regions.values() for node in region.nodes}
    done: set[str] = set()
    for row in c.graph.storage.values():
        unknown = {
            s
            for dim in (row.type.dims if row.type else ())
            if isinstance(dim, Dim)
            for s in as_dim(dim).symbols()
        }
        place = row.name.rpartition(".")[0]
        if not unknown or place in done:
            continue
        done.add(place)
        names = [name.removeprefix("?") for name in sorted(unknown)]
        inferred = [name.removeprefix("?") for name in sorted(unknown) if name.startswith("?")]
        if inferred:
            message = f"the size {listed(inferred)} of `{row.name}` cannot be inferred"
            fix = f"give it a number: `dims: {{{inferred[0]}: 64}}`"
        else:
            message = f"the size {listed(names)} of `{row.name}` is known only when the model runs"
            fix = "a parameter's sizes are fixed: use another axis, or a dim with a number"
        also = [(declared.get(name), f"`{name}` is declared here") for name in names]
        span = makers.get(place) or row.origin
        c.sink.report(
            "E310", span, message, f"makes `{row.name}`, {row.type}".replace("?", ""), also=also, fix=fix
        )
