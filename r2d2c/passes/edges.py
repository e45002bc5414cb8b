"""`Edge`, `Network` and `Layers` as credit rules see them, over the passes that attach credit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.credit.options import options_of
from r2d2c.credit.record import CreditRule, Labels
from r2d2c.graph import CORE_OPS, Credit, Init, Link, Loss, Node, Region, Task, Value, storage_read
from r2d2c.passes.building import GraphBuilder
from r2d2c.source import Span
from r2d2c.types import DimLike, TensorType

if TYPE_CHECKING:
    from r2d2c.passes.credit import AttachCredit
    from r2d2c.passes.layers import Rewire


@dataclass(slots=True)
class _Building:
    """The `Builder` protocol. place: what the names of its nodes and storage begin with."""

    host: GraphBuilder
    rule: CreditRule
    place: str
    owner: str
    origin: Span | None

    def type(self, value: Value) -> TensorType:
        return self.host.types[value]

    def task(self, name: str) -> Task:
        return self.host.task(name)

    def node(self, op: str, *inputs: Value | float, name: str = "", **attrs: object) -> Value:
        record = self.host.ops.get(op)
        known = [arg.name for arg in record.attributes] if record is not None else attrs
        if record is None and op not in CORE_OPS:
            raise ValueError(f"there is no op `{op}`")
        if unknown := [key for key in attrs if key not in known]:
            raise ValueError(f"`{op}` has no argument `{unknown[0]}`; its arguments are {', '.join(known)}")
        values = tuple(self.number(v) if isinstance(v, (int, float)) else v for v in inputs)
        for value in values:
            if value not in self.host.types:
                raise ValueError(f"an input of `{op}` is {value!r}, which is no value of this graph")
        return self.host.add(f"{self.place}.{name or op}", op, values, attrs, self.origin)

    def number(self, value: float) -> Value:
        return self.host.number(value)

    def batch(self, value: Value) -> Value:
        return self.host.size(self.type(value).dims[0])

    def stop(self, value: Value) -> Value:
        return self.host.stop(value)

    def leaf(self, value: Value) -> Value:
        return self.host.leaf(value, cut=True)

    def gradient(self, leaf: Value) -> Value:
        return self.host.add(f"{leaf.node}.gradient", "gradient", (leaf,), {}, self.origin)

    def vjp(self, output: Value, wrt: Value, cotangent: Value | None = None) -> Value:
        return self.gradients([output], [wrt], [cotangent])[0]

    def gradients(
        self, outputs: Sequence[Value], wrt: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> list[Value]:
        return self.host.vjp(f"{self.place}.vjp", outputs, wrt, cotangents, self.origin)

    def fresh_leaf(self, value: Value, name: str) -> Value:
        return self.host.fresh_leaf(f"{self.place}.{name}", value, cut=True)

    def storage(
        self,
        name: str,
        type_: TensorType | Sequence[DimLike],
        init: Init | str,
        kind: Literal["param", "frozen", "statistic"],
    ) -> Value:
        if not isinstance(type_, TensorType):
            type_ = TensorType(self._dtype(), tuple(type_))
        init = Init(init) if isinstance(init, str) else init
        return self.host.store(f"{self.place}.{name}", type_, init, kind, self.owner, self.origin)

    def _dtype(self) -> str:
        """That of the first link's value."""
        return self.host.types[
            next(k.source for k in self.host.graph.links if k.credit.rule == self.rule.name)
        ].dtype

    def signal(self, value: Value, delta: Value) -> None:
        self.host.signal(value, delta, self.place, self.rule.name, self.origin)

    def plastic(self, parameter: str, change: Value) -> None:
        self.host.plastic(parameter, change, self.place, self.rule.name, self.origin)

    def update(self, storage: str, value: Value) -> None:
        self.host.update(storage, value, self.place, self.origin)

    def loss(self, loss: Loss) -> None:
        origin = loss.origin or self.origin
        self.host.losses[loss.name] = replace(loss, rule=loss.rule or self.rule.name, origin=origin)

    @property
    def labels(self) -> Labels | None:
        return self.host.labels

    def label(self, name: str) -> Labels | None:
        return self.host.label(name)

    def target(self, name: str) -> Value:
        return self.host.target(name)


