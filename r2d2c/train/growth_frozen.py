"""Ops of an op graph that stay as they are through a training: which they are, and how they are held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from r2d2c.diagnostics import suggest
from r2d2c.growth import Growing
from r2d2c.opgraph import Topology
from r2d2c.ops.op_graph import STATISTICS
from r2d2c.train.growth_rows import hold as hold_rows
from r2d2c.train.refuse import refuse

if TYPE_CHECKING:
    from torch import Tensor

    from r2d2c.model import Model


def named(growing: Growing, topology: Topology, name: str) -> tuple[str, ...]:
    """The names of the ops that the spec freezes, of those there are. Refuses (E578) names of none."""
    rows = topology.rows
    found = tuple(rows) if "all" in growing.frozen else growing.frozen
    for wanted in found:
        if wanted not in rows:
            refuse(
                "E578",
                f"`{name}` freezes its op `{wanted}`, and has none of this name",
                growing.origin,
                fix=suggest(wanted, rows) or "`r2d2c replay RUN` shows the names that ops have got",
            )
    return found


def ancestors(topology: Topology, names: Iterable[str]) -> frozenset[str]:
    """These ops and all that they compute from: what a frozen op gives is to stay, not only its numbers."""
    rows = topology.rows
    front = [rows[name] for name in names]
    found: set[int] = set()
    while front:
        row = front.pop()
        if row not in found:
            found.add(row)
            read = topology.args[row] - topology.inputs
            front += read[read >= 0].tolist()
    return frozenset(str(topology.names[row]) for row in found)


def hold(model: Model, node: str, topology: Topology, names: Iterable[str]) -> list[Callable[[], None]]:
    """What puts numbers and running statistics of ops back to what they are now. node: the op graph's."""
    import torch

    rows = torch.from_numpy(np.sort([topology.rows[name] for name in names]))
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    found: list[Tensor] = [parameters[f"{node}.numbers"]] if f"{node}.numbers" in parameters else []
    found += [buffers[key] for part in STATISTICS if (key := f"{node}.{part}") in buffers]
    return [hold_rows(tensor, rows.to(tensor.device), "rows") for tensor in found]
