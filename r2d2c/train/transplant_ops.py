"""What every op says of the axes of its values: which grown ones are the same, and which are made of which."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from r2d2c.graph import Graph, Node, Value
from r2d2c.infer import Signatures
from r2d2c.loops import loop_of
from r2d2c.ops.record import Op, ShapeError
from r2d2c.train.transplant_axes import Pairs, plain
from r2d2c.train.transplant_shapes import Axes, Mixed, Relations, moved

# Ops that make an axis of their own, whose old entries are the first.
_MAKES = ("zeros", "ones", "full", "arange", "one_hot", "embedding", "bits", "sinusoid")
_SLOTS = ("write_slot", "advance_age", "by_age", "samples_as_slots", "top_slots", "attend_slots", "read_slot")
_POOLS = ("max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "upsample", "global_avg_pool")
_ADAPTIVE = ("adaptive_avg_pool1d", "adaptive_avg_pool2d")
_CONVS = ("conv1d", "conv2d", "feedback_conv1d", "feedback_conv2d")
_TURNED = ("conv_transpose2d", "feedback_conv_transpose2d")
_LINEARS = ("linear", "feedback_linear")
_CHANNELS = ("batch_norm", "group_norm", "instance_norm")
_REDUCE = ("sum", "mean", "prod", "max", "min", "any", "all", "logsumexp", "std", "var", "norm", "masked_sum")
_REDUCES = (*_REDUCE, "masked_mean", "masked_max", "argmax", "argmin")
# These take weights of which new columns are zero, or only move entries: they mix nothing that was apart.
_APART = (
    *_LINEARS,
    *_CONVS,
    *_TURNED,
    "bilinear",
    "embedding",
    "concat",
    "reshape",
    "slice",
    "take",
    "gather",
)
_MOVES = (
    "by_age",
    "read_slot",
    "top_slots",
    "pad",
    "roll",
    "flip",
    "tile",
    "slot_to_replace",
    "newest_slot",
    "glu",
)
# Arguments whose new entries let old units see new ones, if they are not zero.
_IN = ("in", "left", "right")


def find_axes(old: Graph, new: Graph, ops: Mapping[str, Op], names: Mapping[str, str] | None = None) -> Axes:
    """Of two flat graphs, what became of every axis of the values that both have."""
    axes = Axes(Pairs(old, new, names or {}), ops)
    walker = _Walker(axes)
    walker.run()
    axes.system.solve()
    walker.find_mixed()
    return axes


class _Walker(Relations):
    """Goes through what both graphs have, op by op."""

    def run(self) -> None:
        for region in self.new.regions.values():
            for node in region.nodes:
                before = self.pairs.node(node, region.name)
                if before is None:
                    continue
                self.both.append((region, node, before))
                self.before[node.id] = before
                for port in range(len(node.outputs)):
                    self.pairs.declare(Value(node.id, port), Value(before.id, port))
        # A step of a loop may stand before the region that runs it.
        for kind in ("param", "loop"):
            for _, node, _ in self.both:
                if kind == "loop" or node.op == kind:
                    self.trace(node)
        for _, node, _ in self.both:
            self.trace(node)
        for _, node, before in self.both:
            self.relate(node, before)
        for node in (node for _, node, _ in self.both if node.op == "slice"):
            self.slices(node)
        self.tile()
        self.sources()

    def first(self, node: Node, but: Collection[int] = ()) -> None:
        """The axes of what a node gives have their old entries first, if ops do not say otherwise."""
        for port in range(len(node.outputs)):
            value = Value(node.id, port)
            known = [self.pairs.var(value, axis) for axis in range(self.rank(value)) if axis not in but]
            self.system.first.update(var for var in known if var is not None)

    def sources(self) -> None:
        """Inputs and parameters are where axes begin; along axes that read, parameters follow what they read."""
        for region, node, _ in self.both:
            if region.name == self.new.main and node.op == "port":
                self.first(node)
            elif node.op in ("param", "learned"):
                inner = self.axes.inner.get(self.storage.get(Value(node.id), ""), set())
                axes = self.axes_of.get(Value(node.id), ())
                self.first(node, [k for k, axis in enumerate(axes) if axis in inner])

    def relate(self, node: Node, before: Node) -> None:
        out, op = Value(node.id), node.op
        if op in _MAKES or op in _SLOTS:
            self.first(node)
        if op in _LINEARS:
            self.linear(node, out)
        elif op in _CONVS or op in _TURNED:
            self.convolution(node, before, out)
        elif op == "loop":
            self.loop(node)
        elif op in ("concat", "split", "glu"):
            self.joining(node, before)
        elif op in ("reshape", "flatten"):
            self.reshape(node, before)
        elif op in ("rearrange", "reduce"):
            self.pattern(node, before)
        elif op == "einsum":
            self.einsum(node)
        elif op == "op_graph":
            self.op_graph(node, before)
        else:
            self.simple(node, before, out)

    def linear(self, node: Node, out: Value) -> None:
        x, weight, bias, *more = (*node.inputs, None)[:4]
        self.same((weight, -1), (x, -1))
        self.same((weight, -2), (out, -1))
        self.same((bias, -1), (out, -1))
        self.leading(x, out, 1)
        self.inner(weight, -1)
        for feedback in more:
            self.same((feedback, -1), (x, -1))
            self.same((feedback, -2), (out, -1))

    def convolution(self, node: Node, before: Node, out: Value) -> None:
        x, weight, bias, *more = (*node.inputs, None)[:4]
        first, second = (0, 1) if node.op in _CONVS else (1, 0)
        n = len(self.new.types[out].dims) - 2
        lead = self.rank(weight) - n - 2 if weight is not None else 0
        self.same((bias, -1), (out, 1))
        for kernel in (weight, *more):
            for axis in range(n):
                var = self.pairs.var(kernel, lead + 2 + axis)
                self.system.doubt(var, f"`{node.op}` has a larger kernel", node.origin)
            if node.attrs["groups"] == before.attrs["groups"] == 1:
                self.same((kernel, lead + first), (out, 1))
                self.same((kernel, lead + second), (x, 1))
                continue
            grown = [self.pairs.var(kernel, lead), self.pairs.var(kernel, lead + 1)]
            for var in (*grown, self.pairs.var(out, 1)):
                self.system.doubt(var, f"`{node.op}` has groups of channels", node.origin)
        self.inner(weight, lead + second)
        for axis in range(n):
            self.same((x, 2 + axis), (out, 2 + axis))

    def loop(self, node: Node) -> None:
        loop, region = loop_of(node), self.new.regions[node.attrs["region"]]
        carries = len(loop.carries)
        for place, (value, port) in enumerate(zip(node.inputs, region.inputs, strict=True)):
            if value is None:
                continue
            shift = 0
            if carries <= place < carries + loop.sequences:
                shift = 1
                cut = 0 if value in self.storage else 1
                self.system.first.update(v for v in [self.pairs.var(value, cut)] if v is not None)
            for axis in range(self.rank(port.value)):
                there = axis + (shift if axis >= (0 if value in self.storage else 1) else 0)
                self.same((value, there), (port.value, axis))
        for place in range(carries):
            self.whole(region.inputs[place].value, region.outputs[place].value)
        for place, given in enumerate(loop.gives):
            made, out = region.outputs[given.port].value, Value(node.id, place)
            steps = given.kind == "steps"
            for axis in range(self.rank(made)):
                self.same((made, axis), (out, axis + (steps and axis >= 1)))

    def op_graph(self, node: Node, before: Node) -> None:
        x, was = node.inputs[0], before.inputs[0]
        if x is None or was is None:
            return
        columns, start, old = Value(node.id), node.attrs["start"], before.attrs["start"]
        rows = self.fresh((old.capacity, start.capacity), f"{node.id} rows")
        self.joined(self.pairs.var(columns, -1), [self.part(x, was, -1), rows], node)
        for value in (*node.inputs[1:], Value(node.id, 1), Value(node.id, 2)):
            if value is not None:
                self.system.union(rows.var, self.pairs.var(value, 0))

    def simple(self, node: Node, before: Node, out: Value) -> None:
        """Ops whose axes only change places, or not even that."""
        given, op = node.inputs, node.op
        x = given[0] if given else None
        rank = self.rank(x)
        if op == "matmul":
            left, right = given
            self.same((left, -1), (right, -2 if self.rank(right) > 1 else -1))
            self.same((left, -2), (out, -2))
            self.same((right, -1), (out, -1))
            self.inner(left, -1)
            self.inner(right, -2)
        elif op == "bilinear":
            weight, bias = given[2], given[3]
            for axis, other in ((-3, (out, -1)), (-2, (x, -1)), (-1, (given[1], -1))):
                self.same((weight, axis), other)
            self.same((bias, -1), (out, -1))
            self.inner(weight, -1)
            self.inner(weight, -2)
        elif op == "embedding":
            self.same((given[1], -1), (out, -1))
        elif op in _CHANNELS:
            for value in given[1:]:
                self.same((value, 0), (x, 1))
            self.whole(x, out)
            for port in range(1, len(node.outputs)):
                self.same((Value(node.id, port), 0), (x, 1))
        elif op in ("transpose", "permute"):
            for axis, source in enumerate(moved(node, rank)):
                self.same((x, source), (out, axis))
        elif op in ("squeeze", "unsqueeze", "stack"):
            shown = self.rank(out)
            gone = node.attrs["axis"] % max(rank, shown)
            for value in given:
                for axis in range(min(rank, shown)):
                    there = axis + (axis >= gone)
                    pair = ((value, there), (out, axis)) if shown < rank else ((value, axis), (out, there))
                    self.same(*pair)
        elif op in _REDUCES:
            self.reduced(node, out, x, rank)
        elif op in _POOLS or op in _ADAPTIVE:
            for axis in (0, 1):
                self.same((x, axis), (out, axis))
        elif op == "slice":
            pass
        elif op in _SLOTS or op in ("bits", "sinusoid"):
            for value in given:
                self.whole(value, out)
        elif op in ("attend_slots", "outer", "dot", "nearest", "topk", "pad", "tile", "cosine", "info_nce"):
            pass
        else:
            for value in given:
                self.aligned(value, out)

    def find_mixed(self) -> None:
        """Note what makes one number of old and new units, by the op that does."""
        signatures = Signatures(self.axes.ops)
        for _, node, before in self.both:
            op = self.axes.ops.get(node.op)
            if node.op == "loop":
                self.longer_memories(node, before)
            if op is None or op.mixes is None or node.op in (*_APART, *_MOVES) or "distance" in op.traits:
                continue
            given = [self.new.types.get(v) if v is not None else None for v in node.inputs]
            try:
                mixed = op.mixes(signatures[node.op].namespace(node, given))
            except ShapeError:
                continue
            places = {arg.name: value for arg, value in zip(op.values, node.inputs, strict=False)}
            names = [self.storage.get(value, "") for value in node.inputs if value is not None]
            if any(self.axes.inner.get(name) for name in names):
                continue
            mixed += [("query", -1)] if "query" in places else []  # it is compared with keys, entry by entry
            if any(self.pairs.var(places.get(name), axis) is not None for name, axis in mixed):
                what = f"`{node.op}` ({node.id}) mixes old and new units"
                self.axes.mixed.append(Mixed(what, node.origin))

    def longer_memories(self, node: Node, before: Node) -> None:
        """Note memories with more slots: what a full one would have lost is still there."""
        slots = {store.name: plain(store.slots) for store in loop_of(before).memories}
        for store in loop_of(node).memories:
            old, new = slots.get(store.name), plain(store.slots)
            if old is not None and new is not None and new > old:
                what = f"the memory `{store.name}` keeps {new} samples where it kept {old}"
                self.axes.mixed.append(Mixed(what, node.origin))
