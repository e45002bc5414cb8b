"""What the step of a loop's carries is spared, since it runs so often.

That is what it computes twice, what no step changes, and what does not depend on the steps before, which is computed for
all of them at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch.nn.functional import linear

from r2d2c.graph import Region
from r2d2c.loops import Loop
from r2d2c.lower.independent import BATCH, of_samples
from r2d2c.lower.parts import Part, Source

# What is the same at every step, of the arguments of a part.
FIXED = ("rest", "same", "base", "bin", "weights")
KEPT = ("slots", "products")
TENSORS = ("carry", "element", "base")
# The most digits of ages that are looked up.
LONGEST = 12


@dataclass(frozen=True, slots=True)
class Tidy:
    """A part that takes the results of ``before`` and of ``ahead`` as its last arguments.

    The former are the same at every step. The latter are computed for all steps at once, with n·B samples in the place of
    B. ``ahead`` takes sequences and ``counters``, the carries to which every step adds the same number.
    """

    part: Part
    before: Part
    ahead: Part
    counters: Mapping[int, int]


class _Known:
    """What is known of the nodes of a part before its steps run.

    fixed: those that are the same at every step. plain: those of them that no sample has for itself. moving: arguments
    that do not depend on the steps before. ahead: what is computed of them.
    """

    def __init__(self, part: Part, counters: Mapping[int, int]) -> None:
        self.places = [node for node in part.graph.nodes if node.op == "placeholder"]
        count = len(part.sources)
        kinds = [source.kind for source in part.sources] + ["rest"] * len(part.sizes)
        given = list(zip(self.places, kinds, strict=True))
        self.inputs = {node for node, kind in given if kind in FIXED or kind in KEPT}
        self.fixed = set(self.inputs)
        sizes = dict(zip(self.places[count:], part.sizes, strict=True))
        self.plain = {n for n, kind in given if kind in ("rest", "weights") and sizes.get(n) != BATCH}
        counting = {Source("carry", k) for k in counters}
        self.moving = {
            node
            for node, source in zip(self.places, part.sources, strict=False)
            if source.kind == "element" or source in counting
        }
        self.ahead: set[fx.Node] = set()
        # A view of what is kept in place shows what is written there.
        self.shown = {node for node, kind in given if kind in KEPT}
        for node in part.graph.nodes:
            self._look(node)

    def _look(self, node: fx.Node) -> None:
        read = node.all_input_nodes
        if any(each in self.shown for each in read):
            if node.target is not torch.unflatten:
                return
            self.shown.add(node)
        if not _pure(node):
            return
        device = node.target is getattr and node.args[0] in self.places
        if device or all(each in self.fixed for each in read):
            self.fixed.add(node)
            if device or all(each in self.plain for each in read):
                self.plain.add(node)
        elif all(each in self.plain or each in self.moving or each in self.ahead for each in read):
            self.ahead.add(node)

    def crossing(self) -> list[fx.Node]:
        """What is computed ahead and read by the rest; what has no row for every sample is not computed ahead."""
        found: list[fx.Node] = []
        nodes = self.places[0].graph.nodes if self.places else ()  # a step may read nothing at all
        for node in reversed([node for node in nodes if node in self.ahead]):
            if all(user in self.ahead for user in node.users):
                continue
            type_ = node.meta.get("type")
            if type_ is not None and of_samples(type_):
                found.append(node)
            else:
                self.ahead.discard(node)
        return found[::-1]


def tidied(part: Part, kept: Sequence[int]) -> Tidy:
    """A part in three: what no step changes, what may be computed ahead, and the rest. kept: the carries that it gives.

    The types of what the step computes, where the graph says them, are in ``meta["type"]``.
    """
    graph = part.graph
    places = [node for node in graph.nodes if node.op == "placeholder"]
    first = next((n for n, s in zip(places, part.sources, strict=False) if s.kind in TENSORS), None)
    alone = share(graph, first)
    counters = _counters(part, places, kept) if alone else {}
    known = _Known(part, counters)
    if alone and _layers(graph, known):
        share(graph, first)
        known = _Known(part, counters)
    ahead = known.crossing() if alone else []
    fixed, inputs = known.fixed, known.inputs
    crossing = [node for node in graph.nodes if node in fixed and node not in inputs]
    crossing = [node for node in crossing if any(user not in fixed for user in node.users)]
    graphs = [fx.Graph() for _ in range(3)]
    copies: list[dict[fx.Node, Any]] = [{}, {}, {}]
    for node in places:
        for made, copied in zip(graphs, copies, strict=True):
            copied[node] = made.placeholder(str(node.target))
    for node in crossing:
        for made, copied in zip(graphs[1:], copies[1:], strict=True):
            copied[node] = made.placeholder(f"{node.name}_")
    for node in ahead:
        copies[2][node] = graphs[2].placeholder(f"{node.name}_")
    for node in graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            graphs[2].output(fx.node.map_arg(node.args[0], copies[2].__getitem__))
            continue
        number = 0 if node in fixed else 1 if alone and node in known.ahead else 2
        copies[number][node] = graphs[number].node_copy(node, copies[number].__getitem__)
    graphs[0].output(tuple(copies[0][node] for node in crossing))
    graphs[1].output(tuple(copies[1][node] for node in ahead))
    before = Part(f"{part.name}, before", graphs[0], part.sources, part.sizes, ())
    early = Part(f"{part.name}, ahead", graphs[1], part.sources, part.sizes, ())
    return Tidy(Part(part.name, graphs[2], part.sources, part.sizes, part.wanted), before, early, counters)


def _counters(part: Part, places: Sequence[fx.Node], kept: Sequence[int]) -> dict[int, int]:
    """The carries to which every step adds the same whole number."""
    output = next(iter(reversed(part.graph.nodes)))
    found = {}
    for place, source in zip(places, part.sources, strict=False):
        type_ = place.meta.get("type")
        if source.kind != "carry" or source.number not in kept or type_ is None or type_.dtype != "i64":
            continue
        after = output.args[0][kept.index(source.number)]
        if isinstance(after, fx.Node) and after.target is torch.add and after.args[0] is place:
            number = after.args[1] if len(after.args) == 2 and not after.kwargs else None
            if type(number) is int:
                found[source.number] = number
    return found


def _layers(graph: fx.Graph, known: _Known) -> bool:
    """Take layers of rows in the fastest way, and in their parts, where some of what is concatenated is there ahead."""
    found = False
    for node in list(graph.nodes):
        type_ = node.meta.get("type")
        if node.target is not linear or type_ is None or type_.rank != 2 or node.args[1] not in known.fixed:
            continue
        x, weight, bias = node.args
        with graph.inserting_before(node):
            early, late = _in_parts(x, known)
            if early:
                bias = _layer(graph, early, weight, bias)
                bias.meta["type"] = type_
            parts = late if early else [(x, None)]
            made = _layer(graph, parts, weight, bias)
        made.meta.update(node.meta)
        node.replace_all_uses_with(made)
        graph.erase_node(node)
        found = True
    for node in reversed(list(graph.nodes)):
        if not node.users and _pure(node):
            graph.erase_node(node)
    return found


Columns = tuple[fx.Node, "tuple[int, int] | None"]


def _in_parts(x: Any, known: _Known) -> tuple[list[Columns], list[Columns]]:
    """What is concatenated to rows ``x``, with its columns: what is there ahead, if there is other, and the rest."""
    if x.target is not torch.cat or x.args[1] not in (1, -1):
        return [], []
    early: list[Columns] = []
    late: list[Columns] = []
    first = 0
    for part in x.args[0]:
        type_ = part.meta.get("type")
        if type_ is None or not isinstance(type_.dims[-1], int):
            return [], []
        ahead = part in known.ahead or part in known.moving
        (early if ahead else late).append((part, (first, type_.dims[-1])))
        first += type_.dims[-1]
    return (early, late) if late else ([], [])


def _layer(graph: fx.Graph, parts: Sequence[Columns], weight: Any, bias: Any) -> fx.Node:
    """``x W^T + b`` of what has some columns of all."""
    call = graph.call_function
    xs = [x for x, _ in parts]
    x = xs[0] if len(xs) == 1 else call(torch.cat, (xs, -1))
    pieces = [weight if c is None else call(torch.narrow, (weight, 1, *c)) for _, c in parts]
    columns = pieces[0] if len(pieces) == 1 else call(torch.cat, (pieces, 1))
    turned = graph.call_method("contiguous", (call(torch.t, (columns,)),))
    return call(torch.mm, (x, turned)) if bias is None else call(torch.addmm, (bias, x, turned))


def share(graph: fx.Graph, like: fx.Node | None) -> bool:
    """Compute once what a graph computes twice. ``like``: a tensor that is on the device of all.

    Not where something is changed in place besides arguments: then this gives False.
    """
    changed = {n.args[0] for n in graph.nodes if _changes(n) and isinstance(n.args[0], fx.Node)}
    if any(node.op != "placeholder" for node in changed):
        return False
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
    return True


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


def quick_choice(b: Any, a: Any) -> Any:
    """`slot_to_replace`, of scores that are least where a slot was never written."""
    return b("torch.argmin", a.score, 1)


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
