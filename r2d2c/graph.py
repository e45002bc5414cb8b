"""The graph that every stage works on.

A `Graph` has regions; a `Region` has ports and nodes and is used by `call` nodes, so regions nest; parameters are
values that `param` nodes read from the storage table. Everything is frozen: a stage returns a new graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from r2d2c.source import Span
from r2d2c.types import DimLike, TensorType

if TYPE_CHECKING:
    from r2d2c.hypernets import Generated

Stage = Literal["resolved", "typed", "inference", "training"]
StorageKind = Literal["param", "frozen", "statistic", "stream"]
RegionKind = Literal[
    "model",
    "behavior",
    "representative",
    "loss",
    "teach",
    "block",
    "loop",
    "step",
    "output",
    "metric",
    "credit",
]
EMPTY: Mapping[str, Any] = {}


class Value(NamedTuple):
    """The ``port``-th output of a node. Node ids are unique in a graph, so a value needs no region.

    (A named tuple, not a dataclass: values are dictionary keys everywhere and this hashes in C.)
    """

    node: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    id: its place in the spec (``encode.h.linear_2``), unique in the graph.
    op: the name of an op record, or one of the core ops of `CORE_OPS`.
    inputs: one per value argument of the op, None where an optional one is absent; a variadic argument comes last.
    outputs: the names of its values; the name of a statement's target where it has one.
    """

    id: str
    op: str
    inputs: tuple[Value | None, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=lambda: EMPTY)
    outputs: tuple[str, ...] = ("out",)
    origin: Span | None = None

    def value(self, port: int = 0) -> Value:
        return Value(self.id, port)


# Ops that are part of the graph itself and have no record:
CORE_OPS: dict[str, str] = {
    "port": "an input of its region",
    "param": "reads attrs['storage'] from the storage table",
    "constant": "the number or bool attrs['value']",
    "size": "the size attrs['dim'], a dim that is known only when the model runs",
    "argument": "the number attrs['name'] that is given when the model runs",
    "loop": "runs the region attrs['region'] again and again, as attrs['loop'] says, on carries, sequences and the rest",
    "code": "what the hypernet attrs['hypernet'] generates from, of its context; typed graphs have none any more",
    "generate": "the parameter attrs['storage'], from a code; typed graphs have none any more",
    "call": "runs the region attrs['region'] on its inputs; attrs['credit'] has the credit of each",
    "stop": "its input, as a constant for learning",
    "leaf": "its input, as a constant from which gradients are taken back; with attrs['cut'], the value of a link",
    "gradient": "what all losses and signals above send back to its input, a leaf",
    "signal": "lets its second input be the gradient at its first, and trains what that is made with;"
    " attrs['rule'] and attrs['link'] say for whom",
    "vjp": "gradients of the first attrs['outputs'] inputs, times the numbers attrs['weights'] or the cotangents that come"
    " last, with respect to the storage attrs['params'] and the attrs['wrt'] inputs in between",
    "accumulate": "adds its input to the gradient of attrs['storage']; attrs['rule'] if no loss is behind it",
    "update": "writes its input to the statistic attrs['storage']; without one, lets the optimizer change that parameter",
    "probe": "its input times attrs['storage'], the scale that `wiring --prove` turns",
}


# The ops that use a region, and so run what is in it.
USES = ("call", "loop")


class Port(NamedTuple):
    """A named value at a region's boundary."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Region:
    """A body with ports. Its input ports are `port` nodes among its nodes; nodes are in execution order."""

    name: str
    kind: RegionKind
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    nodes: tuple[Node, ...]
    origin: Span | None = None

    def output(self, name: str) -> int:
        """The position of an output port."""
        for position, port in enumerate(self.outputs):
            if port.name == name:
                return position
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Init:
    """How storage gets its first numbers: an initialiser's name and its arguments."""

    kind: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.args))})" if self.args else self.kind


@dataclass(frozen=True, slots=True)
class Storage:
    """A row of the storage table. ``type`` is None until inference; ``owner`` is the region that made it.

    stack: the step of a loop, and for how many of them there is one each, along the first axis.
    """

    name: str
    kind: StorageKind
    init: Init
    owner: str
    type: TensorType | None = None
    axes: tuple[str, ...] = ()
    origin: Span | None = None
    fans: tuple[int, int] | None = None
    stack: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """A number that is given when the model runs: the size of a dim that no port shows, or a width.

    usual: what it is where it is not given. allowed: the numbers it may be, if not all from ``low`` to ``high``.
    """

    name: str
    kind: Literal["size", "number"]
    usual: float
    low: float
    high: float
    allowed: tuple[float, ...] = ()

    def check(self, value: float) -> str | None:
        """What is wrong with a value, if something is."""
        good = value in self.allowed if self.allowed else self.low <= value <= self.high
        if good:
            return None
        shown = ", ".join(f"{v:g}" for v in self.allowed) if self.allowed else f"{self.low:g}..{self.high:g}"
        return f"`{self.name}` is {value:g}, the spec says {shown}"


def spelled(value: object) -> str:
    """An option's value as a spec has it."""
    return str(value).lower() if isinstance(value, bool) else "none" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Credit:
    """A credit rule on an edge, with the options that were given: ``(name, value)``.

    Of an option that is a behavior, the value is the name of its region; `credit.options.options_of` has the
    defaults as well.
    """

    rule: str
    args: tuple[tuple[str, Any], ...] = ()
    origin: Span | None = None

    def __str__(self) -> str:
        given = ", ".join(f"{name}={spelled(value)}" for name, value in self.args)
        return f"{self.rule}({given})" if given else self.rule

    def option(self, name: str, default: Any = None) -> Any:
        """The value given for an option."""
        return next((value for key, value in self.args if key == name), default)


