"""Where a number stopped to be one: the first value of the spec that is NaN or infinite while its arguments are not.

A loss is looked at some batches after it was computed, when its parameters have changed already. As a resume is exact,
the batch is found by going on from the last checkpoint once more, up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from r2d2c.graph import Graph, Node, Value, walk
from r2d2c.source import Span
from r2d2c.train.chunks import learn_pass
from r2d2c.train.data.bind import TableSplit

if TYPE_CHECKING:
    from r2d2c.model import Model, Trace
    from r2d2c.train.loop import Trainer

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Blame:
    """The place in the spec that a number became NaN or infinite at, what to say of it there, and more about it."""

    span: Span | None
    label: str
    notes: tuple[str, ...] = ()


def blame_loss(trainer: Trainer, loss: str, batches: int) -> Blame | None:
    """What made a loss no finite number in the ``batches``-th batch of a training; None where that cannot be said."""
    for model, given in _parts(trainer, batches):
        trace = model.trace(**given)
        if torch.isfinite(trace.losses[loss]).all():
            continue
        return _of_value(model, trace, loss) or _of_parameter(trainer, model, batches)
    return None


def blame_parameter(trainer: Trainer, batches: int, name: str) -> Blame | None:
    """What made a parameter no finite number in the ``batches``-th batch, or in one before it."""
    copy = _replayed(trainer, None)
    if copy is None:
        return None
    at = copy.batches
    for batch in copy.loader.epoch(copy.epoch, copy.batch):
        if at >= batches:
            break
        copy._learn(batch)
        at += 1
        if not torch.isfinite(copy.model.state_dict()[name]).all():
            return _of_gradient(trainer, at, name)
    return None


def word(tensor: torch.Tensor) -> str:
    """NaN or infinite, of a tensor that has such numbers."""
    return "NaN" if bool(torch.isnan(tensor).any()) else "infinite"


def _of_value(model: Model, trace: Trace, loss: str) -> Blame | None:
    """Back from the loss, through what is no finite number, to the first whose arguments are; None if a parameter is."""
    from r2d2c.tracing import value_name

    graph = model._training_graph
    nodes = {node.id: node for node in graph.body.nodes}
    order = {node: at for at, node in enumerate(nodes)}
    known: dict[Value, torch.Tensor] = {}
    for node in nodes.values():
        for port in range(len(node.outputs)):
            name = value_name(node, port)
            if name is not None and name in trace.values:
                known[node.value(port)] = trace.values[name]
    storage = model.state_dict()
    sources: list[Value] = []
    seen: set[Value] = set()
    todo = [graph.losses[loss].value]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        node = nodes[value.node]
        if node.op == "param":
            if not _finite(storage[node.attrs["storage"]]):
                return None
            continue
        before = [one for one in node.inputs if one is not None and not _sound(one, nodes, known, storage)]
        todo += before
        if not before and value in known:
            sources.append(value)
    if not sources:
        return None
    first = min(sources, key=lambda value: order[value.node])
    node, tensor = nodes[first.node], known[first]
    if node.op == "loop":
        step = _first_step(graph, trace)
        if step is not None:
            return step
    name = value_name(node, first.port)
    if node.op == "port":
        return Blame(node.origin, f"`{name}` of this batch is {word(tensor)}: the data are at fault")
    of = f" of its {tensor.numel():,} numbers" if tensor.numel() > 1 else ""
    count = f"{int((~torch.isfinite(tensor)).sum()):,}{of}" if of else "it"
    are = "are" if of else "is"
    return Blame(
        node.origin,
        f"this is the first to be {word(tensor)}",
        (
            f"the first value that is not finite is `{name}`: {count} {are}",
            *_arguments([(nodes[v.node], v.port, known[v]) for v in node.inputs if v in known]),
        ),
    )


def _sound(
    value: Value, nodes: Mapping[str, Node], known: Mapping[Value, torch.Tensor], storage: Tensors
) -> bool:
    node = nodes.get(value.node)
    if node is None:
        return True
    if node.op == "param":
        return _finite(storage[node.attrs["storage"]])
    return value not in known or _finite(known[value])


def _arguments(values: Iterable[tuple[Node, int, torch.Tensor]]) -> Iterator[str]:
    """The range of each argument: a zero or a negative number says most of the time what is wrong."""
    from r2d2c.tracing import value_name

    for node, port, tensor in values:
        if tensor.is_floating_point() and tensor.numel():
            low, high = (f"{float(x):.4g}" for x in tensor.aminmax())
            between = f"{low} everywhere" if low == high else f"between {low} and {high}"
            yield f"its argument `{value_name(node, port)}` is {between}"


def _first_step(graph: Graph, trace: Trace) -> Blame | None:
    """The first value of a loop's steps, in the order in which they were computed, that is not finite."""
    from r2d2c.tracing import value_name

    origins: dict[str, Span | None] = {}
    for _, node in walk(graph):
        for port in range(len(node.outputs)):
            name = value_name(node, port)
            if name is not None:
                origins.setdefault(name, node.origin)
    for name, tensor in trace.values.items():
        base, at, step = name.rpartition("@")
        if at and base in origins and step != "0" and not _finite(tensor):
            return Blame(
                origins[base],
                f"this is the first to be {word(tensor)}, in step {step}",
                (f"the first value that is not finite is `{name}`",),
            )
    return None


