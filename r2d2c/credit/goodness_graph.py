"""The graph of `goodness`: both streams, the losses, and the answer at inference, as ordinary nodes.

The behaviors below goodness links get two more outputs for every value that such a link starts at: its goodness,
g = mean h² over the features of a sample, and h / √(g + ε), stopped, which is what the task above reads. The goodness
must not be read off by the task above (Hinton, 2022, section 2), and only the direction of h is left to it; the mean
square keeps every feature's size near 1 whatever the width, where a length of 1 makes inputs vanish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from r2d2c.credit.goodness_plan import Layer, Plan, places, product
from r2d2c.credit.rewrite import Body, Rewriter
from r2d2c.graph import Graph, Link, Loss, Node, Port, Value
from r2d2c.ops.record import Op
from r2d2c.types import DimLike

EPSILON = 1e-6
_ALL = ("slice", None, None, None)


class Goodness:
    """One rewrite. ``ports``: the goodness and the normalised value among the outputs of a layer's task."""

    def __init__(self, plan: Plan, ops: Mapping[str, Op]) -> None:
        assert plan.input is not None
        self.plan, self.graph = plan, plan.graph
        self.edit = Rewriter(plan.graph, ops)
        self.input: Value = plan.input
        self.batch, self.type = plan.batch, plan.type(plan.input)
        self.scale = float(plan.options["label_scale"])
        self.sharpness = float(plan.options["sharpness"])
        self.split = bool(plan.options["split"])
        self.origin = plan.links[0].credit.origin
        self.ports: dict[Value, tuple[int, int]] = {}

    def run(self) -> Graph:
        plan = self.plan
        for layer in plan.layers:
            self._measure(layer)
        for name in plan.tasks:
            self.edit.called(name)
        return self._classifier() if plan.classifies else self._by_labels()

    # -- behaviors
    def _measure(self, layer: Layer) -> None:
        """The goodness of a value, and the value as the task above reads it."""
        body = self.edit.reopen(layer.task, layer.link.credit.origin or layer.link.origin)
        h = body.stop(body.region.outputs[layer.value.port].value, f"{layer.name}.stop")
        axes = tuple(range(1, body.type(h).rank))
        count = product(body.type(h).dims[1:])
        if isinstance(count, int):
            # As mean h², without a value of the size of h in between.
            root = body.node("norm", h, name=f"{layer.name}.norm", axes=axes)
            root = body.node("mul", root, body.number(count**-0.5), name=f"{layer.name}.rms")
            goodness = body.node("square", root, name=f"{layer.name}.goodness")
        else:
            square = body.node("square", h, name=f"{layer.name}.square")
            goodness = body.node("mean", square, name=f"{layer.name}.goodness", axes=axes)
        size = body.node("add", goodness, body.number(EPSILON), name=f"{layer.name}.add")
        size = body.node("rsqrt", size, name=f"{layer.name}.scale")
        for axis in axes:
            size = body.node("unsqueeze", size, name=f"{layer.name}.unsqueeze", axis=axis)
        normal = body.node("mul", h, size, name=f"{layer.name}.normal")
        ports = body.output(f"{layer.name}.goodness", goodness), body.output(f"{layer.name}.normal", normal)
        self.ports[layer.value] = ports
        body.finish()

    def _normal(self, value: Value) -> Value:
        """What a task reads over a goodness link."""
        return Value(value.node, self.ports[value][1])

    def _links(self, without: Sequence[str] = ()) -> tuple[Link, ...]:
        ours = set(self.plan.links)
        return tuple(
            replace(link, source=self._normal(link.source)) if link in ours else link
            for link in self.graph.links
            if link.target not in without
        )

    def _read_normal(self) -> None:
        """Every task above a goodness link reads the normalised value."""
        for link in self.plan.links:
            inputs = list(self.edit.nodes[link.target].inputs)
            inputs[link.port] = self._normal(link.source)
            self.edit.called(link.target, inputs=tuple(inputs))

    # -- labels in inputs
    def _written(self, body: Body, x: Value, label: Value) -> Value:
        """x with ``label`` (n × C) in its first numbers: of a sample, a channel, or a step."""
        type_ = body.type(x)
        assert self.plan.labels is not None
        classes = self.plan.labels.classes
        if self.scale != 1.0:
            label = body.node("mul", label, body.number(self.scale))
        if body.type(label).dtype != type_.dtype:
            label = body.node("cast", label, dtype=type_.dtype)
        dims = type_.dims
        flat = x if type_.rank < 4 else body.node("reshape", x, sizes=(*dims[:2], places(type_)))
        if type_.rank > 2:
            label = body.node("unsqueeze", label, axis=1)
            label = body.node("expand", label, sizes=(*dims[:2], classes))
        if places(type_) != classes:
            rest = body.node("slice", flat, items=("...", ("slice", classes, None, None)))
            label = body.node("concat", label, rest, name="x" if flat is x else "concat", axis=-1)
        return label if flat is x else body.node("reshape", label, name="x", sizes=dims)

    def _neutral(self) -> Value:
        """The input with every label to an equal part."""
        if self.plan.labels is None:
            return self.input
        classes = self.plan.labels.classes
        body = self.edit.body("goodness.neutral", "credit", self.origin)
        x = body.input("x", self.type)
        part = body.node("full", name="part", sizes=(1, classes), value=1.0 / classes, dtype="f32")
        part = body.node("expand", part, sizes=(self.batch, classes))
        body.output("x", self._written(body, x, part))
        (value,) = self.edit.call(body.finish(), [self.input], origin=self.origin)
        return value

    # -- the two streams
    def _others(self) -> list[Value]:
        """What else the tasks of the streams read that has one row a sample."""
        ports = [port.value for port in self.graph.body.inputs]
        read = self.plan.read()
        return [v for v in ports if v in read and v != self.input and self.plan.batched(v)]

    def _streams(self, answer: Value | None) -> tuple[dict[Value, Value], Value]:
        """Positive and negative samples as one batch: what stands for each input, and the sign of every sample."""
        plan = self.plan
        body = self.edit.body("goodness.streams", "credit", self.origin)
        given, x = [self.input], body.input("x", self.type)
        count: DimLike = self.batch if self.split else 2 * self.batch
        row = body.node("arange", n=count)
        positives = body.size(self.batch // 2 if self.split else self.batch)
        first = body.node("lt", row, positives, name="positive")
        others = self._others()
        if plan.labels is not None:
            y = body.input("y", plan.type(plan.labels.value))
            given.append(plan.labels.value)
            if answer is not None:
                wrong = body.node(
                    "hard_label", body.input("logits", self.edit.types[answer]), y, name="wrong"
                )
                given.append(answer)
            else:
                wrong = body.node("wrong_label", y, name="wrong", classes=plan.labels.classes)
            label = (
                body.node("where", first, y, wrong, name="label")
                if self.split
                else self._twice(body, y, wrong)
            )
            label = body.node("one_hot", label, classes=plan.labels.classes)
            out = self._written(body, x if self.split else self._twice(body, x, x), label)
        else:
            assert plan.negative is not None
            negative = body.input("negative", self.type)
            given.append(plan.negative)
            out = self._choice(body, first, x, negative) if self.split else self._twice(body, x, negative)
        plus, minus = body.number(self.sharpness), body.number(-self.sharpness)
        sign = body.node("cast", body.node("where", first, plus, minus), name="sign", dtype=self.type.dtype)
        body.output("x", out)
        body.output("sign", sign)
        if not self.split:
            for value in others:
                port = body.input(self._name(value), plan.type(value))
                body.output(self._name(value), self._twice(body, port, port))
                given.append(value)
        values = self.edit.call(body.finish(), given, origin=self.origin)
        named = dict(zip([self.input, None, *others], values, strict=False))
        return {old: new for old, new in named.items() if old is not None}, values[1]

    def _name(self, value: Value) -> str:
        return next(port.name for port in self.graph.body.inputs if port.value == value)

    def _twice(self, body: Body, a: Value, b: Value) -> Value:
        return body.node("concat", a, b, axis=0)

    def _choice(self, body: Body, first: Value, a: Value, b: Value) -> Value:
        for axis in range(1, body.type(a).rank):
            first = body.node("unsqueeze", first, axis=axis)
        return body.node("where", first, a, b, name="x")

    def _run(
        self, suffix: str, given: Mapping[Value, Value], count: DimLike, own: bool = False
    ) -> dict[Value, Value]:
        """The tasks of the streams on other inputs: what stands for each of their values.

        count: the samples there. own: the calls of the tasks themselves run so, instead of copies.
        """
        edit, values = self.edit, dict(given)
        ours = set(self.plan.links)
        dims = {str(self.batch): count} if count != self.batch else None
        for name in self.plan.tasks:
            call = next(node for node in self.graph.body.nodes if node.id == name)
            links = {link.port: link for link in self.plan.incoming[name]}
            inputs = [
                self._input(values, value, links.get(position), ours, suffix)
                for position, value in enumerate(call.inputs)
            ]
            if own and dims is None:
                region, made = edit.regions[name], name
                edit.called(name, inputs=tuple(inputs))
            elif own:
                copy = edit.clone(name, suffix, dims)
                del edit.regions[copy.name]
                region = edit.regions[name] = replace(copy, name=name, kind="behavior")
                made = name
                edit.called(name, inputs=tuple(inputs))
            else:
                region = edit.clone(name, suffix, dims)
                made = edit.call(region, inputs, origin=call.origin)[0].node
            values |= {Value(name, port): Value(made, port) for port in range(len(region.outputs))}
        return values

    def _input(
        self,
        values: Mapping[Value, Value],
        value: Value | None,
        link: Link | None,
        ours: set[Link],
        suffix: str,
    ) -> Value:
        assert value is not None
        if link in ours:
            return values[self._normal(value)]
        found = values.get(value, value)
        if link is not None and link.credit.rule == "local":
            return self.edit.stop(found, f"{link.target}.stop@{suffix}", link.credit.origin)
        return found

    # -- losses
    def _losses(self, values: Mapping[Value, Value], sign: Value) -> dict[str, Loss]:
        """softplus(k(θ − g)) for positive samples, softplus(k(g − θ)) for negative ones; k is in the sign.

        With s = ±k, n features and R rows, δ = ∂loss/∂h = −(4s / nR) σ(s(θ − g)) h for each row: nothing has to be
        recorded of g or of the loss for a backward, which only goes through what made h.
        """
        found: dict[str, Loss] = {}
        slopes: dict[str, Value] = {}
        for layer in self.plan.layers:
            h, goodness = values[layer.value], values[Value(layer.task, self.ports[layer.value][0])]
            name = f"{layer.task}.goodness"
            if name in found:
                name = f"{layer.task}.{layer.name}.goodness"
            origin = layer.link.credit.origin
            features = product(self.edit.types[h].dims[1:])
            if str(features) not in slopes:
                slopes[str(features)] = self._slope(sign, features)
            slope = slopes[str(features)]
            body = self.edit.body(f"{name}.loss", "loss", origin)
            x, g, s, by = (
                body.input(label, self.edit.types[value])
                for label, value in (("h", h), ("goodness", goodness), ("sign", sign), ("slope", slope))
            )
            margin = body.node("mul", s, body.node("sub", body.number(layer.threshold), g), name="margin")
            cost = body.node("mean", body.node("softplus", margin), name="mean")
            body.output(name, body.node("mul", cost, body.number(2.0), name="loss"))
            by = body.node("mul", body.node("sigmoid", margin), by, name="by")
            for axis in range(1, body.type(x).rank):
                by = body.node("unsqueeze", by, axis=axis)
            body.output("delta", body.node("mul", body.stop(x), by, name="delta"))
            value, delta = self.edit.call(body.finish(), [h, goodness, sign, slope], origin=origin)
            found[name] = Loss(name, value, 1.0, layer.task, origin, "goodness", closed=(h, delta))
        return found

    def _slope(self, sign: Value, features: DimLike) -> Value:
        """−4s / nR, the same for all layers with as many features."""
        body = self.edit.body("goodness.slope", "credit", self.origin)
        s = body.input("sign", self.edit.types[sign])
        rows = self.edit.types[sign].dims[0]
        scaled = body.node("mul", s, body.number(-4.0))
        body.output("slope", body.node("div", scaled, body.size(features * rows), name="slope"))
        (value,) = self.edit.call(body.finish(), [sign], origin=self.origin)
        return value

    def _train(self, answer: Value | None, own: bool = False) -> dict[str, Loss]:
        if answer is not None:
            answer = self.edit.stop(answer, "goodness.logits.stop", self.origin)
        given, sign = self._streams(answer)
        count = self.batch if self.split else 2 * self.batch
        return self._losses(self._run("streams", given, count, own), sign)

    # -- inference
    def _classifier(self) -> Graph:
        """The tasks above read the neutral stream: the input without a label."""
        graph, plan = self.graph, self.plan
        self._read_neutral()
        losses = self._train(plan.answer if plan.options["negatives"] == "hard" else None)
        return self.edit.finish(
            graph.body.outputs,
            lambda id_: True,
            losses={**graph.losses, **losses},
            links=self._links(),
            targets=self._targets(),
        )

    def _read_neutral(self) -> None:
        self._read_normal()
        neutral = self._neutral()
        for name in self.plan.tasks:
            inputs = [neutral if v == self.input else v for v in self.edit.nodes[name].inputs]
            self.edit.called(name, inputs=tuple(inputs))

    def _targets(self) -> tuple[str, ...]:
        """Negative data is for learning only, wherever it is declared."""
        graph, negative = self.graph, self.plan.negative
        if negative is None or self._name(negative) in graph.targets:
            return graph.targets
        return (*graph.targets, self._name(negative))

    def _by_labels(self) -> Graph:
        """Every label is tried on every sample; its goodness is its logit. The task above is of no use then."""
        graph, plan = self.graph, self.plan
        assert plan.labels is not None and plan.answer is not None
        dropped, logits = plan.answer.node, self._tried(plan.labels.classes)
        kept = plan.kept()
        neutral = bool(plan.behind([loss.value for loss in kept.values()]) & set(plan.tasks))
        if neutral:
            self._read_neutral()
        losses = {
            **kept,
            **self._train(logits if plan.options["negatives"] == "hard" else None, own=not neutral),
        }
        for node in graph.body.nodes:
            if node.op == "call" and graph.regions[node.attrs["region"]].kind == "output":
                self.edit.called(
                    node.id, inputs=tuple(logits if v == plan.answer else v for v in node.inputs)
                )
        outputs = [
            Port(port.name, logits if port.value == plan.answer else port.value)
            for port in graph.body.outputs
        ]
        tasks = {
            name: task if task.loss in losses else replace(task, loss=None, representative=None, teach=None)
            for name, task in graph.tasks.items()
            if name != dropped
        }
        wanted = [*(port.value for port in outputs), *(loss.value for loss in losses.values())]
        needed = _behind(self.edit.nodes, wanted)
        return self.edit.finish(
            outputs,
            lambda id_: id_ in needed or self.edit.nodes[id_].op == "port",
            losses=losses,
            links=self._links((dropped,)),
            tasks=tasks,
        )

    def _tried(self, classes: int) -> Value:
        """``logits[b, c]``: the goodness of sample b with label c, of all layers but the first."""
        body = self.edit.body("goodness.labels", "credit", self.origin)
        count = classes * self.batch
        x = self._each(body, body.input("x", self.type), classes)
        labels = body.node("one_hot", body.node("arange", n=classes), classes=classes)
        labels = body.node(
            "expand", body.node("unsqueeze", labels, axis=0), sizes=(self.batch, classes, classes)
        )
        labels = body.node("reshape", labels, sizes=(count, classes))
        body.output("x", self._written(body, x, labels))
        others = self._others()
        for value in others:
            port = body.input(self._name(value), self.plan.type(value))
            body.output(self._name(value), self._each(body, port, classes))
        values = self.edit.call(body.finish(), [self.input, *others], origin=self.origin)
        made = self._run("labels", dict(zip([self.input, *others], values, strict=True)), count)
        layers = self.plan.layers[1:] or self.plan.layers
        goods = [made[Value(layer.task, self.ports[layer.value][0])] for layer in layers]
        head = self.edit.body("goodness.logits", "output", self.origin)
        total: Value | None = None
        for layer, good in zip(layers, goods, strict=True):
            name = layer.task if layer.name in layer.task else f"{layer.task}.{layer.name}"
            part = head.input(name, self.edit.types[good])
            total = part if total is None else head.node("add", total, part)
        assert total is not None
        head.output("logits", head.node("reshape", total, name="logits", sizes=(self.batch, classes)))
        (logits,) = self.edit.call(head.finish(), goods, origin=self.origin)
        return logits

    def _each(self, body: Body, value: Value, classes: int) -> Value:
        """Every sample ``classes`` times, one behind the other."""
        first, *rest = body.type(value).dims
        wide = body.node("expand", body.node("unsqueeze", value, axis=1), sizes=(first, classes, *rest))
        return body.node("reshape", wide, sizes=(classes * first, *rest))


def _behind(nodes: Mapping[str, Node], values: Sequence[Value]) -> set[str]:
    found: set[str] = set()
    stack = [value.node for value in values]
    while stack:
        id_ = stack.pop()
        if id_ not in found:
            found.add(id_)
            stack += [v.node for v in nodes[id_].inputs if v is not None]
    return found


__all__ = ["EPSILON", "Goodness"]