class State(NamedTuple):
    """A carry of a stateful loop, as the model's state: an input ``port`` and the output of the same name.

    name: what it is called in the state, ``read.last``. Where the input ``reset`` (bool[B]) is true, a sample
    starts anew, and what it has in ``port`` counts for nothing.
    """

    name: str
    port: str


# The input that says which samples start anew, of a model that has a state.
RESET = "reset"


@dataclass(frozen=True, slots=True)
class Task:
    """A behavior, its representative and the loss between them, as calls in the main region."""

    name: str
    behavior: str
    representative: str | None = None
    loss: str | None = None
    teach: str | None = None
    keep_own: bool = False
    origin: Span | None = None
    representative_value: Value | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """A scalar that trains something. ``owner`` is its task, or None for one of `losses:`.

    rule: the credit rule that added it. every: it trains in every ``every``-th learning pass.
    trains: the value that is differentiated, where that is not the one that is shown, and through: the credit rule
    that says so. again: further evaluations of it, at other values of the tasks below.
    closed: a value h of a task and δ = weight·∂loss/∂h, where a rule knows it in closed form: the backward starts there.
    """

    name: str
    value: Value
    weight: float = 1.0
    owner: str | None = None
    origin: Span | None = None
    rule: str | None = None
    every: int = 1
    trains: Value | None = None
    through: str | None = None
    again: tuple[Value, ...] = ()
    closed: tuple[Value, Value] | None = None

    @property
    def evaluations(self) -> tuple[Value, ...]:
        """Every value that is this loss, or is made of it alone: its gradient in closed form is, too."""
        trains = () if self.trains is None else (self.trains,)
        return (self.value, *trains, *self.again, *(() if self.closed is None else self.closed[1:]))

    def mapped(self, to: Callable[[Value], Value]) -> Loss:
        """The same loss in a graph whose values are named otherwise."""
        trains = None if self.trains is None else to(self.trains)
        closed = None if self.closed is None else (to(self.closed[0]), to(self.closed[1]))
        again = tuple(map(to, self.again))
        return replace(self, value=to(self.value), trains=trains, again=again, closed=closed)

    @property
    def root(self) -> Value:
        """What the backward starts at."""
        return self.closed[0] if self.closed is not None else self.trains or self.value


@dataclass(frozen=True, slots=True)
class Link:
    """An edge between tasks: the input ``port`` of the call of ``target`` reads ``source``.

    feed: the representative that the target reads instead while it learns.
    """

    source_task: str
    source: Value
    target: str
    port: int
    credit: Credit
    feed: Value | None = None
    feed_task: str | None = None
    origin: Span | None = None

    @property
    def name(self) -> str:
        return f"{self.source_task} -> {self.target}"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of the composed model: a record's name, and the outputs and ports it compares."""

    name: str
    args: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    origin: Span | None = None

    @property
    def label(self) -> str:
        return f"{self.name}({', '.join([*self.args, *(f'{k}={v}' for k, v in self.options)])})"


@dataclass(frozen=True, slots=True)
class Visit:
    """A part of the training graph that runs as one: forward, losses, backward; then its activations are freed.

    finished: the parameters whose gradients are whole after it and that no later visit reads, so that they may
        be updated at once.
    """

    name: str
    nodes: tuple[str, ...]
    tasks: tuple[str, ...]
    losses: tuple[str, ...] = ()
    finished: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole model at one stage."""

    name: str
    stage: Stage
    regions: Mapping[str, Region]
    main: str
    storage: Mapping[str, Storage]
    tasks: Mapping[str, Task] = field(default_factory=dict)
    losses: Mapping[str, Loss] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    targets: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    dims: Mapping[str, DimLike] = field(default_factory=dict)
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    types: Mapping[Value, TensorType] = field(default_factory=dict)
    bounds: Mapping[Value, DimLike] = field(default_factory=dict)
    arguments: Mapping[str, Argument] = field(default_factory=dict)
    visits: tuple[Visit, ...] = ()
    generated: tuple[Generated, ...] = ()
    states: tuple[State, ...] = ()
    seed: int = 0

    @property
    def body(self) -> Region:
        return self.regions[self.main]

    @property
    def hidden(self) -> frozenset[str]:
        """The ports that no data is for: the model fills them in, or takes them from ``state``."""
        return frozenset((*(state.port for state in self.states), RESET)) if self.states else frozenset()

    @property
    def steps(self) -> dict[str, Region]:
        """The bodies of loops, which a flat graph keeps."""
        return {name: region for name, region in self.regions.items() if region.kind == "step"}

    def with_(self, **changes: Any) -> Graph:
        return replace(self, **changes)


def storage_read(graph: Graph, region: str) -> set[str]:
    """The names of the storage that a region and the regions it calls read."""
    found: set[str] = set()
    todo, seen = [region], {region}
    while todo:
        for node in graph.regions[todo.pop()].nodes:
            if node.op == "param":
                found.add(node.attrs["storage"])
            elif node.op in USES and node.attrs["region"] not in seen:
                seen.add(node.attrs["region"])
                todo.append(node.attrs["region"])
    return found


def walk(graph: Graph) -> Iterator[tuple[Region, Node]]:
    """Every node of every region."""
    for region in graph.regions.values():
        for node in region.nodes:
            yield region, node
