"""Where the entries of a grown axis are: which new index each old one has. Of graphs alone, without torch.

A wider layer has its old units first. What is made of several axes has them elsewhere: of `concat(a, b)` with a wider
`a` the columns of `b` move up, the old columns of a flattened image lie in blocks, one a channel. So every axis of
every value is a variable; ops say which are the same (`union`), and which are made of which (`Cat`, `Group`, `Sub`).
Variables that are made of no others have their old entries first, all others follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from r2d2c.graph import Graph, Node, Value
from r2d2c.opgraph import Ints
from r2d2c.source import Span

Sizes = tuple[int, int]
# An axis of a value, or one that no value has by itself, such as a head's width.
Var: TypeAlias = tuple[Value | str, int]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an axis: its size before and now, and its variable if that grew."""

    sizes: Sizes
    var: Var | None


@dataclass(frozen=True, slots=True)
class Cat:
    """The axis is these, one behind the other."""

    whole: Var
    parts: tuple[Part, ...]
    node: Node


@dataclass(frozen=True, slots=True)
class Group:
    """The axis is all pairs (triples, …) of entries of these, the last one fastest."""

    whole: Var
    parts: tuple[Part, ...]
    node: Node


@dataclass(frozen=True, slots=True)
class Sub:
    """`part` is a range of `whole`, from `before` in the old one and from `now` in the new one."""

    whole: Var
    part: Part
    before: int
    now: int
    node: Node


