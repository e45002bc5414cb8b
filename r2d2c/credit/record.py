"""`CreditRule`: all that r2d2c knows of a credit rule, in one record.

A rule is a rewrite of the training graph. What it adds are ordinary nodes, storage and losses, so that wiring,
printing, lowering and export need to know nothing of the rule. It may act at five moments, in this order:

* ``rewrite``, once for the typed graph, before anything is attached: for rules that change inference as well;
* ``attach``, for every link that names the rule: which value the upper task reads while the model learns;
* ``signal``, when all links are attached, once for every value that such links leave: δ, what its task learns from;
* ``finish``, once, with all the rule's edges: for rules that look at the whole network;
* ``layers``, once, on the flat graph: for rules that change ops.

Most rules need only ``signal``: the upper task then reads the lower one's value as a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from r2d2c.graph import Credit, Graph, Init, Link, Loss, Node, Region, Task, Value
from r2d2c.ops.record import Op
from r2d2c.types import DimLike, TensorType

if TYPE_CHECKING:
    from r2d2c.credit.check import LinkCheck
    from r2d2c.credit.options import Option


class Labels(NamedTuple):
    """A target of class labels: the value of the port, and how many classes there are."""

    value: Value
    classes: int


class Builder(Protocol):
    """What a rule builds with. All values are values of the training graph."""

    def type(self, value: Value) -> TensorType: ...

    def task(self, name: str) -> Task: ...

    def node(self, op: str, *inputs: Value | float, name: str = "", **attrs: object) -> Value:
        """Add a node of any op, by its name in a spec; of an op with several outputs, its first."""

    def number(self, value: float) -> Value:
        """A constant number."""

    def batch(self, value: Value) -> Value:
        """B: how many samples a value has along its first axis. δ per sample is B times the gradient of a mean."""

    def stop(self, value: Value) -> Value:
        """The value as a constant."""

    def leaf(self, value: Value) -> Value:
        """The value as a constant from which a gradient can be taken back with `gradient` or `vjp`; one a value."""

    def gradient(self, leaf: Value) -> Value:
        """What all that learns above sends back to a `leaf`: Σ ∂L/∂leaf over weighted losses and signals."""

    def fresh_leaf(self, value: Value, name: str) -> Value:
        """A leaf of one's own, for `vjp`."""

    def vjp(self, output: Value, wrt: Value, cotangent: Value | None = None) -> Value:
        """cotangentᵀ·∂output/∂wrt; without a cotangent the gradient of a scalar. A constant for learning."""

    def gradients(
        self, outputs: Sequence[Value], wrt: Sequence[Value], cotangents: Sequence[Value | None]
    ) -> Sequence[Value]:
        """As `vjp`, of several outputs with respect to several values in one pass."""

    def storage(
        self,
        name: str,
        type_: TensorType | Sequence[DimLike],
        init: Init | str,
        kind: Literal["param", "frozen", "statistic"],
    ) -> Value:
        """Add storage of the rule and read it. Of dims alone, it has the dtype of the link's value."""

    def signal(self, value: Value, delta: Value) -> None:
        """Let δ be the gradient of what should shrink at ``value``: it trains what the value is made with."""

    def update(self, storage: str, value: Value) -> None:
        """Write the next value of a statistic, by its full name."""

    def plastic(self, parameter: str, change: Value) -> None:
        """Let a parameter change by ``change`` times its rate, from no loss at all."""

    def loss(self, loss: Loss) -> None:
        """Add an auxiliary loss."""

    @property
    def labels(self) -> Labels | None:
        """The first target that is a class label of known range, if there is one."""

    def label(self, name: str) -> Labels | None:
        """The target of that name, if it is a class label of known range."""

    def target(self, name: str) -> Value:
        """The target of that name."""


class Attaching(Builder, Protocol):
    """What edges and networks share: regions are still called."""

    def call(self, task: str, instead: Mapping[Value, Value], name: str = "") -> tuple[Value, ...]:
        """Run a task's behavior again, with other values in place of some that it reads while it learns."""

    def errors(self) -> Sequence[tuple[Value, Value]]:
        """(output, ∂L/∂output) of every output above that a loss at the end of the graph reads. Not in ``attach``."""

    def error(self, value: Value) -> Value:
        """∂L/∂value of a task's value, from all that reads it; it goes on training the task. Not in ``attach``."""

    def delta(self, value: Value) -> Value:
        """All that teaches a task at a value of its: `error`, and what the rules of its links send. In ``finish``."""

    def parameters(self, task: str) -> Mapping[str, Value]:
        """The parameters of a task's behavior by name, ``classify.logits.linear.weight``, as constants."""

    def true_gradient(self, value: Value) -> Value:
        """∂L/∂value through all tasks that read it as a `leaf`, as backprop has it, whatever these tasks learn from.

        Not in ``attach``."""


