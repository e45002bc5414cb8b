"""What must hold of op graphs: checks of single nodes, of explicit ones, and of whole tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from r2d2c.mutations import ANY_NAME, INPUT_NAME, NODE_NAME, Add, refuse
from r2d2c.opgraph import ARGUMENTS, KINDS, NUMBER, Ints, Topology, depths, empty, per_kind, used
from r2d2c.opkind_formulas import evaluate as formula_value
from r2d2c.opkinds import UnknownKindError, kind_of

_SAMPLES = 256


def check_name(name: str, taken: Mapping[str, int]) -> None:
    """Refuse a name that is no name, is an input's, or is taken."""
    if not ANY_NAME.fullmatch(name):
        refuse("name", f"`{name}` is no name for a node", name=name, remedy="use letters, digits and `_`")
    if INPUT_NAME.fullmatch(name):
        refuse("name", f"`{name}` is the name of an input", name=name)
    if name in taken:
        refuse("name", f"there is a node `{name}` already", name=name)


def check_kind(new: Add) -> int:
    """The index of a new node's op; refuses unknown ops, the wrong count of arguments, numbers that are none."""
    if new.kind not in KINDS:
        known = ", ".join(KINDS)
        refuse("kind", f"`{new.name}`: there is no op `{new.kind}`", name=new.name, remedy=f"ops: {known}")
    index = KINDS[new.kind]
    arity = kind_of(index).arity
    if len(new.args) != arity:
        takes = f"`{new.kind}` takes {arity} argument{'s' if arity > 1 else ''}, not {len(new.args)}"
        refuse("arity", f"`{new.name}`: {takes}", name=new.name)
    for arg in new.args:
        if not isinstance(arg, str) and not math.isfinite(arg):
            refuse("number", f"`{new.name}`: a number starts at {arg}", name=new.name)
    return index


def check_place(new: Add) -> None:
    """Refuse a new node without a place, where all others have one."""
    place = new.place
    if place is None or len(place) != 3 or not all(map(math.isfinite, place)):
        nowhere = f"`{new.name}` has {'no place' if place is None else f'the place {place}'}"
        remedy = "give it one, of three finite numbers: `op_places.above` of what it reads"
        refuse("place", f"{nowhere}, and the nodes of this op graph have some", name=new.name, remedy=remedy)


def check_alive(new: Add) -> None:
    """Refuse a node that nothing could ever be learned from: its value would be the same for all inputs."""
    if not any(isinstance(arg, str) for arg in new.args):
        dead = f"`{new.name}` reads no column: its value would be the same for all inputs"
        refuse("dead", dead, name=new.name, remedy="let it read an input or a node")
    if is_constant(new):
        reads = ", ".join(map(str, new.args))
        dead = f"`{new.name}`: {new.kind}({reads}) is the same for all inputs"
        refuse("dead", dead, name=new.name, remedy="let it read other columns, or start its number elsewhere")


def is_constant(new: Add) -> bool:
    """Whether a new node, of a known op, has the same value for all inputs."""
    return constant(new.kind, _labels(new.args))


def pattern(columns: Sequence[int]) -> tuple[str | float, ...]:
    """Which of a node's arguments are the same column, for `constant`; its numbers count as some number."""
    return _labels([0.7 if column == NUMBER else f"c{column}" for column in columns])


def _labels(args: Sequence[str | float]) -> tuple[str | float, ...]:
    names: dict[str, str] = {}
    return tuple(
        names.setdefault(arg, "abc"[len(names)]) if isinstance(arg, str) else float(arg) for arg in args
    )


def constant(kind: str, args: tuple[str | float, ...]) -> bool:
    """Whether an op of these arguments (equal letters: the same column) has one value, whatever the columns hold.

    Found by trying columns of all magnitudes, so it holds for every op there will be.
    """
    return _constant(KINDS[kind], kind, args)


# As many as a batch has that is drawn first and applied then.
@lru_cache(16_384)
def _constant(number: int, kind: str, args: tuple[str | float, ...]) -> bool:
    """number: what the name means just now."""
    columns = dict(zip("abc", _tries(), strict=True))
    given = [columns[arg] if isinstance(arg, str) else np.full(_SAMPLES, arg) for arg in args]
    with np.errstate(all="ignore"):
        found = evaluate(kind, given)
    found = found[np.isfinite(found)]
    return not len(found) or bool(found.min() == found.max())


@lru_cache(1)
def _tries() -> Ints:
    generator = np.random.default_rng(0)
    shape = (ARGUMENTS, _SAMPLES)
    tries: Ints = 10.0 ** generator.uniform(-3, 4, shape) * generator.choice([-1.0, 1.0], shape)
    return tries


def commutes(kind: str) -> bool:
    """Whether an op of two arguments has the same value when they change places."""
    return _commutes(KINDS[kind], kind)


@lru_cache(64)
def _commutes(number: int, kind: str) -> bool:
    """number: what the name means just now."""
    first, second = np.random.default_rng(1).normal(size=(2, _SAMPLES))
    return kind_of(number).arity == 2 and np.array_equal(
        evaluate(kind, [first, second]), evaluate(kind, [second, first])
    )


def evaluate(kind: str, args: Sequence[Ints]) -> Ints:
    """An op's values, in numpy and in the precision of its arguments."""
    formula = kind_of(KINDS[kind]).formula
    return np.broadcast_to(formula_value(formula, dict(zip("abc", args, strict=False))), np.shape(args[0]))


