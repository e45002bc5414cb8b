"""Ops that move, join, cut and regroup axes: what they say of where the entries of a grown one are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from r2d2c.graph import Node, Region, Value
from r2d2c.loops import loop_of
from r2d2c.ops.indexing import _bound, _per_axis
from r2d2c.ops.patterns import _open, _parse
from r2d2c.ops.products import _indices, _terms
from r2d2c.ops.record import Op
from r2d2c.source import Span
from r2d2c.train.transplant_axes import Cat, Group, Pairs, Part, Sub, System, Var, plain, renamed
from r2d2c.types import TensorType


@dataclass(frozen=True, slots=True)
class Mixed:
    """Why the old outputs need not be what they were: an op that makes one number of old and new units, say."""

    what: str
    origin: Span | None


@dataclass(slots=True)
class Axes:
    """Where old entries lie. inner: the axes of parameters along which units are read. mixed: what may not stay as it was."""

    pairs: Pairs
    ops: Mapping[str, Op]
    inner: dict[str, set[int]] = field(default_factory=dict)
    mixed: list[Mixed] = field(default_factory=list)

    @property
    def system(self) -> System:
        return self.pairs.system


def moved(node: Node, rank: int) -> list[int]:
    """Of every axis that a `transpose` or `permute` gives, which one it was."""
    if node.op == "permute":
        return [axis % rank for axis in node.attrs["axes"]]
    order, a, b = list(range(rank)), node.attrs["a"] % rank, node.attrs["b"] % rank
    order[a], order[b] = b, a
    return order


class Relations:
    """The axes of two flat graphs, and what ops say of them: the part that is about axes alone."""

    def __init__(self, axes: Axes) -> None:
        self.axes, self.pairs, self.system = axes, axes.pairs, axes.system
        self.new = self.pairs.new
        self.both: list[tuple[Region, Node, Node]] = []
        # Values that are parameters, and which of a parameter's axes theirs are.
        self.storage: dict[Value, str] = {}
        self.axes_of: dict[Value, tuple[int | None, ...]] = {}
        self.before: dict[str, Node] = {}
        self.made = 0
        # Of every sliced axis, the slices: where they begin before and now, and how much they are.
        self.taken: dict[Var, list[tuple[int, int, Part, Node]]] = {}

    def same(self, one: tuple[Value | None, int], other: tuple[Value | None, int]) -> None:
        self.system.union(self.pairs.var(*one), self.pairs.var(*other))

    def rank(self, value: Value | None) -> int:
        """How many axes a value has; what credit rules add late has no type, and none."""
        type_ = None if value is None else self.new.types.get(value)
        return 0 if type_ is None else type_.rank

    def inner(self, value: Value | None, axis: int) -> None:
        """Note an axis of a parameter along which units are read."""
        axes = self.axes_of.get(value, ()) if value is not None else ()
        found = axes[axis] if -len(axes) <= axis < len(axes) else None
        if value is not None and found is not None:
            self.axes.inner.setdefault(self.storage[value], set()).add(found)

    def trace(self, node: Node) -> None:
        """Where a value is a parameter with its axes in another order, which they are."""
        if node.op == "loop":
            ports = self.new.regions[node.attrs["region"]].inputs
            for place, (value, port) in enumerate(zip(node.inputs, ports, strict=True)):
                if value in self.storage:
                    loop = loop_of(node)
                    stacked = len(loop.carries) <= place < len(loop.carries) + loop.sequences
                    self.parameter(port.value, self.storage[value], self.axes_of[value][stacked:])
            return
        x, out = node.inputs[0] if node.inputs else None, Value(node.id)
        if node.op == "param":
            self.parameter(out, node.attrs["storage"], tuple(range(self.rank(out))))
        elif x is not None and x in self.storage:
            axes, rank = list(self.axes_of[x]), self.rank(x)
            if node.op in ("learned", "stop", "cast"):
                self.parameter(out, self.storage[x], tuple(axes))
            elif node.op in ("transpose", "permute"):
                self.parameter(out, self.storage[x], tuple(axes[k] for k in moved(node, rank)))
            elif node.op == "unsqueeze":
                axes.insert(node.attrs["axis"] % (rank + 1), None)
                self.parameter(out, self.storage[x], tuple(axes))

    def parameter(self, value: Value, name: str, axes: tuple[int | None, ...]) -> None:
        self.storage[value], self.axes_of[value] = name, axes

    def part(self, value: Value, before: Value | None, axis: int) -> Part | None:
        sizes = self.pairs.sizes(value, before)
        if sizes is None or not -len(sizes) <= axis < len(sizes):
            return None
        old, new = (plain(size) for size in sizes[axis])
        return None if old is None or new is None else Part((old, new), self.pairs.var(value, axis))

    def fresh(self, sizes: tuple[int, int], name: str) -> Part:
        """An axis that no value has by itself."""
        if sizes[0] >= sizes[1]:
            return Part(sizes, None)
        self.made += 1
        var: Var = (f"{name} {self.made}", 0)
        self.system.sizes[var] = sizes
        self.system.first.add(var)
        return Part(sizes, var)

    def joined(
        self, whole: Var | None, parts: Sequence[Part | None], node: Node, *, cross: bool = False
    ) -> None:
        """The axis is made of parts."""
        known = [part for part in parts if part is not None]
        if whole is None:
            return
        if len(known) < len(parts):
            self.system.doubt(whole, f"`{node.op}` makes it of sizes that are not known", node.origin)
            return
        kind = Group if cross else Cat
        self.system.relations.append(kind(whole, tuple(known), node))

    def was(self, value: Value) -> Value | None:
        """The value of the old graph that this one goes on from."""
        before = self.before.get(value.node)
        return None if before is None else Value(before.id, value.port)

    def leading(self, x: Value | None, out: Value, behind: int) -> None:
        """All axes but the last are the same."""
        if x is not None:
            for axis in range(self.rank(x) - behind):
                self.same((x, axis), (out, axis))

    def whole(self, one: Value | None, other: Value) -> None:
        if one is not None:
            for axis in range(min(self.rank(one), self.rank(other))):
                self.same((one, axis), (other, axis))

    def aligned(self, value: Value | None, out: Value) -> None:
        """As broadcasting has it: the last axes stand below each other."""
        if value is not None:
            for axis in range(1, min(self.rank(value), self.rank(out)) + 1):
                self.same((value, -axis), (out, -axis))

    def joining(self, node: Node, before: Node) -> None:
        out, x = Value(node.id), node.inputs[0]
        assert x is not None
        rank = self.rank(out)
        axis = node.attrs["axis"] % rank
        outs = [Value(node.id, port) for port in range(len(node.outputs))]
        around = [*outs, *(value for value in node.inputs if value is not None)]
        for value in around:
            for other in range(rank):
                if other != axis:
                    self.same((value, other), (out, other))
        if node.op == "concat":
            self.joined(self.pairs.var(out, axis), self.pieces(node, before, axis), node)
        else:
            made = [outs[0], outs[0]] if node.op == "glu" else outs
            self.joined(self.pairs.var(x, axis), [self.part(v, self.was(v), axis) for v in made], node)

    def pieces(self, node: Node, before: Node, axis: int) -> list[Part | None]:
        """What a `concat` joins. Something new among it has no old entries; the others stay in their order."""
        parts: list[Part | None] = []
        left = list(before.inputs)
        for value in node.inputs:
            was = None if value is None else self.was(value)
            new = None if value is None else plain(self.new.types[value].dims[axis])
            if value is not None and was is not None and left and was == left[0]:
                parts.append(self.part(value, left.pop(0), axis))
            else:
                parts.append(None if new is None else Part((0, new), None))
        return [None] if left else parts

    def reshape(self, node: Node, before: Node) -> None:
        x, was = node.inputs[0], before.inputs[0]
        if x is None or was is None:
            return
        ins, outs = self.pairs.sizes(x, was), self.pairs.sizes(Value(node.id), Value(before.id))
        if ins is None or outs is None:
            return
        out, low, high = Value(node.id), 0, 0
        while low < min(len(ins), len(outs)) and ins[low] == outs[low]:
            self.same((x, low), (out, low))
            low += 1
        while high < min(len(ins), len(outs)) - low and ins[-1 - high] == outs[-1 - high]:
            high += 1
            self.same((x, -high), (out, -high))
        inside = [self.part(x, was, axis) for axis in range(low, len(ins) - high)]
        outside = [self.part(out, Value(before.id), axis) for axis in range(low, len(outs) - high)]
        if len(inside) == 1:
            self.joined(self.pairs.var(x, low), outside, node, cross=True)
        elif len(outside) == 1:
            self.joined(self.pairs.var(out, low), inside, node, cross=True)
        else:
            for axis in range(low, len(outs) - high):
                what = f"`{node.op}` regroups several axes at once"
                self.system.doubt(self.pairs.var(out, axis), what, node.origin)

    def pattern(self, node: Node, before: Node) -> None:
        x, was, out = node.inputs[0], before.inputs[0], Value(node.id)
        if x is None or was is None or node.attrs["pattern"] != before.attrs["pattern"]:
            return
        left, right = _parse(node.attrs["pattern"])
        hidden = self.rank(x) - (len(left) - 1) if ("...",) in left else 0
        left, right = _open(left, hidden), _open(right, hidden)
        names: dict[str, Part | None] = {}
        for side, value, old in ((left, x, was), (right, out, Value(before.id))):
            for axis, group in enumerate(side):
                if len(group) == 1:
                    part = self.part(value, old, axis)
                    if names.get(group[0]) is not None and part is not None:
                        self.system.union(names[group[0]].var, part.var)  # type: ignore[union-attr]
                    else:
                        names[group[0]] = part
        lengths = {
            name: (before.attrs["lengths"].get(name), size) for name, size in node.attrs["lengths"].items()
        }
        for name, (old_size, new_size) in lengths.items():
            sizes = plain(old_size), plain(new_size)
            if name not in names and None not in sizes:
                names[name] = self.fresh(sizes, f"{node.id} {name}")  # type: ignore[arg-type]
        for side, value in ((left, x), (right, out)):
            for axis, group in enumerate(side):
                if len(group) > 1:
                    self.joined(self.pairs.var(value, axis), [names.get(n) for n in group], node, cross=True)

    def einsum(self, node: Node) -> None:
        values = [value for value in node.inputs if value is not None]
        operands, right = _terms(node.attrs["pattern"], len(values))
        letters: dict[str, tuple[Value, int]] = {}
        out = Value(node.id)
        head, _, tail = right.partition("...")
        shown = _indices(right, self.rank(out)) if head or tail or right else []
        for value, indices in [
            *((v, _indices(o, self.rank(v))) for v, o in zip(values, operands, strict=True)),
            (out, shown),
        ]:
            for axis, letter in enumerate(indices):
                if self.pairs.var(value, axis) is not None:
                    self.same(letters.setdefault(letter, (value, axis)), (value, axis))
                if value != out and letter not in shown:
                    self.inner(value, axis)

    def reduced(self, node: Node, out: Value, x: Value | None, rank: int) -> None:
        given = node.attrs.get("axes", node.attrs.get("axis"))
        axes = range(rank) if given is None else (given,) if isinstance(given, int) else given
        gone = {axis % rank for axis in axes}
        kept = [axis for axis in range(rank) if node.attrs.get("keep") or axis not in gone]
        for place, axis in enumerate(kept):
            if axis not in gone:
                self.same((x, axis), (out, place))

    def slices(self, node: Node) -> None:
        """Parts of an axis. Where all slices of it together are the whole, it is made of them."""
        x, was = node.inputs[0], self.pairs.theirs.get(renamed(node.id, self.pairs.names))
        if x is None or was is None:
            return
        items, old = (_per_axis(n.attrs["items"], len(t.dims)) for n, t in self.both_types(node, was))
        out_axis = 0
        for axis, (item, before) in enumerate(zip(items, old, strict=True)):
            if not isinstance(item, tuple):
                continue
            self.slice_axis(node, was, x, axis, out_axis, item, before)
            out_axis += 1

    def both_types(self, node: Node, was: Node) -> list[tuple[Node, TensorType]]:
        assert node.inputs[0] is not None and was.inputs[0] is not None
        return [(node, self.new.types[node.inputs[0]]), (was, self.pairs.old.types[was.inputs[0]])]

    def slice_axis(
        self, node: Node, was: Node, x: Value, axis: int, out_axis: int, item: Any, old: Any
    ) -> None:
        whole, out = self.pairs.var(x, axis), Value(node.id)
        if whole is None or not isinstance(old, tuple):
            return
        ranges = []
        for entry, size in ((old, self.system.sizes[whole][0]), (item, self.system.sizes[whole][1])):
            start, stop = _bound(entry[1], 0, size), _bound(entry[2], size, size)
            if entry[3] not in (None, 1) or plain(start) is None or plain(stop) is None:
                self.system.doubt(self.pairs.var(out, out_axis), "`slice` takes every so many", node.origin)
                return
            ranges.append((int(start), int(stop)))  # type: ignore[arg-type]
        (from_old, to_old), (from_new, to_new) = ranges
        sizes = to_old - from_old, to_new - from_new
        if (from_old, from_new) == (0, 0) and sizes == self.system.sizes[whole]:
            self.system.union(whole, self.pairs.var(out, out_axis))
            return
        self.taken.setdefault(whole, []).append(
            (from_old, from_new, Part(sizes, self.pairs.var(out, out_axis)), node)
        )

    def tile(self) -> None:
        """Of every sliced axis: what its slices make of it."""
        for whole, slices in self.taken.items():
            different: dict[tuple[int, int], tuple[int, int, Part, Node]] = {}
            for taken in slices:
                first = different.setdefault(taken[:2], taken)
                if first[2].sizes == taken[2].sizes:
                    self.system.union(first[2].var, taken[2].var)
            ordered = [different[key] for key in sorted(different)]
            ends = [(0, 0)]
            for before, now, part, _ in ordered:
                ends.append((before + part.sizes[0], now + part.sizes[1]))
            starts = [(before, now) for before, now, *_ in ordered]
            if [*starts, self.system.sizes[whole]] == ends:
                parts = tuple(part for _, _, part, _ in ordered)
                self.system.relations.append(Cat(whole, parts, ordered[0][3]))
            else:
                self.system.relations += [
                    Sub(whole, part, before, now, at) for before, now, part, at in slices
                ]
