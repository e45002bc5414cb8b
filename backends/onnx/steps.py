"""The file of one step: what a model that has a state makes of one element of a sequence after another.

The graph is that of the whole sequence at length 1, without the axis: the step of each stateful loop stands where the
loop stood. It is verified on whole sequences, so a model that looks at several elements elsewhere is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from r2d2c.diagnostics import Sink
from r2d2c.graph import Graph, Node
from r2d2c.loops import loop_of
from r2d2c.types import Dim, symbol

from .context import single_axis

if TYPE_CHECKING:
    from r2d2c.model import Model


@dataclass(frozen=True, slots=True)
class OneStep:
    """What a file of one step leaves out: the axis of length ``over`` of inputs and outputs, by the spec's names."""

    over: Dim
    inputs: dict[str, int]
    outputs: dict[str, int]


def one_step(model: Model) -> OneStep:
    """What the file of one step of a model leaves out.

    Raises `CompileError` E614 if the model has no state, or is not one step after another of one sequence.
    """
    graph, sink = model._inference_graph, Sink()
    loops = [node for node in graph.body.nodes if node.op == "loop"]
    stateful = [node for node in loops if loop_of(node).stateful]
    if not graph.states or not stateful:
        sink.report(
            "E614",
            loops[0].origin if loops else graph.body.origin,
            f"`{model.spec.name}` has no state that one step could hand to the next",
            fix="say `stateful: true` in a loop over the sequence",
        )
        sink.stop_on_errors()
    over = _length(stateful, sink)
    assert over is not None
    for node in loops:
        if node not in stateful and loop_of(node).trips == over:
            sink.report(
                "E614",
                node.origin,
                f"the loop `{loop_of(node).name}` goes over {over} as well, and starts anew at every step",
                fix="say `stateful: true` in it, too",
            )
    return OneStep(over, _axes(graph, over, "inputs", sink), _axes(graph, over, "outputs", sink))


def _length(stateful: list[Node], sink: Sink) -> Dim | None:
    """The length of the sequences that all stateful loops go over."""
    first = loop_of(stateful[0])
    for node in stateful[1:]:
        if loop_of(node).trips != first.trips:
            sink.report(
                "E614",
                node.origin,
                f"`{first.name}` takes {first.trips} steps and `{loop_of(node).name}` {loop_of(node).trips}: "
                "there is no one step of both",
                also=[(stateful[0].origin, f"`{first.name}`")] if stateful[0].origin else [],
            )
    trips = first.trips
    if not isinstance(trips, Dim) or trips != symbol(str(trips)):
        said = "always" if not isinstance(trips, Dim) else "computed to be"
        sink.report(
            "E614",
            stateful[0].origin,
            f"the loop `{first.name}` takes {trips} steps, {said}: which axes are the sequence's is not known",
            fix="go over a length that the data has, such as `T` in `x: f32[B, T, 8]`",
        )
    sink.stop_on_errors()
    return trips if isinstance(trips, Dim) else None


def _axes(graph: Graph, over: Dim, which: str, sink: Sink) -> dict[str, int]:
    found = {}
    nodes = {node.id: node for node in graph.body.nodes}
    for port in getattr(graph.body, which):
        type_ = graph.types.get(port.value)
        if type_ is None:
            continue
        within = [d for d in type_.dims if isinstance(d, Dim) and d.symbols() & over.symbols()]
        if within not in ([], [over]):
            sink.report(
                "E614",
                nodes[port.value.node].origin or graph.body.origin,
                f"`{port.name}` is {type_}: it has no one axis of {over}, of which a step would take one element",
            )
        axis = single_axis(type_, over)
        if axis is not None:
            found[port.name] = axis
    sink.stop_on_errors()
    return found
