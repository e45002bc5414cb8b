"""A linear layer over all slots, flattened, of a loop that runs in phases.

With an input ``flatten(x)``, x being ``[B, K, R]``, a layer gives Σₖ Wₖ·xₖ. A step writes one slot, so all but one of
the K products are those of the step before. They are kept for every slot while the carries go from step to step; for
learning there is one for every entry, and the sums of n steps come from n differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.lower.independent import of_samples
from r2d2c.lower.slots import Memory
from r2d2c.types import TensorType


@dataclass(frozen=True, slots=True)
class Readout:
    """Σₖ Wₖ·xₖ as ``value``, of what each slot is computed to, ``source`` ``[B·K, …]``.

    weight: a port of the step, ``[V, n]``; the columns from ``first`` on are those of K times ``width`` numbers.
    """

    value: Value
    source: Value
    memory: int
    weight: Value
    first: int
    slots: int
    width: int

    def weights(self, weight: torch.Tensor) -> torch.Tensor:
        """Wₖ, as ``[K, R, V]``."""
        columns = weight[:, self.first : self.first + self.slots * self.width]
        return columns.reshape(len(weight), self.slots, self.width).permute(1, 2, 0)


def split_readouts(
    graph: Graph, step: Region, memories: Sequence[Memory], ports: Sequence[Value]
) -> tuple[Graph, tuple[Readout, ...]]:
    """The graph with the layers over slots in their parts, and those parts that are sums over slots.

    ports: what a weight may be, the step's ports of what is the same at every step.
    """
    splitter = _Splitter(graph, step, memories, set(ports))
    nodes = [made for node in step.nodes for made in splitter.node(node)]
    if not splitter.found:
        return graph, ()
    moved = splitter.moved
    nodes = [
        replace(node, inputs=tuple(None if v is None else moved.get(v, v) for v in node.inputs))
        for node in nodes
    ]
    outputs = tuple(port._replace(value=moved.get(port.value, port.value)) for port in step.outputs)
    region = replace(step, nodes=tuple(nodes), outputs=outputs)
    return graph.with_(
        regions={**graph.regions, step.name: region}, types={**graph.types, **splitter.types}
    ), tuple(splitter.found)


class _Splitter:
    def __init__(self, graph: Graph, step: Region, memories: Sequence[Memory], ports: set[Value]) -> None:
        self.graph, self.ports = graph, ports
        self.nodes = {node.id: node for node in step.nodes}
        self.home = {id_: k for k, memory in enumerate(memories) for id_ in memory.each}
        self.found: list[Readout] = []
        self.moved: dict[Value, Value] = {}
        self.types: dict[Value, TensorType] = {}

    def node(self, node: Node) -> list[Node]:
        """The nodes in the place of one."""
        weight = node.inputs[1] if node.op == "linear" else None
        if weight is None or weight not in self.ports or node.inputs[0] is None:
            return [node]
        types = self.graph.types
        parts = self._parts(node.inputs[0])
        if types[weight].rank != 2 or any(self._width(part) is None for part in parts):
            return [node]
        if any(types[part].dtype != types[weight].dtype for part in parts):
            return [node]
        if not any(self._slots(part) for part in parts):
            return [node]
        return self._split(node, weight, parts)

    def _parts(self, x: Value) -> list[Value]:
        maker = self.nodes[x.node]
        if maker.op == "concat" and maker.attrs.get("axis", 0) in (1, -1):
            return [value for value in maker.inputs if value is not None]
        return [x]

    def _width(self, part: Value) -> int | None:
        type_ = self.graph.types[part]
        known = type_.rank == 2 and of_samples(type_) and type_.floating and isinstance(type_.dims[1], int)
        return int(type_.dims[1]) if known else None  # type: ignore[arg-type]

    def _slots(self, part: Value) -> tuple[Value, int] | None:
        """Of what is flattened, what each slot is computed to, and how many slots there are."""
        flat = self.nodes[part.node]
        if flat.op != "flatten" or flat.inputs[0] is None:
            return None
        whole = self.nodes[flat.inputs[0].node]
        if whole.op != "samples_as_slots" or whole.inputs[0] is None or whole.inputs[0].node not in self.home:
            return None
        slots = self.graph.types[flat.inputs[0]].dims[1]
        return (whole.inputs[0], int(slots)) if isinstance(slots, int) else None

    def _split(self, node: Node, weight: Value, parts: list[Value]) -> list[Node]:
        out = self.graph.types[Value(node.id)]
        made: list[Node] = []
        sums: list[Value] = []
        first, bias = 0, node.inputs[2]
        for position, part in enumerate(parts):
            width, found = self._width(part), self._slots(part)
            assert width is not None
            if found is not None:
                source, slots = found
                value = self._new(made, f"{node.id}/slots_{position}", "port", (), out)
                self.found.append(
                    Readout(value, source, self.home[source.node], weight, first, slots, width // slots)
                )
            else:
                items = {"items": ((":", None, None, None), (":", first, first + width, None))}
                rows = TensorType(self.graph.types[weight].dtype, (self.graph.types[weight].dims[0], width))
                columns = self._new(made, f"{node.id}/weight_{position}", "slice", (weight,), rows, items)
                linear, bias = (part, columns, bias), None
                value = self._new(made, f"{node.id}/part_{position}", "linear", linear, out, node.attrs)
            sums.append(value)
            first += width
        if bias is not None:
            sums.append(bias)
        total = sums[0]
        for number, value in enumerate(sums[1:]):
            total = self._new(made, f"{node.id}/sum_{number}", "add", (total, value), out)
        self.moved[Value(node.id)] = total
        return made

    def _new(
        self, made: list[Node], id_: str, op: str, inputs: Any, type_: TensorType, attrs: Any = None
    ) -> Value:
        made.append(Node(id_, op, inputs, attrs or {}))
        self.types[Value(id_)] = type_
        return Value(id_)


# -- running


def at_first(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Wₖ·xₖ of every slot, ``[B, K, V]``, of ``[B·K, …]``."""
    slots = values.reshape(-1, *weights.shape[:2])
    return torch.bmm(slots.transpose(0, 1), weights).transpose(0, 1)


