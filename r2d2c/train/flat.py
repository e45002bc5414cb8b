"""`FlatStep`: many small parameters laid out in one buffer and stepped as one.

The parameters' ``data`` and ``grad`` become views of flat buffers, so nothing is gathered or scattered in a
step. State goes in and out by parameter name, so a checkpoint does not show whether its run was flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2d2c.source import Span
from r2d2c.train.checkpoint import (
    Packed,
    check_state,
    pack_state,
    packed_state,
    place_state,
    restore_groups,
)
from r2d2c.train.optimizers import COUNTERS, OptimizerRecord, build_optimizer

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

SMALL = 16_384  # elements; from here on a parameter's own kernel costs more than its call
_ALIGN = 64  # bytes: kernels may take other paths, with other roundings, on memory that is not so aligned


@dataclass(frozen=True, slots=True, eq=False)
class _Flat:
    """One buffer: the parameter torch's optimizer sees, and of every member its name and its views."""

    parameter: Tensor
    names: tuple[str, ...]
    offsets: tuple[int, ...]
    members: tuple[Tensor, ...]
    data: tuple[Tensor, ...]
    grads: tuple[Tensor, ...]


class FlatStep:
    """One optimizer over named parameters, the small of them as one tensor (per dtype and device).

    Every parameter has a gradient at each step, zero where no loss reached it (as after torch's
    ``zero_grad(set_to_none=False)``), so give it only parameters that are trained. Use its own `zero_grad`
    and `step`. After ``model.to(...)`` or other changes of the parameters' memory it must be built anew.
    Raises `ValueError` for an optimizer that is not elementwise.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        record: OptimizerRecord,
        arguments: Mapping[str, Any] | None = None,
        *,
        small: int = SMALL,
        span: Span | None = None,
    ) -> None:
        if not record.elementwise:
            raise ValueError(f"{record.name} is not elementwise")
        self.parameters = dict(parameters)
        self.record = record
        self._small = small
        self._alone: dict[str, Tensor] = {}
        self._flats: list[_Flat] = []
        self._lay_out({})
        self.optimizer: Optimizer = build_optimizer(record, arguments or {}, self._tensors(), span)
        """torch's own optimizer, over the flat buffers and then the large parameters: for schedules, say."""

    def _tensors(self) -> list[Tensor]:
        return [*(flat.parameter for flat in self._flats), *self._alone.values()]

    def _lay_out(self, signatures: Mapping[str, object]) -> None:
        """Group the small parameters; those in one buffer share their counters, so their signature."""
        groups: dict[object, dict[str, Tensor]] = {}
        self._alone = {}
        for name, parameter in self.parameters.items():
            if parameter.numel() > self._small or not parameter.is_contiguous():
                self._alone[name] = parameter
            else:
                key = (parameter.dtype, parameter.device, signatures.get(name))
                groups.setdefault(key, {})[name] = parameter
        # A group of one too: in a padded buffer every element goes through the same vector instructions, so
        # its step does not depend on how many others there are.
        self._flats = [_flatten(members) for members in groups.values()]

    def zero_grad(self) -> None:
        """Set every gradient to zero: one fill for all small parameters."""
        for flat in self._flats:
            assert flat.parameter.grad is not None
            flat.parameter.grad.zero_()
            for parameter, grad in zip(flat.members, flat.grads, strict=True):
                if parameter.grad is not grad:
                    parameter.grad = grad
        for parameter in self._alone.values():
            if parameter.grad is not None:
                parameter.grad.zero_()

    def gradients(self) -> list[Tensor]:
        """The gradients of all parameters, as few tensors. One that was replaced is taken over; None is zero."""
        import torch

        for flat in self._flats:
            # Identity is enough, as we hold the views; 2,000 of these tests are a small part of a step.
            astray = [
                (parameter, grad)
                for parameter, grad in zip(flat.members, flat.grads, strict=True)
                if parameter.grad is not grad
            ]
            for parameter, grad in astray:
                if parameter.grad is None:
                    grad.zero_()
                else:
                    grad.copy_(parameter.grad)
                parameter.grad = grad
        for parameter in self._alone.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [tensor.grad for tensor in self._tensors() if tensor.grad is not None]

    def step(self) -> None:
        """One step of all parameters. A gradient that was replaced is taken over; None is zero."""
        self.gradients()
        self.optimizer.step()

    def check(self) -> None:
        """Raise `RuntimeError` if a parameter no longer lies in its buffer: a step would not reach it."""
        for flat in self._flats:
            for name, parameter, view in zip(flat.names, flat.members, flat.data, strict=True):
                if parameter.data_ptr() != view.data_ptr() or parameter.dtype != view.dtype:
                    raise RuntimeError(f"the memory of `{name}` was replaced: build a new FlatStep")

    def state(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state by parameter name; its tensors are views of the flat state."""
        import torch

        state: dict[str, dict[str, Any]] = {}
        for flat in self._flats:
            values = self.optimizer.state.get(flat.parameter)
            if not values:
                continue
            for name, offset, member in zip(flat.names, flat.offsets, flat.members, strict=True):
                end = offset + member.numel()
                state[name] = {
                    key: value[offset:end].view(member.shape)
                    if isinstance(value, torch.Tensor) and key not in COUNTERS
                    else value
                    for key, value in values.items()
                }
        for name, parameter in self._alone.items():
            if self.optimizer.state.get(parameter):
                state[name] = dict(self.optimizer.state[parameter])
        return {name: state[name] for name in self.parameters if name in state}

    def pack(self) -> Packed:
        """As `pack_optimizer` gives of a plain optimizer over the same parameters."""
        (group,) = self.optimizer.param_groups
        return pack_state(self.state(), [{**group, "params": list(self.parameters)}])

    def unpack(self, packed: Packed) -> None:
        """Take over a packed state, of a flat or a plain optimizer; E521 if it is of other parameters.

        Parameters with other counters (some joined later) get buffers of their own.
        """
        state = packed_state(packed)
        check_state(state, self.parameters)
        restore_groups(self.optimizer, packed)
        self._lay_out({name: _signature(state.get(name)) for name in self.parameters})
        # The same optimizer object, as a schedule holds on to it.
        self.optimizer.state.clear()
        group = self.optimizer.param_groups[0]
        group["params"] = self._tensors()
        for name, parameter in self._alone.items():
            if state.get(name):
                self.optimizer.state[parameter] = place_state(state[name], parameter, group)
        for flat in self._flats:
            if state.get(flat.names[0]):
                joined = _joined(flat, [state[name] for name in flat.names])
                self.optimizer.state[flat.parameter] = place_state(joined, flat.parameter, group)


def _flatten(members: Mapping[str, Tensor]) -> _Flat:
    """Move parameters (of one dtype and device) into one buffer, with the gradients they have."""
    import torch

    first = next(iter(members.values()))
    step = max(1, _ALIGN // first.element_size())
    offsets, end = [], 0
    for parameter in members.values():
        offsets.append(end)
        end += -(-parameter.numel() // step) * step
    # The gaps are zeros with zero gradients, and stay so in every elementwise optimizer.
    buffer, grad = (torch.zeros(end, dtype=first.dtype, device=first.device) for _ in range(2))
    data, grads = [], []
    with torch.no_grad():
        for parameter, offset in zip(members.values(), offsets, strict=True):
            place = slice(offset, offset + parameter.numel())
            view, grad_view = buffer[place].view(parameter.shape), grad[place].view(parameter.shape)
            view.copy_(parameter)
            if parameter.grad is not None:
                grad_view.copy_(parameter.grad)
            parameter.data = view
            parameter.grad = grad_view
            data.append(view)
            grads.append(grad_view)
    flat = torch.nn.Parameter(buffer)
    flat.grad = grad
    return _Flat(flat, tuple(members), tuple(offsets), tuple(members.values()), tuple(data), tuple(grads))


def _signature(state: Mapping[str, Any] | None) -> object:
    """What parameters in one buffer must share: the names of their state, and the values of its counters."""
    import torch

    if not state:
        return None
    return tuple(
        (key, value.item() if key in COUNTERS else "tensor")
        if isinstance(value, torch.Tensor)
        else (key, value)
        for key, value in sorted(state.items())
    )


def _joined(flat: _Flat, states: list[dict[str, Any]]) -> dict[str, Any]:
    """One state for the buffer from those of its members."""
    import torch

    joined: dict[str, Any] = {}
    for key, value in states[0].items():
        if not isinstance(value, torch.Tensor) or key in COUNTERS:
            joined[key] = value
            continue
        whole = torch.zeros(flat.parameter.shape, dtype=value.dtype)
        for offset, state in zip(flat.offsets, states, strict=True):
            whole[offset : offset + state[key].numel()] = state[key].flatten().to("cpu")
        joined[key] = whole
    return joined
