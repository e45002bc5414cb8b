"""The sections of a spec as records, and `validate`, which makes them from a YAML tree.

Expressions are still `YScalar`s here; all else is plain values. The keys and kinds of values that are allowed
stand in `section_models.py`, which is imported only when a tree is validated (pydantic takes 50 ms).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.diagnostics import Sink
from r2d2c.source import Span
from r2d2c.syntax.section_errors import report_invalid
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar, YSeq, plain_value

if TYPE_CHECKING:
    from r2d2c.syntax.section_models import Section

RANGE = re.compile(r"\s*([0-9]{1,9})\s*\.\.\s*([0-9]{1,9})\s*(?:=\s*([0-9]{1,9})\s*)?")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Record:
    """What every record has: the place to name in messages, and the node it was made of."""

    span: Span
    node: YNode

    def at(self, key: str) -> Span:
        """The place of the value of one of the record's keys; that of the record where it is not given."""
        value = self.node.get(key) if isinstance(self.node, YMap) else None
        return self.span if value is None else value.span


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Named(Record):
    """A record under a key; its span is that of the key."""

    key: YScalar

    @property
    def name(self) -> str:
        return self.key.value


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dim(Named):
    """A named size: a number, to be inferred, a range (both bounds inclusive, then its usual size), or an expression."""

    value: int | Literal["infer"] | tuple[int, int, int] | YScalar


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Port(Named):
    """An input or a target; its value is its type."""

    value: YScalar


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Places(Named):
    """A set of points: ``grid(8, 8)``."""

    value: YScalar


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Block(Named):
    """A block; its key is the signature, such as ``residual(x, width, rate=0.1)``."""

    body: YScalar
    doc: str | None = None

    @property
    def signature(self) -> YScalar:
        return self.key


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Task(Named):
    """A task."""

    behavior: YScalar
    representative: YScalar | None = None
    distance: YScalar | None = None
    teach: YScalar | None = None
    keep: Literal["own"] | None = None
    weight: YScalar | None = None
    doc: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Link(Named):
    """The annotation of an edge; its key is ``task.value -> task``."""

    credit: YScalar | None = None
    feed: YScalar | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Loss(Named):
    """A further loss."""

    value: YScalar
    steps: YScalar | None = None
    body: YScalar | None = None
    weight: YScalar | None = None
    doc: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Hypernet(Named):
    """A hypernet; ``given`` gives its options that are there, as expressions."""

    makes: YScalar
    mode: YScalar | None = None
    hidden: YScalar | None = None
    act: YScalar | None = None
    rank: YScalar | None = None
    base: YScalar | None = None
    chunks: YScalar | None = None
    normalise: YScalar | None = None
    doc: str | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Memory(Named):
    """A memory store; ``fields`` gives the type of each field of a slot."""

    slots: YScalar
    fields: Mapping[str, YScalar]
    replace: YScalar | None = None
    when: YScalar | None = None
    each_slot: YScalar | None = None
    credit: YScalar | None = None
    shared: bool = False
    doc: str | None = None

    def key_of(self, name: str) -> Span:
        """Where the name of a field stands."""
        entries = self.node.get("fields") if isinstance(self.node, YMap) else None
        key = entries.key(name) if isinstance(entries, YMap) else None
        return self.span if key is None else key.span


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OpGraph(Named):
    """An op graph; ``grow`` has its keys as expressions."""

    capacity: YScalar
    ops: tuple[YScalar, ...] = ()
    start: YScalar | None = None
    nodes: Mapping[str, YScalar] = field(default_factory=dict)
    normalise: YScalar | None = None
    places: YScalar | None = None
    grow: Any = None
    doc: str | None = None

    def key_of(self, name: str) -> Span:
        """Where the name of an op stands."""
        entries = self.node.get("nodes") if isinstance(self.node, YMap) else None
        key = entries.key(name) if isinstance(entries, YMap) else None
        return self.span if key is None else key.span


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Loop(Named):
    """A loop; its key is the signature, such as ``refine(data)``. The values of ``carry`` have `value` and `credit`."""

    body: YScalar
    repeat: YScalar | None = None
    over: YScalar | None = None
    until: YScalar | None = None
    max: YScalar | None = None
    epsilon: YScalar | None = None
    each: Mapping[str, YScalar] = field(default_factory=dict)
    carry: Mapping[str, Any] = field(default_factory=dict)
    widths: Mapping[str, list[YScalar]] = field(default_factory=dict)
    parameters: Literal["shared", "per_step"] = "shared"
    recompute: bool = False
    stateful: bool = False
    doc: str | None = None

    @property
    def signature(self) -> YScalar:
        return self.key

    def key_of(self, section: str, name: str) -> Span:
        """Where a name stands in one of the loop's maps."""
        entries = self.node.get(section) if isinstance(self.node, YMap) else None
        key = entries.key(name) if isinstance(entries, YMap) else None
        return self.span if key is None else key.span


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Output(Named):
    """An output of the model."""

    value: YScalar


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Train(Record):
    """How to train. ``rates``: factors on the learning rate, by the beginning of parameters' names.

    columns: of the data, by the port that takes them. clip: by the beginning of names too, or of the empty one.
    """

    data: str | None = None
    columns: Mapping[str, Sequence[YScalar]] = field(default_factory=dict)
    augment: Mapping[str, YScalar] = field(default_factory=dict)
    workers: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: YScalar | None = None
    schedule: YScalar | None = None
    optimizers: Mapping[str, YScalar] = field(default_factory=dict)
    no_decay: tuple[YScalar, ...] = ()
    clip: Mapping[str, YScalar] = field(default_factory=dict)
    accumulate: int | None = None
    precision: str | None = None
    early_stop: int | None = None
    rates: Mapping[str, YScalar] = field(default_factory=dict)
    sizes: Mapping[str, YScalar] = field(default_factory=dict)
    chunk: int | None = None
    seed: int | None = None
    metrics: tuple[YScalar, ...] = ()
    split: YScalar | None = None
    monitor: YScalar | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Document(Record):
    """A whole spec. The order of its sections here is the order that `fmt` gives them."""

    r2d2c: int
    model: str
    doc: str | None = None
    dims: tuple[Dim, ...] = ()
    imports: tuple[YScalar, ...] = ()
    inputs: tuple[Port, ...] = ()
    targets: tuple[Port, ...] = ()
    places: tuple[Places, ...] = ()
    blocks: tuple[Block, ...] = ()
    hypernets: tuple[Hypernet, ...] = ()
    memories: tuple[Memory, ...] = ()
    op_graphs: tuple[OpGraph, ...] = ()
    loops: tuple[Loop, ...] = ()
    tasks: tuple[Task, ...] = ()
    links: tuple[Link, ...] = ()
    losses: tuple[Loss, ...] = ()
    outputs: tuple[Output, ...] = ()
    credit: YScalar | None = None
    train: Train | None = None


