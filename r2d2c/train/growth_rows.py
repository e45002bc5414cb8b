"""Rows of tensors and of optimizer state that come and go with the nodes of an op graph.

A tensor follows a `Change` along one axis: ROWS (the first) for what has an entry per node, such as the nodes'
numbers and running statistics; COLUMNS (the last) for the weights of a read-out, which sees the inputs before the
nodes. Rows that a change does not touch keep their bits. Of the read-out, a new node's column is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch

from r2d2c.mutate import Change
from r2d2c.train.optimizers import COUNTERS

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

Axis = Literal["rows", "columns"]


def move(tensor: Tensor, change: Change, axis: Axis, fresh: float | Tensor = 0.0) -> None:
    """Write a change into a tensor, in place. fresh: what new and freed rows hold, a tensor has the tensor's shape.

    A row whose node was split off another one is a copy of that one's; see `mix` for the weights of a read-out.
    Raises `ValueError` for a tensor of another shape; where the change has a new one, `grown` comes first.
    """
    _checked(tensor, change, axis)
    with torch.no_grad():
        _move(tensor, change, axis, fresh)


def numbers(tensor: Tensor, change: Change) -> None:
    """`move` for the nodes' own numbers, [capacity, 3]: those of new nodes start as their mutations say."""
    move(tensor, change, "rows")
    new = torch.from_numpy(change.source < 0)
    if not new.any():
        return
    with torch.no_grad():
        rows = torch.from_numpy(change.touched)[new].to(tensor.device)
        starts = torch.from_numpy(change.numbers)[new]
        tensor.index_copy_(0, rows, starts.to(tensor.device, tensor.dtype))


def mix(readout: Tensor, change: Change) -> None:
    """`move` for the weights of a read-out, [outputs, inputs + capacity], in place.

    New and freed columns become zero; a split node's weights are shared out, merged ones are summed.
    """
    _checked(readout, change, "columns")
    if not len(change.touched):
        return
    first, device = change.inputs[1], readout.device
    with torch.no_grad():
        source = torch.from_numpy(change.from_ + first).to(device)
        weight = torch.from_numpy(change.weight).to(device, readout.dtype)
        parts = readout.index_select(-1, source) * weight
        readout.index_fill_(-1, torch.from_numpy(change.touched + first).to(device), 0)
        readout.index_add_(-1, torch.from_numpy(change.to + first).to(device), parts)


def grown(tensor: Tensor, change: Change, axis: Axis, fresh: float = 0.0) -> Tensor:
    """A copy with room for more inputs and nodes, where it is `fresh`; the tensor itself if the shape stays.

    Along columns, new inputs go between the old inputs and the nodes.
    """
    (inputs, more_inputs), (capacity, more) = change.inputs, change.capacity
    if axis == "rows":
        if capacity == more:
            return tensor
        made = tensor.new_full((more, *tensor.shape[1:]), fresh)
        made[:capacity] = tensor.detach()
        return made
    if not change.reshapes:
        return tensor
    made = tensor.new_full((*tensor.shape[:-1], more_inputs + more), fresh)
    made[..., :inputs] = tensor.detach()[..., :inputs]
    made[..., more_inputs : more_inputs + capacity] = tensor.detach()[..., inputs:]
    return made


def move_state(
    state: Mapping[str, Any],
    change: Change,
    axis: Axis,
    parameter: Tensor,
    group: Mapping[str, Any],
) -> None:
    """`move` for an optimizer's state of one parameter, in place, after the parameter itself has moved.

    New and freed rows get the state that a new optimizer has; a node split off another one copies its state.
    The counter of steps is the whole parameter's and stays. group: the optimizer's hyperparameters.
    """
    for key, value in state.items():
        if isinstance(value, torch.Tensor) and key not in COUNTERS:
            move(value, change, axis, _FRESH.get(key, _zero)(parameter.detach(), group))


def grown_state(
    state: Mapping[str, Any],
    change: Change,
    axis: Axis,
    parameter: Tensor,
    group: Mapping[str, Any],
) -> dict[str, Any]:
    """`grown` for an optimizer's state of one parameter; `parameter` is the grown one."""
    found: dict[str, Any] = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor) or key in COUNTERS:
            found[key] = value
            continue
        made = grown(value, change, axis)
        fresh = _FRESH.get(key, _zero)(parameter.detach(), group)
        if made is not value:
            kept = grown(torch.ones_like(value, dtype=torch.bool), change, axis)
            made = torch.where(kept, made, torch.as_tensor(fresh, dtype=made.dtype, device=made.device))
        found[key] = made
    return found


def regrow(optimizer: Optimizer, old: Tensor, new: Tensor, change: Change, axis: Axis) -> None:
    """Let a plain optimizer train the grown parameter `new` in place of `old`, with the state it had."""
    for group in optimizer.param_groups:
        for place, parameter in enumerate(group["params"]):
            if parameter is old:
                group["params"][place] = new
                state = optimizer.state.pop(old, None)
                if state:
                    optimizer.state[new] = grown_state(state, change, axis, new, group)
                return
    raise ValueError("the optimizer does not train this parameter")


def hold(tensor: Tensor, rows: Tensor, axis: Axis) -> Callable[[], None]:
    """Take frozen entries as they are now; what comes back puts them back, after a step, say.

    Without their gradients alone, momentum and weight decay would still move them. rows: i64, places along the axis.
    """
    dim = 0 if axis == "rows" else -1
    kept = tensor.detach().index_select(dim, rows)

    def put_back() -> None:
        with torch.no_grad():
            tensor.detach().index_copy_(dim, rows, kept)

    return put_back


def _move(tensor: Tensor, change: Change, axis: Axis, fresh: float | Tensor) -> None:
    if not len(change.touched):
        return
    dim, first = (0, 0) if axis == "rows" else (-1, change.inputs[1])
    touched = torch.from_numpy(change.touched + first).to(tensor.device)
    source = torch.from_numpy(change.source).to(tensor.device)
    parts = tensor.detach().index_select(dim, source.clamp(min=0) + first)
    shape = [1] * tensor.ndim
    shape[dim] = len(touched)
    anew = fresh.index_select(dim, touched) if isinstance(fresh, torch.Tensor) else parts.new_tensor(fresh)
    parts = torch.where((source < 0).view(shape), anew, parts)
    tensor.detach().index_copy_(dim, touched, parts)


def _checked(tensor: Tensor, change: Change, axis: Axis) -> None:
    wanted = change.capacity[1] + (change.inputs[1] if axis == "columns" else 0)
    found = tensor.shape[0 if axis == "rows" else -1]
    if found != wanted:
        raise ValueError(f"a tensor with {found} {axis} cannot follow a change of {wanted}")


def fresh_state(key: str, parameter: Tensor, group: Mapping[str, Any]) -> float | Tensor:
    """What a new optimizer's state of this name is for a parameter."""
    return _FRESH.get(key, _zero)(parameter.detach(), group)


def _zero(parameter: Tensor, group: Mapping[str, Any]) -> float | Tensor:
    return 0.0


# What torch starts with where it is not zero: rprop's step sizes, adagrad's sum, and the average that asgd keeps.
_FRESH: dict[str, Callable[[Tensor, Mapping[str, Any]], float | Tensor]] = {
    "step_size": lambda parameter, group: float(group["lr"]),
    "sum": lambda parameter, group: float(group["initial_accumulator_value"]),
    "ax": lambda parameter, group: parameter,
}