def over_steps(
    weights: torch.Tensor, values: torch.Tensor, index: torch.Tensor, when: torch.Tensor | None
) -> torch.Tensor:
    """Σₖ Wₖ·xₖ after each of n steps, ``[n·B, V]``, of all entries ``[(K + n)·B, …]``, the samples innermost.

    index: the slots ``[n, B]`` that are written, when: whether.
    """
    slots, width, _ = weights.shape
    count, samples = index.shape
    order, again, sizes = by_slot(index, when, slots)
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    # What is in the same slot has the same weight, and replaces what was there before.
    parts = reordered(values.reshape(-1, width), order, back).split(sizes)
    products = [part @ weight for part, weight in zip(parts, weights.unbind(0), strict=False)]
    if len(parts) > slots:
        products.append(products[0].new_zeros(len(parts[-1]), products[0].shape[1]))
    changes: torch.Tensor = _Changes.apply(torch.cat(products), again)  # type: ignore[no-untyped-call]
    changes = reordered(changes, back, order).reshape(slots + count, samples, -1)
    starts, later = torch.split(changes, [slots, count])
    sums = running_sum(later) + starts.sum(0)
    return sums.flatten(0, 1)


def by_slot(
    index: torch.Tensor, when: torch.Tensor | None, slots: int
) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """All entries, ``K·B`` at first and ``n·B`` that are written, ordered by slot, sample and step.

    Then, whether each replaces the one before it, and how many each slot has; what is not written comes last.
    """
    count, samples = index.shape
    places = torch.arange(slots, device=index.device).unsqueeze(1).expand(-1, samples)
    slot = torch.cat([places, index if when is None else torch.where(when, index, slots)])
    sample = torch.arange(samples, device=index.device)
    step = torch.arange(1 - slots, count + 1, device=index.device).clamp_(min=0).unsqueeze(1)
    steps = count + 1
    keys, order = ((slot * samples + sample) * steps + step).flatten().sort()
    group = keys.div(steps, rounding_mode="floor")
    again = torch.cat([group.new_zeros(1, dtype=torch.bool), group[1:] == group[:-1]])
    sizes = torch.bincount(slot.flatten(), minlength=slots).tolist()
    return order, again, sizes


# How many steps are summed in one product.
BLOCK = 16


def running_sum(x: torch.Tensor) -> torch.Tensor:
    """The sum up to each step, of ``[n, …]``; products with ones are faster than `cumsum`."""
    flat = x.flatten(1)
    count = len(flat)
    size = min(BLOCK, count)
    blocks = -(-count // size)
    if blocks * size != count:
        flat = F.pad(flat, (0, 0, 0, blocks * size - count))
    ones = flat.new_ones(size, size).tril().expand(blocks, -1, -1)
    parts = flat.reshape(blocks, size, -1)
    before = flat.new_ones(blocks, blocks).tril(-1) @ parts.sum(1)
    return torch.baddbmm(before.unsqueeze(1), ones, parts).flatten(0, 1)[:count].reshape(x.shape)


class _Changes(torch.autograd.Function):
    """Every row less the one before it, where it replaces that. Slices would each cost a whole gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(again)
        changes = x.clone()
        changes[1:].addcmul_(x[:-1], again[1:, None].to(x.dtype), value=-1)
        return changes

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (again,) = ctx.saved_tensors
        changes = grad.clone()
        changes[:-1].addcmul_(grad[1:], again[1:, None].to(grad.dtype), value=-1)
        return changes, None


class _Reordered(torch.autograd.Function):
    """Rows in another order, there and back by index: the gradient of an index adds row to row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(order, back)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        order, back = ctx.saved_tensors
        return reordered(grad, back, order), None, None


def reordered(x: torch.Tensor, order: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """``x[order]``, where ``order`` has every row once and ``back`` undoes it."""
    result: torch.Tensor = _Reordered.apply(x, order, back)  # type: ignore[no-untyped-call]
    return result


def pick(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``values[rows]`` along the first axis; on a CPU a gather is faster, there and back, than an index."""
    if not torch.is_grad_enabled():
        return values.index_select(0, rows)
    flat = values.reshape(len(values), -1)
    picked = flat.gather(0, rows.unsqueeze(1).expand(-1, flat.shape[1]))
    return picked.reshape(len(rows), *values.shape[1:])