class Edge(Attaching, Protocol):
    """What a rule sees of a link it is attached to. Storage is named after the lower task."""

    @property
    def link(self) -> Link: ...

    @property
    def credit(self) -> Credit: ...

    @property
    def name(self) -> str:
        """``TASK.RULE``, what its storage and losses are named after; with h's name if the task has several h."""

    @property
    def value(self) -> Value:
        """h: the value of the lower task."""

    @property
    def feed(self) -> Value | None:
        """The representative to read instead, as a constant from which its own gradient is taken back."""

    def option(self, name: str) -> Any:
        """The value of one of the rule's options, given or by default."""

    def learn_again(self) -> None:
        """In ``signal``: let δ train a second run of the task, on the same input and with the same random numbers.

        Nothing of the first run then has to be kept until δ is known. It stays with the first run where a gradient
        comes back over a link from below.
        """

    def apply(self, option: str, *values: Value) -> Value | None:
        """The block that an option names, applied to values; None if the option is not given."""


class Network(Attaching, Protocol):
    """All edges of one rule, lower ones first, when everything is attached."""

    @property
    def edges(self) -> Sequence[Edge]: ...

    @property
    def losses(self) -> Mapping[str, Loss]:
        """The losses that train, those that rules added included."""

    def show(self, loss: str, trains: Value) -> None:
        """Let a loss train through another value than the one it shows."""

    @property
    def tasks(self) -> Sequence[str]:
        """The tasks that run while the model learns, lower ones first."""

    def loss_reads(self, loss: str) -> Sequence[Value]:
        """What a loss reads."""

    def gives(self, task: str) -> Sequence[Value]:
        """The values of a task's behavior."""

    def reads(self, task: str) -> Sequence[Value]:
        """What a task's behavior reads while it learns."""

    def loss_again(self, loss: str, instead: Mapping[Value, Value], name: str = "") -> Value:
        """The value of a loss with other values in place of some that it reads."""


class Layers(Builder, Protocol):
    """The flat graph, for rules that change ops."""

    @property
    def links(self) -> Sequence[Link]:
        """The rule's links."""

    def option(self, link: Link, name: str) -> Any: ...

    def behavior(self, task: str) -> Sequence[Node]:
        """The nodes of a task's behavior."""

    def between(self, link: Link) -> Sequence[Node]:
        """The nodes of the upper task that a link's value reaches."""

    def parameter(self, value: Value | None) -> str | None:
        """The name of the storage that a value reads, if it is a parameter."""

    def type_of(self, parameter: str) -> TensorType: ...

    def step(self, loop: Node) -> Region:
        """The step of a loop."""

    def at_steps(self, loop: Node, value: Value) -> Value:
        """A value of a loop's step, at every step."""

    def like(self, parameter: str, name: str) -> Value:
        """Fixed storage of another parameter's type and distribution, by its full name."""

    def keep(self, name: str, type_: TensorType, init: Init) -> Value:
        """A statistic, by its full name."""

    def at(self, link: Link) -> None:
        """Name what follows after a link."""

    def replace(self, node: Node, op: str, *more: Value) -> None:
        """Put another op in a node's place, with the same inputs and more."""


@dataclass(frozen=True, slots=True)
class CreditRule:
    """A record.

    delta: what reaches h from above, in words for `r2d2c ops --credit` and the reference.
    attach, signal, finish, layers, rewrite: what it does, see above. check: reports why the rule cannot stand on a link.
    attaches: where it may stand.
    keeps_distance: whether a lower task that is not an output keeps its own distance under this rule.
    takes_feed: whether a link with this rule may have `feed`.
    arguments: its options, or the names of numbers that must be given, ``truncate(k)``.
    phases: the phases in which the training graph runs, for rules that need several.
    """

    name: str
    doc: str
    delta: str
    attach: Callable[[Edge], Value] | None = None
    signal: Callable[[Edge], Value] | None = None
    finish: Callable[[Network], None] | None = None
    layers: Callable[[Layers], None] | None = None
    rewrite: Callable[[Graph, Sequence[Link], Mapping[str, Op]], Graph] | None = None
    check: Callable[[LinkCheck], None] | None = None
    attaches: tuple[Literal["edge", "region", "op", "carry"], ...] = ("edge",)
    keeps_distance: bool = False
    takes_feed: bool = False
    arguments: tuple[Option | str, ...] = ()
    phases: tuple[str, ...] = ("learn",)
    colour: str = "#555555"


__all__ = ["Builder", "CreditRule", "Edge", "Labels", "Layers", "Network"]
