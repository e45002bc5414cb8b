"""Whether the steps of a loop may be computed all at once, as samples of one batch.

They may where no gradient goes over a carry from one step to the next, and where a step treats every sample for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from r2d2c.graph import Graph, Node, Region, Value
from r2d2c.infer import Signatures
from r2d2c.loops import loop_of
from r2d2c.ops.record import ShapeError
from r2d2c.passes.reach import Reach
from r2d2c.types import Dim, TensorType, symbol

BATCH = "B"
# What gives every sample the same, so that it may be given for any number of samples.
SAME = ("zeros", "ones", "full", "expand")
_CORE = ("port", "param", "constant", "size", "argument", "stop")


def of_samples(type_: TensorType) -> bool:
    """Whether the first axis is that of the samples, or of so many parts of each of them."""
    return bool(type_.dims) and _mentions(type_.dims[0])


def _mentions(dim: object) -> bool:
    return isinstance(dim, Dim) and BATCH in dim.symbols()


def _first_alone(type_: TensorType) -> bool:
    """Whether samples lie along the first axis, as the outer ones of B·k rows, or along none."""
    first, *others = type_.dims or (1,)
    if any(_mentions(dim) for dim in others):
        return False
    if not isinstance(first, Dim) or not _mentions(first):
        return True
    # A polynomial in which every term has one B as a plain factor.
    return all(sum(atom == BATCH for atom in atoms) == 1 for atoms, _ in first.terms) and all(
        isinstance(atom, str) for atoms, _ in first.terms for atom in atoms
    )


def free_carries(graph: Graph, node: Node, signatures: Signatures) -> frozenset[int] | None:
    """The carries whose next value takes no gradient at all; None where one goes over the edge of some carry.

    No gradient is taken of a carry's port where it starts as a constant, and then is cut or has such a next value.
    """
    loop = loop_of(node)
    if any(carry.credit == "eprop" for carry in loop.carries):
        return None
    free = _free(graph, node, signatures)
    return free if all(c.credit == "local" or k in free for k, c in enumerate(loop.carries)) else None


def _free(graph: Graph, node: Node, signatures: Signatures) -> frozenset[int]:
    loop, step = loop_of(node), graph.regions[node.attrs["region"]]
    carries = range(len(loop.carries))
    inside = Reach(graph.with_(main=step.name), signatures.ops, ports=True)
    leaves = [inside.cone([step.outputs[k].value]).leaves for k in carries]
    constant = _constant(graph, [node.inputs[k] for k in carries], signatures)
    local = {k for k in carries if loop.carries[k].credit == "local"}
    free, before = set(carries), set[int]()
    while free != before:
        before = free
        silent = {step.inputs[k].value for k in carries if k in constant and (k in local or k in free)}
        free = {k for k in free if leaves[k] <= silent}
    return frozenset(free)


def _constant(graph: Graph, values: list[Value | None], signatures: Signatures) -> set[int]:
    """Which of some values no gradient is ever taken of; the inputs of a model may want theirs, but not its state."""
    reach = Reach(graph, signatures.ops, ports=True)
    hidden = {port.value for port in graph.body.inputs if port.name in graph.hidden}
    found = set()
    for position, value in enumerate(values):
        cone = reach.cone([value] if value is not None else [])
        if not cone.params and cone.leaves <= hidden:
            found.add(position)
    return found


def independent(graph: Graph, node: Node, signatures: Signatures, training: bool) -> bool:
    """Whether a step computes for n·B samples what n steps compute for B: nothing couples samples, nothing is drawn."""
    loop, step = loop_of(node), graph.regions[node.attrs["region"]]
    types = graph.types
    per_step = len(loop.carries) + loop.sequences
    for position, port in enumerate(step.inputs):
        type_ = types.get(port.value)
        if type_ is None or not _first_alone(type_):
            return False
        if position < per_step and type_.dims[:1] != (symbol(BATCH),):
            return False
    return all(_apart(graph, each, signatures, training) for each in step.nodes)


def why_not(graph: Graph, node: Node, signatures: Signatures, halts: bool = False) -> str:
    """Why a loop runs step by step while it learns; nothing if it runs in two phases. No torch.

    halts: it is in a loop whose samples halt.
    """
    loop, step = loop_of(node), graph.regions[node.attrs["region"]]
    if not loop.over:
        return "it goes over no sequence"
    if halts or loop.halt is not None:
        return "samples halt"
    if loop.recompute:
        return "its steps are computed again for the backward"
    if any(carry.credit == "eprop" for carry in loop.carries):
        return "it learns by e-prop"
    free = _free(graph, node, signatures)
    for k, carry in enumerate(loop.carries):
        if carry.credit != "local" and k not in free:
            return f"a gradient goes from step to step over `{carry.name}`"
    if independent(graph, node, signatures, True):
        return ""
    found = next((each for each in step.nodes if not _apart(graph, each, signatures, True)), None)
    if found is None or found.op in _CORE:
        return "what a step reads has samples elsewhere than along the first axis"
    op = signatures.ops.get(found.op)
    if op is not None and "random" in op.traits:
        return f"`{found.op}` draws random numbers"
    if found.op == "loop":
        return f"the loop `{loop_of(found).name}` is in its step"
    return f"`{found.op}` may mix samples, or counts them"


def _apart(graph: Graph, node: Node, signatures: Signatures, training: bool) -> bool:
    types = graph.types
    outputs = [types.get(Value(node.id, port)) for port in range(len(node.outputs))]
    if any(type_ is None or not _first_alone(type_) for type_ in outputs):
        return False
    if node.op in _CORE:
        return node.op != "size" or not _mentions(node.attrs["dim"])
    op = signatures.ops.get(node.op)
    if op is None or any(output.startswith("new_") for output in op.outputs):
        return False
    if "random" in op.traits and (training or "train_only" not in op.traits):
        return False
    given = [types.get(value) if value is not None else None for value in node.inputs]
    sizes = {arg.name for arg in op.attributes if arg.kind in ("size", "sizes")}
    if any(name not in sizes and any(map(_mentions, _parts(v))) for name, v in node.attrs.items()):
        return False
    samples = any(type_ is not None and of_samples(type_) for type_ in given)
    for type_ in outputs:
        assert type_ is not None
        if of_samples(type_) != samples and (samples or node.op not in SAME):
            return False
    return not samples or not _couples(node, signatures, given)


def _couples(node: Node, signatures: Signatures, given: list[Any]) -> bool:
    op = signatures.ops[node.op]
    if op.mixes is None:
        return False
    space = signatures[node.op].namespace(node, given)
    try:
        mixed = op.mixes(space)
    except ShapeError:
        return True
    for argument, axis in mixed:
        value = getattr(space, argument, None)
        for type_ in value if isinstance(value, list) else [value]:
            if isinstance(type_, TensorType) and axis < type_.rank and _mentions(type_.dims[axis]):
                # Slots as rows and back: a sample's rows stay together.
                if axis == 0 and node.op in ("slots_as_samples", "samples_as_slots"):
                    continue
                return True
    return False


def _parts(value: object) -> Iterator[object]:
    """The dims in an attribute."""
    if isinstance(value, tuple | list) and not isinstance(value, Dim):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def slice_of(step: Region, wanted: list[Value], given: set[Value]) -> tuple[list[Node], list[Value]]:
    """The nodes that lead to ``wanted``, in order, where the values ``given`` are known; and which of those are read."""
    made = {node.id: node for node in step.nodes}
    needed: set[str] = set()
    read: dict[Value, None] = {}
    stack = list(wanted)
    while stack:
        value = stack.pop()
        if value in given:
            read[value] = None
        elif value.node not in needed:
            needed.add(value.node)
            stack.extend(v for v in made[value.node].inputs if v is not None)
    return [node for node in step.nodes if node.id in needed], list(read)
