"""What a call of a model is given: sizes in their ranges, arguments, the state; and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch

from r2d2c.graph import RESET, Graph
from r2d2c.lower.builder import TORCH_DTYPES
from r2d2c.resolve.state import STATE
from r2d2c.types import TensorType, evaluate, symbol

Tensors = dict[str, torch.Tensor]


def check_ranges(name: str, graph: Graph, given: Mapping[str, Any]) -> None:
    """Raise ValueError if a dim with a range, such as ``depth: 1..8``, is outside it."""
    for port in graph.body.inputs:
        value = given.get(port.name)
        for dim, size in zip(graph.types[port.value].dims, getattr(value, "shape", ()), strict=False):
            low, high = graph.ranges.get(str(dim), (size, size))
            if not low <= size <= high:
                raise ValueError(f"{name}: `{port.name}` has {dim}={size}, the spec says {low}..{high}")


def split_arguments(
    name: str, graph: Graph, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a call gives, and apart from it the arguments, those too that it does not give.

    Raises ValueError if one is outside of what the spec says.
    """
    known = graph.arguments
    rest = {key: value for key, value in given.items() if key not in known}
    found: dict[str, Any] = {}
    for key, argument in known.items():
        value = given.get(key, argument.usual)
        value = int(value) if argument.kind == "size" and float(value).is_integer() else float(value)
        problem = argument.check(value)
        if problem is not None or (argument.kind == "size" and not isinstance(value, int)):
            raise ValueError(f"{name}: {problem or f'`{key}` is a whole number'}")
        found[key] = value
    return rest, found


def explain(
    name: str,
    graph: Graph,
    given: Mapping[str, Any],
    arguments: Iterable[str],
    default: torch.dtype,
    error: Exception,
) -> None:
    """Raise TypeError with what a user can act on, if the inputs are not what the spec says."""
    ports = {port.name: graph.types[port.value] for port in graph.body.inputs}
    problems = [f"`{key}` is missing" for key in ports if key not in given and key not in graph.hidden]
    known = {*ports, *arguments, *((STATE, RESET) if graph.states else ())}
    for key in given:
        if key == STATE and key not in known:
            problems.append(f"it keeps no state, and `{STATE}` is given")
        elif key not in known:
            problems.append(f"there is no input `{key}`")
    for key, type_ in ports.items():
        value = given.get(key)
        if value is None:
            continue
        if not isinstance(value, torch.Tensor):
            problems.append(f"`{key}` is a {type(value).__name__}, not a tensor")
            continue
        fits = value.dim() == type_.rank and all(
            not isinstance(d, int) or d == s for d, s in zip(type_.dims, value.shape, strict=False)
        )
        kind = dtype_of(type_, default)
        if not fits or kind.is_floating_point != value.dtype.is_floating_point:
            problems.append(f"`{key}` is {value.dtype} {list(value.shape)}, the spec says {type_}")
    if problems:
        raise TypeError(f"{name}: {'; '.join(problems)}") from error


def dtype_of(type_: TensorType, default: torch.dtype) -> torch.dtype:
    """The dtype of a port; ``default`` is what f32 stands for."""
    return default if type_.dtype == "f32" else TORCH_DTYPES[type_.dtype]


# -- state


class Kept(NamedTuple):
    """A carry of the state: its name, its port, its sizes behind the batch, and its dtype, None for what f32 is."""

    name: str
    port: str
    sizes: tuple[int, ...]
    dtype: torch.dtype | None


class StatePlan(NamedTuple):
    """What a call of a model does for the state, worked out beforehand in terms that `torch.compile` can trace.

    shown: the inputs that show how many samples there are, each with its rank and the axis of samples.
    """

    name: str
    states: tuple[Kept, ...]
    shown: tuple[tuple[str, int, int], ...]
    hidden: tuple[str, ...]


def plan_state(graph: Graph) -> StatePlan | None:
    """The plan of a graph; None if it keeps no state."""
    if not graph.states:
        return None
    types = {port.name: graph.types[port.value] for port in graph.body.inputs}
    states = []
    for each in graph.states:
        type_ = types[each.port]
        kind = None if type_.dtype == "f32" else TORCH_DTYPES[type_.dtype]
        states.append(Kept(each.name, each.port, tuple(evaluate(dim, {}) for dim in type_.dims[1:]), kind))
    samples = symbol("B")
    shown = [
        (name, type_.rank, type_.dims.index(samples))
        for name, type_ in types.items()
        if name not in graph.hidden and samples in type_.dims
    ]
    return StatePlan(graph.name, tuple(states), tuple(shown), tuple(sorted(graph.hidden)))