@dataclass(slots=True)
class _Attaching(_Building):
    """What edges and networks share: they work while regions are still called."""

    pass_: AttachCredit

    def call(self, task: str, instead: Mapping[Value, Value], name: str = "") -> tuple[Value, ...]:
        return self.pass_.call_again(task, instead, name or self.rule.name, self.origin)

    def errors(self) -> Sequence[tuple[Value, Value]]:
        """For a network all, for an edge those above the lower task."""
        return self.pass_.errors()

    def error(self, value: Value) -> Value:
        return self.pass_.error(value)

    def delta(self, value: Value) -> Value:
        return self.pass_.delta(value)

    def parameters(self, task: str) -> Mapping[str, Value]:
        names = storage_read(self.host.graph, self.host.graph.tasks[task].behavior)
        rows = {name: row for name, row in self.host.storage.items() if name in names and row.kind == "param"}
        return {name: self.host.stop(self.host.read(name)) for name in rows}

    def true_gradient(self, value: Value) -> Value:
        return self.pass_.true_gradient(value, self.origin)


@dataclass(slots=True)
class AttachedEdge(_Attaching):
    """The `Edge` protocol."""

    link: Link
    taught: Value | None = None

    def _dtype(self) -> str:
        return self.type(self.value).dtype

    @property
    def credit(self) -> Credit:
        return self.link.credit

    @property
    def name(self) -> str:
        return self.place

    @property
    def value(self) -> Value:
        return self.link.source

    def errors(self) -> Sequence[tuple[Value, Value]]:
        return self.pass_.errors(below=self.link.source_task)

    @property
    def feed(self) -> Value | None:
        return self.host.leaf(self.link.feed, cut=False) if self.link.feed is not None else None

    def option(self, name: str) -> Any:
        return options_of(self.rule, self.credit)[name]

    def learn_again(self) -> None:
        self.taught = self.pass_.run_again(self.value, self.origin)

    def apply(self, option: str, *values: Value) -> Value | None:
        region = self.option(option)
        return None if region is None else self.pass_.apply(region, values, self.origin)


@dataclass(slots=True)
class AttachedNetwork(_Attaching):
    """The `Network` protocol."""

    edges: tuple[AttachedEdge, ...]

    @property
    def losses(self) -> Mapping[str, Loss]:
        return dict(self.host.losses)

    def show(self, loss: str, trains: Value) -> None:
        row = self.host.losses[loss]
        self.host.losses[loss] = replace(row, trains=trains, through=self.rule.name)

    def loss_again(self, loss: str, instead: Mapping[Value, Value], name: str = "") -> Value:
        return self.pass_.loss_again(loss, instead, name or self.rule.name, self.origin)

    @property
    def tasks(self) -> Sequence[str]:
        return self.pass_.tasks()

    def loss_reads(self, loss: str) -> tuple[Value, ...]:
        return self.pass_.loss_reads(loss)

    def gives(self, task: str) -> tuple[Value, ...]:
        return self.pass_.gives(task)

    def reads(self, task: str) -> tuple[Value, ...]:
        return self.pass_.reads(task)


@dataclass(slots=True)
class FlatLayers(_Building):
    """The `Layers` protocol, over the flat graph."""

    pass_: Rewire
    links: tuple[Link, ...]

    def option(self, link: Link, name: str) -> Any:
        return options_of(self.rule, link.credit)[name]

    def behavior(self, task: str) -> Sequence[Node]:
        return self.pass_.behavior(task)

    def between(self, link: Link) -> Sequence[Node]:
        return self.pass_.between(link)

    def parameter(self, value: Value | None) -> str | None:
        return self.pass_.parameter(value)

    def step(self, loop: Node) -> Region:
        return self.pass_.step(loop)

    def at_steps(self, loop: Node, value: Value) -> Value:
        return self.pass_.at_steps(loop, value)

    def like(self, parameter: str, name: str) -> Value:
        row = self.host.storage[parameter]
        assert row.type is not None
        return self.host.store(name, row.type, row.init, "frozen", row.owner, row.origin, row.fans)

    def keep(self, name: str, type_: TensorType, init: Init) -> Value:
        return self.host.store(name, type_, init, "statistic", self.owner, self.origin)

    def type_of(self, parameter: str) -> TensorType:
        found = self.host.storage[parameter].type
        assert found is not None
        return found

    def at(self, link: Link) -> None:
        self.place, self.owner = f"{link.source_task}.{self.rule.name}", link.source_task
        self.origin = link.origin or link.credit.origin

    def replace(self, node: Node, op: str, *more: Value) -> None:
        self.pass_.replace(node, op, more)