SECTION_NAMES: tuple[str, ...] = tuple(f.name for f in fields(Document) if f.name not in ("span", "node"))
# The sections that are maps, so that `--set train.epochs=3` may add one.
MAP_SECTIONS: tuple[str, ...] = (
    "dims", "inputs", "targets", "places", "blocks", "hypernets", "memories", "op_graphs", "loops", "links", "losses", "outputs", "train",
)  # fmt: skip

# The maps that `--set`, `--epochs` and the like add to a spec that has none.
ADDED_MAPS: tuple[str, ...] = (
    "dims",
    "places",
    "losses",
    "links",
    "train",
    "train.columns",
    "train.augment",
    "train.sizes",
)
# The maps whose keys are names with dots: `--set train.rates.encode.r=0.1` sets `encode.r` there.
DOTTED_MAPS: tuple[str, ...] = ("train.rates", "train.sizes", "train.optimizers", "train.clip")


def validate(tree: YMap, sink: Sink, *, library: bool = False) -> Document | None:
    """The records of a spec, or None after a diagnostic for every mistake in its sections.

    ``library``: the file is imported for its blocks, so tasks and outputs need not be there.
    """
    from pydantic import ValidationError

    from r2d2c.syntax.section_models import SECTIONS, LibraryModel, SpecModel

    model = LibraryModel if library else SpecModel
    try:
        spec = model.model_validate({key.value: _plain(value) for key, value in tree})
    except ValidationError as error:
        report_invalid(tree, error.errors(include_url=False), SECTION_NAMES, sink)
        return None
    built = {s.name: _build(s, tree, getattr(spec, s.name)) for s in SECTIONS}
    given = {name: value for name, value in built.items() if value is not None}
    return Document(span=tree.span, node=tree, **{"model": _default_name(tree.span.source.name), **given})


def _default_name(path: str) -> str:
    """The name of a model that has none: that of its file."""
    name = re.sub(r"\W", "_", PurePath(path).stem, flags=re.ASCII)
    return name if re.match(r"[A-Za-z_]", name) else f"model_{name}".rstrip("_")


def _plain(node: YNode) -> Any:
    """What pydantic looks at: dicts and lists, with scalars left as they are."""
    if isinstance(node, YMap):
        return {key.value: _plain(value) for key, value in node}
    return [_plain(item) for item in node] if isinstance(node, YSeq) else node


def _build(section: Section, tree: YMap, value: Any) -> Any:
    node = tree.get(section.name)
    if value is None or node is None:
        return None
    if section.record is None:
        return tuple(value) if isinstance(value, list) else value
    if not section.one:
        key = tree.key(section.name)
        return section.record(span=key.span if key else node.span, node=node, **_contents(section, value))
    assert isinstance(node, YMap)
    return tuple(
        section.record(span=key.span, node=item, key=key, **_contents(section, value[key.value]))
        for key, item in node
    )


def _contents(section: Section, value: Any) -> dict[str, Any]:
    if section.model is None:
        return {section.field: _size(value) if section.record is Dim else value}
    given = {name: getattr(value, name) for name in section.model.model_fields}
    return {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}


def _size(scalar: YScalar) -> int | str | tuple[int, int, int] | YScalar:
    found = RANGE.fullmatch(scalar.value)
    if found:
        return int(found[1]), int(found[2]), int(found[3] or found[2])
    size = plain_value(scalar)
    return size if isinstance(size, int) or size == "infer" else scalar
