"""The op of an op graph: columns of inputs, then a column for every row of its table of ops.

A spec cannot call it by name: `op_graphs` declares instances (see `resolve/op_graphs.py`). The table is in buffers of
the model, so it is data here: only the capacity shows in shapes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from r2d2c.graph import Init
from r2d2c.ops.record import Arg, Op, ParamSpec, ShapeError, Shapes
from r2d2c.source import Span
from r2d2c.types import TensorType

if TYPE_CHECKING:
    from r2d2c.formulas import Formula
    from r2d2c.growth import OpGraph
    from r2d2c.places import Placing

# How far the running statistics move in a learning pass, as in `batch_norm`.
MOMENTUM = 0.1
EPS = 1e-5
ARGUMENTS = 3
# The buffers of the table, with their dims where the capacity is 0.
TABLE: dict[str, tuple[int, ...]] = {
    "kind": (0,),
    "args": (0, ARGUMENTS),
    "number": (0,),
    "born": (0,),
    "next": (1,),
}
STATISTICS = ("mean", "variance")
# Where the ops are; only with places.
PLACE = "place"
AXES = 3


def parts_of(graph: Start | OpGraph) -> tuple[str, ...]:
    """The buffers that the topology of an op graph is in."""
    return (*TABLE, PLACE) if graph.places is not None else tuple(TABLE)


@dataclass(frozen=True, slots=True)
class Written:
    """An op that the spec writes. args: `x0`, `x1`, … or the name of another op; a float or None: a number of its own, and
    what it starts at if that is given."""

    name: str
    kind: str
    args: tuple[str | float | None, ...]
    origin: Span | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Start:
    """How an op graph begins: the ops that the spec writes, in an order in which they can be computed, and random ones.

    kinds: what may grow. depth: the most random ops in a row. places: where the input columns are; then each op has a
    place too, and random ones keep to `wire` and `reach` (see `op_places.Space`).
    """

    name: str
    capacity: int
    kinds: tuple[str, ...] = ()
    nodes: tuple[Written, ...] = ()
    random: int = 0
    depth: int | None = None
    places: Placing | None = None
    wire: Formula | None = None
    reach: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The written ops have the first numbers."""
        return tuple(node.name for node in self.nodes)

    def __str__(self) -> str:
        shown = [f"{len(self.nodes)} written"] if self.nodes else []
        shown += [f"{self.random} random"] if self.random else []
        where = f", at `{self.places.name}`" if self.places is not None else ""
        return f"{self.name}, {' and '.join(shown) or 'no'} ops of at most {self.capacity}{where}"


@dataclass(frozen=True, slots=True)
class First:
    """Where a buffer of an op graph gets its first values: all of one op graph are drawn together."""

    start: Start
    inputs: int
    part: str

    def __str__(self) -> str:
        return str(self.start)

    def draw(self, seed: int) -> Any:
        """The numpy array of this part; ``seed`` is that of the model."""
        from r2d2c.ops.op_graph_rows import first_rows

        return first_rows(self.start, self.inputs, seed)[self.part]


def _params(s: Shapes, a: Any) -> dict[str, ParamSpec]:
    start, inputs = a.start, _inputs(s, a)

    def spec(part: str, dims: tuple[int, ...], kind: Any, dtype: str | None) -> ParamSpec:
        init = Init("topology", (First(start, inputs, part),))
        return ParamSpec(dims, init, ("op", "argument")[: len(dims)], kind, dtype=dtype)

    found = {"numbers": spec("numbers", (start.capacity, ARGUMENTS), "param", None)}
    for part, dims in TABLE.items():
        found[part] = spec(part, tuple(d or start.capacity for d in dims), "frozen", "i64")
    for part, init in (("mean", "zeros"), ("variance", "ones")):
        found[part] = ParamSpec((start.capacity,), Init(init), ("op",), "statistic")
    if start.places is not None:
        if start.places.count != inputs:
            name, count = start.places.name, start.places.count
            there = f"the places `{name}` are {count} point" + "s" * (count != 1)
            columns = f"{inputs} column" + "s" * (inputs != 1)
            message = f"`{start.name}` reads {columns}, and {there}: each column is at one"
            raise ShapeError(message, "x", fix=f"let the set `{name}` have a point for every column")
        found[PLACE] = spec(PLACE, (start.capacity, AXES), "frozen", "f32")
    return found


def _inputs(s: Shapes, a: Any) -> int:
    """How many columns `x` has."""
    if not a.x.floating or a.x.rank < 2:
        raise ShapeError(
            f"the op graph `{a.start.name}` reads columns of numbers, f32[B, D], and `x` is {a.x}", "x"
        )
    width = s.resolve(a.x.dims[-1])
    if not isinstance(width, int):
        message = f"the op graph `{a.start.name}` has to know how many columns it reads, and `x` is {a.x}"
        raise ShapeError(message, "x")
    return int(width)


def _shape(s: Shapes, a: Any) -> TensorType | tuple[TensorType, ...]:
    columns: TensorType = a.x.with_dims((*a.x.dims[:-1], _inputs(s, a) + a.start.capacity))
    return (columns,) if a.mean is None else (columns, a.mean, a.variance)


def _lower(b: Any, a: Any) -> Any:
    tables = (a.numbers, a.kind, a.args)
    if a.mean is None:
        function = "op_graph_layer" if a.normalise == "layer" else "op_graph"
        return (b(f"r2d2c.lower.opgraph_call.{function}", a.x, *tables),)
    if not b.training:
        found = b("r2d2c.lower.opgraph_call.op_graph_normalised", a.x, *tables, a.mean, a.variance)
        return found, a.mean, a.variance
    found = b("r2d2c.lower.opgraph_call.op_graph_learning", a.x, *tables, a.mean, a.variance)
    return tuple(b.item(found, port) for port in range(3))


def _onnx(o: Any, a: Any) -> Any:
    from r2d2c.ops.op_graph_onnx import write

    columns = write(o, a)
    return (columns,) if a.mean is None else (columns, a.mean, a.variance)


def _param(name: str, doc: str) -> Arg:
    return Arg(name, "param", doc=doc)


OP_GRAPH = Op(
    "op_graph",
    "The columns of `x`, then the value of every op of an op graph; 0 where a row of its table is free.",
    (
        Arg("x", doc="`[B, D]`"),
        _param("numbers", "`[capacity, 3]`, the ops' own numbers"),
        _param("kind", "`i64[capacity]`, what ops they are; -1: none"),
        _param("args", "`i64[capacity, 3]`, the columns that they read; -1: a number of their own"),
        _param("number", "`i64[capacity]`, the numbers in their names"),
        _param("born", "`i64[capacity]`, how many mutations there had been when they came"),
        _param("next", "`i64[1]`, the number that the next one gets"),
        _param("mean", "the running mean of each, where they are normalised"),
        _param("variance", "the running variance of each"),
        _param(PLACE, "`[capacity, 3]`, where they are, if the op graph has places"),
    ),
    _shape,
    _lower,
    _onnx,
    outputs=("columns", "new_mean", "new_variance"),
    params=_params,
    traits=frozenset({"internal"}),
    family="op graphs",
)
OPS = (OP_GRAPH,)
