"""What the step of a loop's carries is spared, since it runs so often: twice the same, and what no step changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx

from r2d2c.graph import Region
from r2d2c.loops import Loop
from r2d2c.lower.parts import Part

# What is the same at every step, of the arguments of a part.
FIXED = ("rest", "same", "base", "bin", "weights")
KEPT = ("slots", "products")
TENSORS = ("carry", "element", "base")
# The most digits of ages that are looked up.
LONGEST = 12


@dataclass(frozen=True, slots=True)
class Tidy:
    """A part that takes the results of ``before`` as its last arguments; those are the same at every step."""

    part: Part
    before: Part


def tidied(part: Part) -> Tidy:
    """A part in two: what depends on nothing that changes from step to step, and the rest."""
    graph = part.graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    kinds = [source.kind for source in part.sources] + ["rest"] * len(part.sizes)
    share(graph, next((n for n, kind in zip(places, kinds, strict=True) if kind in TENSORS), None))
    fixed = {node for node, kind in zip(places, kinds, strict=True) if kind in FIXED}
    # A view of what is kept in place shows what is written there.
    fixed |= {node for node, kind in zip(places, kinds, strict=True) if kind in KEPT}
    inputs = set(fixed)
    shown = {node for node, kind in zip(places, kinds, strict=True) if kind in KEPT}
    for node in graph.nodes:
        if any(each in shown for each in node.all_input_nodes):
            if node.target is not torch.unflatten:
                continue
            shown.add(node)
        device = node.target is getattr and node.args[0] in places
        if _pure(node) and (device or all(each in fixed for each in node.all_input_nodes)):
            fixed.add(node)
    crossing = [node for node in fixed - inputs if any(user not in fixed for user in node.users)]
    crossing.sort(key=list(graph.nodes).index)
    first, second = fx.Graph(), fx.Graph()
    early: dict[fx.Node, Any] = {}
    late: dict[fx.Node, Any] = {}
    for node in places:
        early[node], late[node] = (g.placeholder(str(node.target)) for g in (first, second))
    for node in crossing:
        late[node] = second.placeholder(f"{node.name}_")
    for node in graph.nodes:
        if node in fixed and node not in inputs:
            early[node] = first.node_copy(node, early.__getitem__)
        elif node.op not in ("placeholder", "output"):
            late[node] = second.node_copy(node, late.__getitem__)
        elif node.op == "output":
            second.output(fx.node.map_arg(node.args[0], late.__getitem__))
    first.output(tuple(early[node] for node in crossing))
    before = Part(f"{part.name}, before", first, part.sources, part.sizes, ())
    return Tidy(Part(part.name, second, part.sources, part.sizes, part.wanted), before)


def share(graph: fx.Graph, like: fx.Node | None) -> None:
    """Compute once what a graph computes twice. ``like``: a tensor that is on the device of all."""
    changed = {n.args[0] for n in graph.nodes if _changes(n) and isinstance(n.args[0], fx.Node)}
    if any(node.op != "placeholder" for node in changed):
        return
    made: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if not _pure(node):
            continue
        if node.op == "call_method" and node.target == "detach":  # nothing learns here
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            continue
        if node.target is getattr and node.args[1:] == ("device",) and like is not None:
            node.args = (like, "device")
        key = (node.target, _key(node.args), _key(dict(node.kwargs)))
        known = made.setdefault(key, node)
        if known is not node:
            node.replace_all_uses_with(known)
            graph.erase_node(node)


def _pure(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and not _changes(node)


def _changes(node: fx.Node) -> bool:
    """Whether a node changes its first argument."""
    name = str(node.target) if node.op == "call_method" else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__")


def _key(value: Any) -> Any:
    """Arguments as something to look up. A bool is another number than 1."""
    if isinstance(value, dict):
        return tuple((name, _key(part)) for name, part in sorted(value.items()))
    if isinstance(value, tuple | list):
        return tuple(_key(part) for part in value)
    if isinstance(value, slice):
        return slice, _key((value.start, value.stop, value.step))
    return (type(value), value)


# -- shorter ways


@functools.cache
def _table(count: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    with torch.inference_mode(False):
        numbers = torch.arange(2**count, device=device).unsqueeze(1)
        digits = numbers.bitwise_right_shift(torch.arange(count, device=device)) & 1
        return digits.to(dtype)


def digits(age: torch.Tensor, count: int, dtype: torch.dtype) -> torch.Tensor:
    """The op `bits` of ages, which are no less than 0, looked up."""
    return torch.embedding(_table(count, dtype, age.device), age.clamp(max=2**count - 1))


def quick_bits(b: Any, a: Any) -> Any:
    return b("r2d2c.lower.tidy.digits", a.age, int(a.n), b.dtype("f32"))


def quick_read(b: Any, a: Any) -> Any:
    """`read_slot`, by a gather."""
    x = b.type("x")
    index = b("torch.unsqueeze", a.index, 1)
    if b.type("index").dtype != "i64":
        index = b.method("to", index, torch.int64)
    for _ in x.dims[2:]:
        index = b("torch.unsqueeze", index, -1)
    if x.rank > 2:
        index = b.method("expand", index, -1, -1, *b.sizes(x.dims[2:]))
    return b("torch.squeeze", b("torch.gather", a.x, 1, index), 1)


def quick_ops(step: Region, loop: Loop, learning: bool) -> dict[str, Callable[[Any, Any], Any]]:
    """By node, a shorter way; some are for where nothing learns."""
    ages = {step.outputs[store.age].value for store in loop.memories}
    found: dict[str, Callable[[Any, Any], Any]] = {}
    for node in step.nodes:
        count = node.attrs.get("n")
        if node.op == "bits" and node.inputs[0] in ages and isinstance(count, int) and count <= LONGEST:
            found[node.id] = quick_bits
        elif node.op == "read_slot" and not learning:
            found[node.id] = quick_read
    return found