def _of_parameter(trainer: Trainer, model: Model, batches: int) -> Blame | None:
    """The loss read a parameter that was no finite number any more."""
    name = next((n for n, tensor in model.state_dict().items() if not _finite(tensor)), None)
    if name is None:
        return None
    found = blame_parameter(trainer, batches, name)
    row = model.graph.storage.get(name)
    note = f"the parameter `{name}` was {word(model.state_dict()[name])} before this batch"
    if found is None:
        return Blame(row.origin if row else None, "this parameter is no finite number any more", (note,))
    return Blame(found.span, found.label, (note, *found.notes))


def _of_gradient(trainer: Trainer, batches: int, name: str) -> Blame | None:
    """A parameter was finite before a batch and is not after it: its gradient, or a step that was too large."""
    from r2d2c.tracing import value_name

    for model, given in _parts(trainer, batches):
        trace = model.trace(**given)
        origins = {
            value_name(node, port): node.origin
            for node in model._training_graph.body.nodes
            for port in range(len(node.outputs))
        }
        # δ goes from the losses back: of the values that have a bad one, the last was the first to have it.
        for value in reversed(trace.deltas):
            delta = trace.deltas[value]
            if not _finite(delta):
                return Blame(
                    origins.get(value),
                    f"the gradient here is {word(delta)}",
                    (f"the first gradient that is not finite, from the losses back, is that of `{value}`",),
                )
        largest = max(
            (float(tensor.abs().max()) for tensor in model.parameters() if tensor.numel()), default=0.0
        )
        row = model.graph.storage.get(name)
        return Blame(
            row.origin if row else None,
            f"a step of the optimizer made `{name}` infinite or NaN",
            (
                "every gradient of that batch is finite; "
                f"the largest parameter before it was {largest:.4g}, so the steps are too large",
            ),
        )
    return None


def _parts(trainer: Trainer, batches: int) -> Iterator[tuple[Model, dict[str, Any]]]:
    """The model as it was when it met the ``batches``-th batch, with what it was given; part by part of long sequences."""
    copy = _replayed(trainer, batches - 1)
    if copy is None or copy.batches != batches - 1:
        return
    batch = next(iter(copy.loader.epoch(copy.epoch, copy.batch)), None)
    if batch is None:
        return
    sizes = copy.settings.sizes_at(copy.model._step) if copy.settings.sizes else {}
    if copy.settings.chunks is None:
        yield copy.model, {**batch, **sizes}
        return
    state: dict[str, torch.Tensor] | None = None
    for part, _ in copy.settings.chunks.parts(batch):
        given = {**part, **sizes} if state is None else {**part, **sizes, "state": state}
        yield copy.model, given
        _, state = learn_pass(copy.model, copy.stepper, given)


def _replayed(trainer: Trainer, batches: int | None) -> Trainer | None:
    """A second training, gone on from the last checkpoint up to ``batches`` batches; None where data come only once."""
    from r2d2c.model import Model

    run = trainer.run_folder
    if not isinstance(trainer.data.train, TableSplit) or not run.has() or trainer.team.world > 1:
        return None
    model = Model(trainer.model.spec, trainer.model._backend_name).to(trainer.device)
    copy = type(trainer)(model, trainer.settings, trainer.data, run, limits=trainer.limits)
    copy.restore(run.load())
    if batches is not None and copy.batches < batches:
        for batch in copy.loader.epoch(copy.epoch, copy.batch):
            copy._learn(batch)
            if copy.batches == batches:
                break
    return copy


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
