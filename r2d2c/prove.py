"""`wiring --prove`: perturb each loss, run the compiled graph, and see which gradients change.

Every loss, and every signal and plastic change of a credit rule that no loss is behind, is multiplied by a scale that
is 1; turning one scale must change, of all gradients, exactly those that
the wiring marks. Where nothing is marked the gradient must stay the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Init, Node, Region, Storage, Value
from r2d2c.model import Model
from r2d2c.passes.building import in_order
from r2d2c.passes.legality import Form
from r2d2c.passes.pipeline import PREPARE, Differentiate, Pass, Tables, run_passes
from r2d2c.sampling import random_batch
from r2d2c.types import TensorType

# A marked entry may happen not to move (a dead relu): it gets this many draws of batch and parameters.
ATTEMPTS = 6


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the matrix: what the wiring says, and whether the gradient moved."""

    loss: str
    parameter: str
    expected: str | None
    moved: bool

    @property
    def ok(self) -> bool:
        return self.moved == (self.expected is not None)

    def __str__(self) -> str:
        said = f"is marked `{self.expected}`" if self.expected else "is marked as not taught"
        return f"{self.parameter} {said} by {self.loss}, and its gradient {'moved' if self.moved else 'did not move'}"


@dataclass(frozen=True, slots=True)
class Proof:
    """All entries. ``ok`` if every one behaves as the wiring says."""

    entries: tuple[Entry, ...]

    @property
    def failures(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if not entry.ok)

    @property
    def ok(self) -> bool:
        return not self.failures


class _Probed(Model):
    """The model with a scale on every row of its wiring; otherwise compiled the same way."""

    def __init__(self, checked: Checked, backend: str) -> None:
        super().__init__(checked, backend)
        self.scales: set[str] = set()
        for name, row in self._training_graph.storage.items():
            if name.startswith(_PROBE):
                self._put(name, torch.ones((), dtype=torch.float64))
                self.scales.add(row.owner)

    @cached_property
    def _training_graph(self) -> Graph:
        return run_passes(PROBED, self.spec.graph, self.spec.ops, self._credit_rules())


_PROBE = "probe."


@dataclass(frozen=True, slots=True)
class Probe:
    """A scale on every loss, signal and plastic change, before the gradients are made."""

    tables: Tables
    gives: ClassVar[Form] = "flat"

    def run(self, graph: Graph, sink: Sink) -> Graph:
        return _with_probes(graph)


PROBED: tuple[type[Pass], ...] = (*PREPARE, Probe, Differentiate)


def _with_probes(graph: Graph) -> Graph:
    types, storage = dict(graph.types), dict(graph.storage)
    scalar = TensorType("f32")
    made: list[Node] = []
    changed: dict[Value, Value] = {}

    def scale(row: str, value: Value) -> Value:
        """A value times the scale of a row."""
        key, id_ = f"{_PROBE}{row}", f"probe({row}).{value.node}.{value.port}"
        if key not in storage:
            storage[key] = Storage(key, "frozen", Init("ones"), row, scalar)
            made.append(Node(f"%{key}", "param", (), {"storage": key}, (key,)))
            types[Value(f"%{key}")] = scalar
        made.append(Node(id_, "mul", (value, Value(f"%{key}")), {}, ("probe",)))
        types[Value(id_)] = types[value]
        return Value(id_)

    for name, loss in graph.losses.items():
        # What is made of evaluations, a mean of two say, is scaled through them.
        for value in {loss.value, *(loss.again or loss.evaluations)}:
            changed[value] = scale(name, value)
    nodes = [_probed(node, changed, scale) for node in graph.body.nodes]
    losses = {name: loss.mapped(lambda v: changed.get(v, v)) for name, loss in graph.losses.items()}
    main = graph.body
    every = tuple(in_order([*nodes, *made]))
    region = Region(main.name, main.kind, main.inputs, main.outputs, every, main.origin)
    return graph.with_(
        regions={**graph.steps, main.name: region}, types=types, storage=storage, losses=losses
    )


def _probed(node: Node, changed: Mapping[Value, Value], scale: Callable[[str, Value], Value]) -> Node:
    """A node that reads scaled losses; signals and plastic changes have scales of their own."""
    inputs = tuple(changed.get(v, v) if v is not None else None for v in node.inputs)
    if node.op == "signal" and inputs[1] is not None:
        inputs = (inputs[0], scale(node.id, inputs[1]))
    elif node.op == "accumulate" and inputs[0] is not None:
        inputs = (scale(node.attrs["link"], inputs[0]),)
    return node if inputs == node.inputs else replace(node, inputs=inputs)


def prove(model: Model) -> Proof:
    """Prove a model's wiring on the compiled graph, in float64 with random parameters and batches."""
    expected = model.wiring()
    probed = _Probed(model.spec, model._backend.name).double()
    moved: set[tuple[str, str]] = set()
    marked = {(loss, name) for loss, row in expected.items() for name, entry in row.items() if entry}
    sizes = _sizes(model.graph)
    for attempt in range(max(ATTEMPTS, 2 * len(sizes))):
        _randomise(probed, attempt)
        numbers = sizes[attempt % len(sizes)]
        batch = {**random_batch(probed.graph, seed=attempt, dtype=torch.float64), **numbers}
        rest = _gradients(probed, batch, None)
        for loss in expected.keys() & probed.scales:
            turned = _gradients(probed, batch, loss)
            moved |= {(loss, name) for name in rest if _differ(rest[name], turned[name])}
        if marked <= moved and attempt + 1 >= len(sizes):
            break
    return Proof(
        tuple(
            Entry(loss, name, entry, (loss, name) in moved)
            for loss, row in expected.items()
            for name, entry in row.items()
        )
    )


def _sizes(graph: Graph) -> list[dict[str, Any]]:
    """The model's arguments at their usual values, and each as small and as large as it may be: a loop has many depths."""
    usual = {name: int(a.usual) if a.kind == "size" else a.usual for name, a in graph.arguments.items()}
    found = [usual]
    for name, a in graph.arguments.items():
        for value in (a.low, a.high):
            other = {**usual, name: int(value) if a.kind == "size" else value}
            if other not in found:
                found.append(other)
    return found


def _randomise(model: Model, seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for parameter in model.parameters():
            width = max(parameter.shape[-1] if parameter.dim() else 1, 1)
            parameter.normal_(0.0, 1.0 / width**0.5, generator=generator).add_(0.1)


def _gradients(model: _Probed, batch: dict[str, Any], turned: str | None) -> dict[str, torch.Tensor | None]:
    buffers = dict(model.named_buffers())
    for name in model.scales:
        buffers[f"{_PROBE}{name}"].fill_(1.5 if name == turned else 1.0)
    model.zero_grad(set_to_none=True)
    model._step = 0  # the same random numbers in every run
    before = {name: tensor.clone() for name, tensor in buffers.items()}
    model.learn(**batch)
    with torch.no_grad():
        for name, tensor in before.items():
            buffers[name].copy_(tensor)  # and the same statistics
    return {name: p.grad for name, p in model.named_parameters()}


def _differ(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    if left is None or right is None:
        return left is not right
    return not torch.equal(left, right)