def complete(plan: StatePlan, given: Mapping[str, Any], default: torch.dtype) -> dict[str, Any]:
    """What a call gives, with the ports of the state filled in: from ``state`` and ``reset``, or of new samples.

    Whoever gives these ports by their own names has them taken as they are. Raises TypeError for a state that is
    not one of this model and batch. default: what f32 stands for.
    """
    if takes_ports(plan, given):
        return dict(given)
    rest = {key: value for key, value in given.items() if key not in (STATE, RESET)}
    state, reset = given.get(STATE), given.get(RESET)
    if state is None and reset is not None:
        message = f"`{RESET}` says which samples of a `{STATE}` start anew, and no `{STATE}` is given"
        raise TypeError(f"{plan.name}: {message}")
    found = _samples(plan, rest)
    if found is None:
        return rest  # an input is missing, or is none: `explain` says so
    samples, device = found
    if state is None:
        for each in plan.states:
            shape, kind = (samples, *each.sizes), each.dtype or default
            rest[each.port] = torch.zeros(shape, dtype=kind, device=device)
        rest[RESET] = torch.ones(samples, dtype=torch.bool, device=device)
        return rest
    _check_state(plan, state)
    for each in plan.states:
        shape, kind = (samples, *each.sizes), each.dtype or default
        value = state[each.name]
        _check_tensor(f"{plan.name}: `{each.name}` of the state", value, shape, kind, device)
        rest[each.port] = value.detach()
    if reset is None:
        rest[RESET] = torch.zeros(samples, dtype=torch.bool, device=device)
    else:
        _check_tensor(f"{plan.name}: `{RESET}`", reset, (samples,), torch.bool, device)
        rest[RESET] = reset
    return rest


def takes_ports(plan: StatePlan, given: Mapping[str, Any]) -> bool:
    """Whether a call names the ports of the state themselves, and so gets them back by these names."""
    return any(each.port in given for each in plan.states)


def _samples(plan: StatePlan, given: Mapping[str, Any]) -> tuple[int, torch.device] | None:
    """How many samples a call is about, and where they are."""
    for name, rank, axis in plan.shown:
        value = given.get(name)
        if isinstance(value, torch.Tensor) and value.dim() == rank:
            return value.shape[axis], value.device
    return None


def _check_state(plan: StatePlan, state: Any) -> None:
    if not isinstance(state, Mapping):
        kind = type(state).__name__
        raise TypeError(
            f"{plan.name}: `{STATE}` is a {kind}, not what a call of this model gives as `{STATE}`"
        )
    known = {each.name for each in plan.states}
    missing, more = sorted(known - set(state)), sorted(map(str, set(state) - known))
    if missing or more:
        said = [f"has no `{key}`" for key in missing]
        said += [f"has `{key}`, which this model does not keep" for key in more]
        raise TypeError(f"{plan.name}: the state is one of another spec: it {'; it '.join(said)}")


def _check_tensor(
    what: str, value: Any, shape: tuple[int, ...], kind: torch.dtype, device: torch.device
) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} is a {type(value).__name__}, not a tensor")
    if tuple(value.shape) == shape and value.dtype == kind and value.device == device:
        return
    if value.dim() and tuple(value.shape[1:]) == shape[1:] and len(value) != shape[0]:
        raise TypeError(f"{what} is of {len(value)} samples, and the batch has {shape[0]}")
    here = f"{kind} {list(shape)} on {device}"
    raise TypeError(f"{what} is {value.dtype} {list(value.shape)} on {value.device}, and here it is {here}")


def state_of(plan: StatePlan, outputs: Mapping[str, torch.Tensor], default: torch.dtype) -> Tensors:
    """The state among outputs by their ports' names. default: what f32 stands for.

    Under autocast it may have come in fewer bits; a next call takes it as the spec declares it.
    """
    return {each.name: outputs[each.port].detach().to(each.dtype or default) for each in plan.states}


def with_state(plan: StatePlan, outputs: Mapping[str, torch.Tensor], default: torch.dtype) -> dict[str, Any]:
    """Outputs with the state as one of them. default: what f32 stands for."""
    shown = {key: value for key, value in outputs.items() if key not in plan.hidden}
    return {**shown, STATE: state_of(plan, outputs, default)}