def downstream(args: Ints, inputs: int, rows: Iterable[int], most: int | None = None) -> list[int]:
    """These rows and all that read them, directly or not, by row; stops early where there are more than `most`."""
    found = np.zeros(len(args), bool)
    front = np.fromiter(rows, np.int64)
    count = 0
    # One more place, which NUMBER picks; it stays false.
    read = np.zeros(inputs + len(args) + 1, bool)
    while len(front) and (most is None or count <= most):
        found[front] = True
        count += len(front)
        read[:] = False
        read[inputs + front] = True
        front = np.flatnonzero(read[args].any(1) & ~found)
    reached: list[int] = np.flatnonzero(found).tolist()
    return reached


class Readers:
    """Which nodes read a row, by one look at the whole table: for many questions about one table.

    Rows may be freed after that look, and are not found then; other changes of the table are not seen.
    """

    def __init__(self, args: Ints, inputs: int) -> None:
        self._args, self._inputs = args, inputs
        read = args.ravel()
        self._order = np.argsort(read, kind="stable") // args.shape[1]
        self._starts = np.searchsorted(
            np.sort(read), np.arange(inputs, inputs + len(args) + 1, dtype=read.dtype)
        )

    def of(self, row: int) -> list[int]:
        """The rows of the nodes that read a row, in their order."""
        rows = self._order[self._starts[row] : self._starts[row + 1]].tolist()
        column = self._inputs + row
        return [reader for reader in sorted(set(rows)) if column in self._args[reader].tolist()]

    def downstream(self, row: int, most: int | None = None) -> list[int]:
        """As the function of this name."""
        found, front = {row}, [row]
        while front and (most is None or len(found) <= most):
            front = [reader for one in front for reader in self.of(one) if reader not in found]
            found.update(front)
            front = sorted(set(front))
        return sorted(found)


def find_cycle(topology: Topology, depth: Ints) -> list[str]:
    """The names along one cycle, each read by the one before. depth: as `depths` gives it, -1 somewhere."""
    stuck = depth < 0
    row = int(np.flatnonzero(stuck)[0])
    path: list[int] = []
    while row not in path:
        path.append(row)
        nodes = topology.args[row] - topology.inputs
        row = next(node for node in nodes.tolist() if node >= 0 and stuck[node])
    return [str(topology.names[at]) for at in path[path.index(row) :]]


def build(inputs: int, capacity: int, nodes: Sequence[Add]) -> tuple[Topology, Ints]:
    """The op graph of explicit nodes, in any order, and its numbers, f64[capacity, 3].

    Raises `MutationError` for unknown ops and names, wrong counts of arguments, cycles, constant nodes, and more
    nodes than there is room for.
    """
    if len(nodes) > capacity:
        refuse("full", f"there are {len(nodes)} nodes, and room for {capacity}", remedy="raise `capacity`")
    start = empty(inputs, capacity)
    kind, args, numbers = start.kind.copy(), start.args.copy(), np.zeros((capacity, ARGUMENTS))
    rows: dict[str, int] = {}
    for row, node in enumerate(nodes):
        check_name(node.name, rows)
        rows[node.name] = row
        kind[row] = check_kind(node)
    for row, node in enumerate(nodes):
        for place, arg in enumerate(node.args):
            if isinstance(arg, str):
                args[row, place] = find_column(arg, node.name, inputs, rows)
            else:
                numbers[row, place] = arg
    last = max((int(found[1]) for name in rows if (found := NODE_NAME.fullmatch(name))), default=-1)
    names = (*rows, *[None] * (capacity - len(rows)))
    topology = replace(start, kind=kind, args=args, names=names, next=last + 1)
    depth = depths(topology)
    if (depth < 0).any():
        cycle = find_cycle(topology, depth)
        way = " reads ".join(f"`{name}`" for name in [*cycle, cycle[0]])
        refuse("cycle", f"these nodes read each other in a circle: {way}", name=cycle[0])
    for node in nodes:
        check_alive(node)
    return topology, numbers


def find_column(name: str, reader: str, inputs: int, rows: Mapping[str, int]) -> int:
    """The column of a name, as an argument of `reader`; refuses (`unknown`) what is neither input nor node."""
    if name in rows:
        return inputs + rows[name]
    found = INPUT_NAME.fullmatch(name)
    if found and int(found[1]) < inputs:
        return int(found[1])
    there = f"there are {inputs} inputs, the first is `x0`" if found else "it is no input and no node"
    refuse("unknown", f"`{reader}` reads `{name}`: {there}", name=reader)


def problems(topology: Topology) -> list[str]:
    """What is wrong with a table, in words; empty for every table that is built and mutated by these modules."""
    live, capacity = topology.live, topology.capacity
    if topology.args.shape != (capacity, ARGUMENTS) or len(topology.names) != capacity:
        return ["the table's arrays are not of one length"]
    try:
        per_kind(topology.kind, lambda kind: kind.arity)
    except UnknownKindError:
        return ["a kind is no op"]
    if (topology.args < NUMBER).any() or (topology.args >= topology.columns).any():
        return ["an argument is no column"]
    found = []
    named = [name for name in topology.names if name is not None]
    if len(set(named)) != len(named):
        found.append("a name is used twice")
    if [name is not None for name in topology.names] != live.tolist():
        found.append("names and nodes are not in the same rows")
    if any(int(match[1]) >= topology.next for name in named if (match := NODE_NAME.fullmatch(name))):
        found.append("the next name has been used")
    reads = used(topology)
    if (topology.args[~reads] != NUMBER).any():
        found.append("a node has more arguments than its op takes, or a free row has some")
    nodes = topology.args[topology.args >= topology.inputs] - topology.inputs
    if not live[nodes].all():
        found.append("a node reads a free row")
    # Without cycles, a node that reads a column depends on an input, as that column does.
    elif (depths(topology) < 0).any():
        found.append("nodes read each other in a circle")
    if not (reads & (topology.args != NUMBER)).any(1)[live].all():
        found.append("a node reads no column")
    return found
