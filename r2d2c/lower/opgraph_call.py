"""What the nodes of op graphs call: the engine on the table that the model's buffers have just now.

A table that changes is planned anew when it is next read; until then its plan is kept with its buffer.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakIdKeyDictionary

from r2d2c.lower.opgraph import Normalise, Program, load
from r2d2c.lower.opgraph import columns as run
from r2d2c.opgraph import plan
from r2d2c.ops.op_graph import EPS, MOMENTUM
from r2d2c.ops.op_graph_rows import table_of


class _Planned(NamedTuple):
    """A program, and what it was planned from."""

    program: Program
    args: weakref.ref[Tensor]
    state: tuple[object, ...]


# By the buffer of kinds: a copy of a model, or a new one at the same address, has a plan of its own.
_PLANNED: WeakIdKeyDictionary = WeakIdKeyDictionary()


def program_of(kind: Tensor, args: Tensor, inputs: int, device: torch.device) -> Program:
    """The plan of a table. kind: i64[capacity]; args: i64[capacity, 3]."""
    versions = [0 if table.is_inference() else table._version for table in (kind, args)]
    state = (*versions, kind.data_ptr(), inputs, device)
    found: _Planned | None = _PLANNED.get(kind)
    if found is None or found.state != state or found.args() is not args:
        table = table_of(kind.cpu().numpy(), args.cpu().numpy(), inputs)
        found = _Planned(load(plan(table), device), weakref.ref(args), state)
        _PLANNED[kind] = found
    return found.program


def _run(
    x: Tensor,
    numbers: Tensor,
    kind: Tensor,
    args: Tensor,
    mean: Tensor,
    variance: Tensor,
    normalise: Normalise,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    program = program_of(kind, args, x.shape[-1], x.device)
    flat = x.reshape(-1, x.shape[-1])
    found, mean, variance = run(program, flat, numbers, mean, variance, normalise, training, MOMENTUM)
    return found.reshape(*x.shape[:-1], found.shape[-1]), mean, variance


def op_graph(x: Tensor, numbers: Tensor, kind: Tensor, args: Tensor) -> Tensor:
    """[…, D] and the ops' values, [..., D + capacity], as they are."""
    none = x.new_zeros(0)
    return _run(x, numbers, kind, args, none, none, "none", False)[0]


def op_graph_layer(x: Tensor, numbers: Tensor, kind: Tensor, args: Tensor) -> Tensor:
    """The same with the ops' values normalised over all ops that there are, sample by sample; others read them as they are."""
    found = op_graph(x, numbers, kind, args)
    live = program_of(kind, args, x.shape[-1], x.device).nodes + x.shape[-1]
    if not len(live):
        return found
    # A row is summed up by itself, so one sample alone gives the same bits.
    values = functional.layer_norm(found.index_select(-1, live).contiguous(), (len(live),), eps=EPS)
    return found.index_copy(-1, live, values)


def op_graph_normalised(
    x: Tensor, numbers: Tensor, kind: Tensor, args: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """The same with the ops' values normalised by the running statistics."""
    return _run(x, numbers, kind, args, mean, variance, "batch", False)[0]


def op_graph_learning(
    x: Tensor, numbers: Tensor, kind: Tensor, args: Tensor, mean: Tensor, variance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with the ops' values normalised over the batch, and the new running statistics."""
    return _run(x, numbers, kind, args, mean, variance, "batch", True)
