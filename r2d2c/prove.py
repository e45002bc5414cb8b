"""`wiring --prove`: perturb each loss, run the compiled graph, and see which gradients change.

Every loss is multiplied by a scale that is 1; turning one scale must change, of all gradients, exactly those that
the wiring marks. Where nothing is marked the gradient must stay the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import torch

from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.graph import Graph, Init, Node, Region, Storage, Value
from r2d2c.model import Model
from r2d2c.passes.legality import Form
from r2d2c.passes.pipeline import Attach, Differentiate, Flatten, Pass, Tables, run_passes
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
    """The model with a scale on every loss; otherwise compiled the same way."""

    def __init__(self, checked: Checked, backend: str) -> None:
        super().__init__(checked, backend)
        self.scales = {}
        for name in self._training_graph.losses:
            scale = torch.ones((), dtype=torch.float64)
            self._put(f"probe.{name}", scale)
            self.scales[name] = scale

    @cached_property
    def _training_graph(self) -> Graph:
        return run_passes(PROBED, self.spec.graph, self.spec.ops, self._credit_rules())


@dataclass(frozen=True, slots=True)
class Probe:
    """A scale on every loss, before the gradients are made."""

    tables: Tables
    gives: ClassVar[Form] = "flat"

    def run(self, graph: Graph, sink: Sink) -> Graph:
        return _with_probes(graph)


PROBED: tuple[type[Pass], ...] = (Attach, Flatten, Probe, Differentiate)


def _with_probes(graph: Graph) -> Graph:
    nodes = list(graph.body.nodes)
    types, storage, losses = dict(graph.types), dict(graph.storage), dict(graph.losses)
    scalar = TensorType("f32")
    for name, loss in graph.losses.items():
        key = f"probe.{name}"
        storage[key] = Storage(key, "frozen", Init("ones"), "probe", scalar)
        nodes.append(Node(f"%{key}", "param", (), {"storage": key}, (key,)))
        nodes.append(Node(f"{key}.mul", "mul", (loss.value, Value(f"%{key}")), {}, ("probe",)))
        types[Value(f"%{key}")] = scalar
        types[Value(f"{key}.mul")] = graph.types[loss.value]
        losses[name] = replace(loss, value=Value(f"{key}.mul"))
    main = graph.body
    region = Region(main.name, main.kind, main.inputs, main.outputs, tuple(nodes), main.origin)
    return graph.with_(regions={main.name: region}, types=types, storage=storage, losses=losses)


def prove(model: Model) -> Proof:
    """Prove a model's wiring on the compiled graph, in float64 with random parameters and batches."""
    expected = model.wiring()
    probed = _Probed(model.spec, model._backend.name).double()
    moved: set[tuple[str, str]] = set()
    marked = {(loss, name) for loss, row in expected.items() for name, entry in row.items() if entry}
    for attempt in range(ATTEMPTS):
        _randomise(probed, attempt)
        batch = random_batch(probed.graph, seed=attempt, dtype=torch.float64)
        rest = _gradients(probed, batch, None)
        for loss in probed.scales:
            turned = _gradients(probed, batch, loss)
            moved |= {(loss, name) for name in rest if _differ(rest[name], turned[name])}
        if marked <= moved:
            break
    return Proof(
        tuple(
            Entry(loss, name, entry, (loss, name) in moved)
            for loss, row in expected.items()
            for name, entry in row.items()
        )
    )


def _randomise(model: Model, seed: int) -> None:
    generator = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for parameter in model.parameters():
            width = max(parameter.shape[-1] if parameter.dim() else 1, 1)
            parameter.normal_(0.0, 1.0 / width**0.5, generator=generator).add_(0.1)


def _gradients(
    model: _Probed, batch: dict[str, torch.Tensor], turned: str | None
) -> dict[str, torch.Tensor | None]:
    buffers = dict(model.named_buffers())
    for name in model.scales:
        buffers[f"probe.{name}"].fill_(1.5 if name == turned else 1.0)
    model.zero_grad(set_to_none=True)
    model._step = 0  # the same random numbers in every run
    model.learn(**batch)
    return {name: p.grad for name, p in model.named_parameters()}


def _differ(left: torch.Tensor | None, right: torch.Tensor | None) -> bool:
    if left is None or right is None:
        return left is not right
    return not torch.equal(left, right)
