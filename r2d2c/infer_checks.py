"""What the shape pass checks when all types are known: losses are scalars, and a feed fits the value it stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Node, Value
from r2d2c.types import TensorType


def check_losses(graph: Graph, types: Mapping[Value, TensorType], sink: Sink) -> None:
    """Report losses and `teach` expressions that are no floating scalars: E302."""
    for loss in graph.losses.values():
        type_ = types.get(loss.value)
        if type_ is None:
            continue
        if type_.rank:
            message = f"the loss `{loss.name}` is {type_}, and must be a scalar"
            sink.report("E302", loss.origin, message, fix="take its `mean`")
        elif not type_.floating:
            message = f"the loss `{loss.name}` is {type_}, and must be a floating number"
            sink.report("E302", loss.origin, message)
    for task in graph.tasks.values():
        if task.teach is not None:
            type_ = types.get(graph.regions[task.teach].outputs[0].value)
            if type_ is not None and type_.rank:
                message = f"`teach` of `{task.name}` is {type_}, and must be a scalar"
                sink.report("E302", task.origin, message)


def check_feeds(
    graph: Graph,
    types: Mapping[Value, TensorType],
    same: Callable[[TensorType, TensorType], bool],
    maker_of: Callable[[Value], Node | None],
    sink: Sink,
) -> None:
    """Report feeds of another type than the value that they stand for: E303.

    same: whether two types are one. maker_of: the node that makes a value.
    """
    for link in graph.links:
        if link.feed is None:
            continue
        wanted, given = types.get(link.source), types.get(link.feed)
        if wanted is not None and given is not None and not same(wanted, given):
            texts = (link.source, f"the value is {wanted}"), (link.feed, f"the representative is {given}")
            makers = [(maker_of(value), text) for value, text in texts]
            also = [(maker.origin, text) for maker, text in makers if maker is not None]
            message = f"`feed` is {given}, and `{link.target}` reads {wanted} over this link"
            sink.report("E303", link.origin, message, also=also)
