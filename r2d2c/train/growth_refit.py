"""`refit` of a round: the read-outs of an op graph go to where the loss is least, along one Newton step.

New columns enter with weight zero, and columns of many ops are nearly collinear: with a few steps of an optimizer
alone, what an op is worth says more of how long it has been there than of what it does. The direction is that of
least squares, of the δ of what each read-out gives (Gauss-Newton with the identity for the loss's own curvature); how
far to go is tried out, so any loss will do. Of `mse` the result is the least-squares solution. Where there are not twice
as many samples as columns, nothing moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2d2c.growth import OpGraph
from r2d2c.opgraph import Ints, Topology
from r2d2c.train.growth_surgeon import FIRM
from r2d2c.train.measure import Batch, weighted

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model

TRIES = 12


def refit(model: Model, graph: OpGraph, topology: Topology, samples: Sequence[Batch]) -> Callable[[], None]:
    """Move the read-outs, in place; what comes back undoes it. Nothing moves if the loss would not become less."""
    import torch

    moves = _moves(model, graph, topology, samples)
    before = [part.clone() for part, _ in moves]

    def go(far: float) -> float:
        """The loss of the samples, so far along."""
        with torch.no_grad():
            for (part, step), start in zip(moves, before, strict=True):
                part.copy_(start + far * step)
        losses: dict[str, float] = {}
        for batch in samples:
            for name, value in model.losses(**batch).items():
                losses[name] = losses.get(name, 0.0) + float(value) / len(samples)
        return weighted(model, losses)

    def undo() -> None:
        with torch.no_grad():
            for (part, _), start in zip(moves, before, strict=True):
                part.copy_(start)

    if not moves:
        return undo
    base, best, least = go(0.0), 0.0, float("inf")
    # By a parabola through three places, then shorter steps for losses that are none.
    one, two = go(0.5), go(1.0)
    bend = two - 2 * one + base
    far = 0.25 * (4 * one - two - 3 * base) / -bend if bend > 0 else 1.0
    tried = [far, *(0.5**k for k in range(TRIES))] if 0 < far < 1e6 else [0.5**k for k in range(TRIES)]
    for far in tried:
        found = go(far)
        if found < min(base, least):
            best, least = far, found
        elif least < base:
            break
    go(best)
    if not least < base:
        undo()
    return undo


def _moves(
    model: Model, graph: OpGraph, topology: Topology, samples: Sequence[Batch]
) -> list[tuple[Tensor, Tensor]]:
    """Parts of weights and biases, which share their memory, each with the step that least squares says."""
    import torch

    columns, deltas = _seen(model, graph, samples)
    with np.errstate(all="ignore"):
        there = np.concatenate([np.ones(topology.inputs, bool), topology.live]) & np.isfinite(columns).all(0)
    known = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    found: list[tuple[Tensor, Tensor]] = []
    for reader in graph.readers:
        delta = deltas.get(reader.weight)
        if delta is None or not isinstance(known[reader.weight], torch.nn.Parameter):
            continue  # nothing is learned there
        clean = np.where(there, columns, 0.0)
        mean = clean.mean(0) if reader.bias is not None else np.zeros(len(there))
        index = np.flatnonzero(there & (np.square(clean - mean).mean(0) > (1e-12 * np.abs(mean)) ** 2))
        if 2 * len(index) > len(clean):
            continue  # it would learn these samples by heart
        parts = (clean - mean)[:, index]
        spread = np.sqrt(np.square(parts).mean(0))
        units = parts / spread
        near = units.T @ units / len(units)
        near[np.diag_indices_from(near)] += FIRM
        step = np.zeros((delta.shape[1], len(there)))
        step[:, index] = -(np.linalg.solve(near, units.T @ delta) / spread[:, None]).T
        weight = known[reader.weight].detach().narrow(-1, reader.offset, len(there))
        found.append((weight, torch.from_numpy(step).to(weight).view(weight.shape)))
        if reader.bias is not None:
            bias = known[reader.bias].detach()
            level = -delta.sum(0) - step @ mean
            found.append((bias, torch.from_numpy(level).to(bias).view(bias.shape)))
    return found


def _seen(model: Model, graph: OpGraph, samples: Sequence[Batch]) -> tuple[Ints, dict[str, Ints]]:
    """The columns, f64[N, columns], and by the weight of each read-out the δ of what it gives, f64[N, outputs].

    The δ of a sample is that of the loss's mean over all samples, times their number.
    """
    from r2d2c.graph import Value
    from r2d2c.tracing import value_name

    nodes = model._training_graph.body.nodes
    stored = {Value(node.id): str(node.attrs["storage"]) for node in nodes if node.op == "param"}
    weights = {reader.weight for reader in graph.readers}
    names: dict[str, str] = {}
    columns = ""
    for node in nodes:
        name = value_name(node, 0) if node.outputs else None
        if name is not None and node.op == "linear" and node.inputs[1] in stored:
            weight = stored[node.inputs[1]]
            if weight in weights:
                names.setdefault(weight, name)
        if name is not None and node.id == graph.node:
            columns = name
    values: list[Ints] = []
    deltas: dict[str, list[Ints]] = {weight: [] for weight in names}
    for batch in samples:
        given: dict[str, Any] = dict(batch)
        trace = model.trace(**given)
        values.append(_flat(trace.values[columns]))
        for weight, place in names.items():
            if place in trace.deltas:
                delta = _flat(trace.deltas[place])
                deltas[weight].append(delta * len(delta))
    whole = np.concatenate(values)
    return whole, {
        weight: np.concatenate(parts) / len(whole)
        for weight, parts in deltas.items()
        if parts and sum(map(len, parts)) == len(whole)
    }


def _flat(tensor: Tensor) -> Ints:
    found: Ints = tensor.detach().double().numpy(force=True)
    return found.reshape(-1, found.shape[-1])
