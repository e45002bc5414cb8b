"""How op graphs grow while they are trained: what the spec says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from r2d2c.formulas import Formula, spell
from r2d2c.source import Span

if TYPE_CHECKING:
    from r2d2c.places import Placing

Unit = Literal["epochs", "steps", "plateau"]
Preference = Literal["any", "gradient", "near", "shallow"]
SCORES: dict[str, str] = {
    "effect": "the standard deviation of the node's column, times the norm of its weights in the read-out",
    "magnitude": "the norm of the node's weights in the read-out",
    "taylor": "how much the loss would change, to first order, without the node's column",
    "saliency": "the same as `effect`, of what the other columns cannot make up for (Optimal Brain Surgeon)",
    "depth": "how many nodes the longest path to the node has, itself included",
    "length": "how far the node's arguments lie from it, all together; it needs places",
    "age": "how many rounds of growth the node has lived through",
}


@dataclass(frozen=True, slots=True)
class Every:
    """When it is time: after so many epochs or steps, or when so many epochs brought no progress."""

    unit: Unit
    count: int

    def __str__(self) -> str:
        return f"{self.unit}({self.count})"


@dataclass(frozen=True, slots=True)
class Growing:
    """How an op graph changes in training.

    A round merges, prunes, splits and adds, in this order; the four say how many nodes at most. by: what a node is
    worth; the least goes, and with `below` only what is worth less than that. compensate: the read-outs make up for
    what goes. refit: before all that they go to where the loss is least. whole: nodes that others read may go too, with all that depends on them. prefer: which columns new
    nodes read; reach: how far is near. wire: must hold from the place of every column that a new
    node reads to that of the node (see `places.QUANTITIES`, `op_places`). depth: the most nodes in a row. epochs: after so many of training the op graph
    stays as it is; settle: the last so many of these only merge and prune. frozen: names of nodes that stay as they
    are, or `all` there are when a training begins.
    """

    every: Every
    add: int = 0
    prune: int = 0
    split: int = 0
    merge: int = 0
    by: Formula = "effect"
    below: float | None = None
    compensate: bool = False
    refit: bool = False
    whole: bool = False
    prefer: Preference = "any"
    reach: float = 1.0
    wire: Formula | None = None
    depth: int | None = None
    epochs: int | None = None
    settle: int = 0
    frozen: tuple[str, ...] = ()
    origin: Span | None = field(default=None, compare=False)

    def __str__(self) -> str:
        below = "" if self.below is None else f" below {self.below:g}"
        parts = [f"merge {self.merge}"] if self.merge else []
        parts += [f"prune {self.prune} by {spell(self.by)}{below}"] if self.prune else []
        parts += [f"split {self.split}"] if self.split else []
        parts += [f"add {self.add}"] if self.add else []
        return f"{self.every}: {', '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Reader:
    """A linear that reads the columns of an op graph: its weight [out, in], and where in `in` the columns begin.

    bias: of its own, [out]; None where there is none, or another linear has it too.
    """

    weight: str
    offset: int = 0
    bias: str | None = None


@dataclass(frozen=True, slots=True)
class OpGraph:
    """An op graph of a model: the instance `name`, whose storage is `node.numbers`, `node.kind`, ….

    readers: the linears that read its columns. names: of the explicit nodes, by their numbers. node: the id of its node, whose first output are the columns. places:
    where its input columns are.
    """

    name: str
    inputs: int
    capacity: int
    kinds: tuple[str, ...]
    readers: tuple[Reader, ...] = ()
    growing: Growing | None = None
    names: tuple[str, ...] = ()
    node: str = ""
    origin: Span | None = None
    places: Placing | None = None