Relation = Cat | Group | Sub


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why it cannot be said where the old entries of an axis are."""

    what: str
    origin: Span | None


@dataclass(slots=True)
class System:
    """Variables, what is known of them, and what follows."""

    sizes: dict[Var, Sizes] = field(default_factory=dict)
    parents: dict[Var, Var] = field(default_factory=dict)
    relations: list[Relation] = field(default_factory=list)
    first: set[Var] = field(default_factory=set)
    found: dict[Var, Ints] = field(default_factory=dict)
    doubts: dict[Var, Doubt] = field(default_factory=dict)

    def root(self, var: Var) -> Var:
        while (above := self.parents.get(var, var)) != var:
            self.parents[var] = var = self.parents.get(above, above)
        return var

    def union(self, one: Var | None, other: Var | None) -> None:
        """These are the same axis, if both grew, by as much."""
        if one is None or other is None or self.sizes[one] != self.sizes[other]:
            return
        here, there = self.root(one), self.root(other)
        if here != there:
            self.parents[there] = here

    def doubt(self, var: Var | None, what: str, origin: Span | None) -> None:
        if var is not None:
            self.doubts.setdefault(self.root(var), Doubt(what, origin))

    def solve(self) -> None:
        """Find the places of all that can be known. Variables in ``first``, and what is them, have old entries first."""
        made = {self.root(r.whole) for r in self.relations if not isinstance(r, Sub)}
        made |= {self.root(r.part.var) for r in self.relations if isinstance(r, Sub) and r.part.var}
        self.doubts = {self.root(var): doubt for var, doubt in self.doubts.items()}
        for root in self._first() - made:
            self._know(root, np.arange(self.sizes[root][0]), None)
        todo = True
        while todo:
            # Every one of them is followed, whatever the ones before gave.
            todo = sum(self._follow(relation) for relation in self.relations) > 0

    def _first(self) -> set[Var]:
        """The variables in ``first``, and the parts of these: of `heads x width` units, heads and widths."""
        found = {self.root(var) for var in self.first}
        todo = True
        while todo:
            size = len(found)
            for relation in self.relations:
                if not isinstance(relation, Sub) and self.root(relation.whole) in found:
                    found |= {self.root(part.var) for part in relation.parts if part.var is not None}
            todo = len(found) > size
        return found

    def places(self, var: Var) -> Ints | Doubt:
        """i64[old]: the new index of every old one."""
        root = self.root(var)
        if root in self.doubts:
            return self.doubts[root]
        if root not in self.found:
            return Doubt("nothing says which of its entries are the old ones", None)
        return self.found[root]

    def _know(self, var: Var, places: Ints | None, node: Node | None) -> bool:
        """Note what follows for a variable; whether that is news."""
        root = self.root(var)
        if places is None or root in self.doubts:
            return False
        if root not in self.found:
            self.found[root] = places
            return True
        if np.array_equal(self.found[root], places):
            return False
        what = f"`{node.op}` puts its old entries elsewhere than another op" if node is not None else ""
        self.doubts[root] = Doubt(what, node.origin if node is not None else None)
        return True

    def _doubt_of(self, root: Var, what: str, node: Node) -> bool:
        """Note a doubt; whether that is news."""
        news = root not in self.doubts
        self.doubts.setdefault(root, Doubt(what, node.origin))
        return news

    def _part(self, part: Part) -> Ints | None:
        if part.var is None:
            return np.arange(part.sizes[0]) if part.sizes[0] in (0, part.sizes[1]) else None
        root = self.root(part.var)
        return None if root in self.doubts else self.found.get(root)

    def _follow(self, relation: Relation) -> bool:
        whole = self.root(relation.whole)
        known = None if whole in self.doubts else self.found.get(whole)
        if isinstance(relation, Sub):
            return self._sub(relation, known)
        parts = [self._part(part) for part in relation.parts]
        if all(part is not None for part in parts):
            join = _joined if isinstance(relation, Cat) else _crossed
            made = join([p for p in parts if p is not None], [part.sizes[1] for part in relation.parts])
            return self._know(whole, made, relation.node)
        if known is None:
            return False
        apart = _cut if isinstance(relation, Cat) else _uncrossed
        split = apart(known, [part.sizes for part in relation.parts])
        if split is None:
            what = f"`{relation.node.op}` takes its old entries apart otherwise than they lie"
            return self._doubt_of(whole, what, relation.node)
        pairs = zip(relation.parts, split, strict=True)
        return sum(self._know(p.var, places, relation.node) for p, places in pairs if p.var is not None) > 0

    def _sub(self, relation: Sub, known: Ints | None) -> bool:
        var, (old, new) = relation.part.var, relation.part.sizes
        if known is None or var is None:
            return False
        places = known[relation.before : relation.before + old] - relation.now
        if len(places) != old or (old and (places.min() < 0 or places.max() >= new)):
            return self._doubt_of(
                self.root(var), "it is a slice of other columns than in the run", relation.node
            )
        return self._know(var, places, relation.node)


def _joined(parts: Sequence[Ints], sizes: Sequence[int]) -> Ints:
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.concatenate([places + start for places, start in zip(parts, starts, strict=True)])


def _crossed(parts: Sequence[Ints], sizes: Sequence[int]) -> Ints:
    flat = np.zeros(1, np.int64)
    for places, size in zip(parts, sizes, strict=True):
        flat = (flat[:, None] * size + places[None, :]).reshape(-1)
    return flat


def _cut(whole: Ints, sizes: Sequence[Sizes]) -> list[Ints] | None:
    """The parts of a whole, if each lies where it should."""
    found, before, now = [], 0, 0
    for old, new in sizes:
        places = whole[before : before + old] - now
        if old and (places.min() < 0 or places.max() >= new):
            return None
        found.append(places)
        before, now = before + old, now + new
    return found


def _uncrossed(whole: Ints, sizes: Sequence[Sizes]) -> list[Ints] | None:
    """The axes whose pairs these are, if they are that."""
    before, now = [old for old, _ in sizes], [new for _, new in sizes]
    found = []
    for axis, places in enumerate(np.unravel_index(whole, now)):
        grid = np.moveaxis(places.reshape(before), axis, 0)
        line = grid.reshape(len(grid), -1)
        if (line != line[:, :1]).any():
            return None
        found.append(line[:, 0].astype(np.int64))
    return found


def plain(size: Any) -> int | None:
    """A size that is known before the model runs."""
    return int(size) if isinstance(size, int) else None


@dataclass(slots=True)
class Pairs:
    """The values that two graphs both have, and the axes of these that grew.

    old, new: flat graphs. names: what is called otherwise in the old one, by the new prefix.
    """

    old: Graph
    new: Graph
    names: Mapping[str, str] = field(default_factory=dict)
    system: System = field(default_factory=System)
    theirs: dict[str, Node] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for region in self.old.regions.values():
            for node in region.nodes:
                self.theirs.setdefault(_key(node, region.name, {}), node)

    def node(self, node: Node, region: str) -> Node | None:
        """The node of the old graph that this one goes on from."""
        found = self.theirs.get(_key(node, region, self.names))
        same = found is not None and found.op == node.op and len(found.outputs) == len(node.outputs)
        return found if same else None

    def sizes(self, value: Value | None, before: Value | None) -> list[tuple[Any, Any]] | None:
        """Of every axis its size before and now; None of values that are not both."""
        if value is None or before is None:
            return None
        now, old = self.new.types.get(value), self.old.types.get(before)
        if now is None or old is None or now.rank != old.rank:
            return None
        return list(zip(old.dims, now.dims, strict=True))

    def declare(self, value: Value, before: Value) -> None:
        """Make variables of the axes that grew, and note those that shrank."""
        for axis, (old, new) in enumerate(self.sizes(value, before) or ()):
            was, is_ = plain(old), plain(new)
            if was is not None and is_ is not None and is_ > was:
                self.system.sizes[value, axis] = was, is_

    def var(self, value: Value | None, axis: int) -> Var | None:
        """The variable of an axis, counted from the end if negative; None if it did not grow."""
        if value is None:
            return None
        type_ = self.new.types.get(value)
        if type_ is None or not -type_.rank <= axis < type_.rank:
            return None
        found: Var = (value, axis % type_.rank)
        return found if found in self.system.sizes else None


def renamed(name: str, names: Mapping[str, str]) -> str:
    """A name of the new graph as it is in the old one."""
    for new, old in names.items():
        if name == new or name.startswith(f"{new}."):
            return old + name[len(new) :]
    return name


def _key(node: Node, region: str, names: Mapping[str, str]) -> str:
    if node.op == "param":
        return f"param {renamed(node.attrs['storage'], names)}"
    if node.op == "port":
        return f"port {renamed(region, names)} {renamed(node.attrs['name'], names)}"
    return renamed(node.id, names)
