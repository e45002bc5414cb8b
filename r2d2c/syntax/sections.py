"""The sections of a spec as records, and `validate`, which makes them from a YAML tree.

Expressions are still `YScalar`s here; all else is plain values. The keys and kinds of values that are allowed
stand in `section_models.py`, which is imported only when a tree is validated (pydantic takes 50 ms).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from r2d2c.diagnostics import Fix, Sink, suggest
from r2d2c.source import Span
from r2d2c.syntax.yaml_errors import report_missing_space
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar, YSeq, describe, plain_value

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
    """How to train. ``rates``: factors on the learning rate, by the beginning of parameters' names."""

    data: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: YScalar | None = None
    schedule: YScalar | None = None
    rates: Mapping[str, YScalar] = field(default_factory=dict)
    sizes: Mapping[str, YScalar] = field(default_factory=dict)
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
    blocks: tuple[Block, ...] = ()
    hypernets: tuple[Hypernet, ...] = ()
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
    "dims", "inputs", "targets", "blocks", "hypernets", "loops", "links", "losses", "outputs", "train",
)  # fmt: skip

# The maps whose keys are names with dots: `--set train.rates.encode.r=0.1` sets `encode.r` there.
DOTTED_MAPS: tuple[str, ...] = ("train.rates", "train.sizes")


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
        details = [(_locate(tree, e["loc"]), e) for e in error.errors(include_url=False)]
        details.sort(key=lambda d: (d[0].span.source is not tree.span.source, d[0].span.start))
        misspelled = _misspelled(details)
        for place, detail in details:
            if detail["type"] != "missing" or (place.path, place.wanted) not in misspelled:
                _report(place, detail, sink)
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an error of pydantic is: the node, the key above it, and the names on the way."""

    node: YNode
    key: YScalar | None
    path: tuple[str, ...]
    wanted: str = ""

    @property
    def span(self) -> Span:
        if isinstance(self.node, YScalar) and not self.node.is_empty:
            return self.node.span
        if self.key is not None:
            return self.key.span
        first = self.node.entries[0][0].span if isinstance(self.node, YMap) and self.node.entries else None
        return first or self.node.span


def _locate(tree: YMap, loc: tuple[int | str, ...]) -> _Place:
    """The node of a pydantic location; ``wanted`` is the last part where it names a key that is not there."""
    node: YNode = tree
    key: YScalar | None = None
    path: list[str] = []
    for part in loc:
        if part == "[key]" and key is not None:
            return _Place(key, key, tuple(path))
        if isinstance(node, YMap):
            found = next(((k, v) for k, v in node if k.value == part), None)
            if found is None:
                return _Place(node, key, tuple(path), str(part))
            key, node = found
            path.append(str(part))
        elif isinstance(node, YSeq) and isinstance(part, int):
            node, key = node.items[part], None
    return _Place(node, key, tuple(path))


def _misspelled(details: list[tuple[_Place, Any]]) -> set[tuple[tuple[str, ...], str]]:
    """The keys that unknown keys stand for: that these are missing is no second mistake."""
    unknown = [place.path for place, detail in details if detail["type"] == "extra_forbidden"]
    missing = [place for place, detail in details if detail["type"] == "missing"]
    return {
        (place.path, place.wanted)
        for place in missing
        for *above, name in unknown
        if tuple(above) == place.path and suggest(name, [place.wanted])
    }


def _report(place: _Place, detail: Any, sink: Sink) -> None:
    kind: str = detail["type"]
    if kind == "extra_forbidden":
        _report_unknown_key(place, sink)
    elif kind == "missing":
        where = _where(place.path)
        fix = "start the spec with the line `r2d2c: 1`" if place.wanted == "r2d2c" else None
        message = f"{where} has no `{place.wanted}`"
        sink.report("E151", place.span, message, f"`{place.wanted}` is missing", fix=fix)
    elif kind in ("model_type", "dict_type", "model_attributes_type", "list_type"):
        _report_kind(place, "a list" if kind == "list_type" else "a map", sink)
    elif kind == "too_short":
        sink.report("E160", place.span, f"{_where(place.path)} is empty", "expected at least one entry")
    elif kind.startswith("E"):
        said = detail["ctx"]
        message = said["message"]
        if kind in ("E152", "E156", "E160") and place.path:
            message = f"`{place.path[-1]}`: {message}"
        sink.report(kind, place.span, message, said["label"], fix=said["fix"])
    else:
        sink.report("E152", place.span, f"{_where(place.path)}: {detail['msg']}")


def _report_unknown_key(place: _Place, sink: Sink) -> None:
    from r2d2c.syntax.section_models import SECTIONS

    *above, name = place.path
    allowed = list(SECTION_NAMES)
    if above:
        section = next(s for s in SECTIONS if s.name == above[0])
        allowed = list(section.model.model_fields) if section.model else []
    fix = suggest(name, allowed)
    if fix is None:
        owner = next((s for s in SECTIONS if s.model and name in s.model.model_fields), None)
        if owner is not None:
            where = _a(owner.one) if owner.one else f"`{owner.name}`"
            fix = Fix(f"`{name}` is a key of {where}: is it indented right?")
        elif above and name in SECTION_NAMES:
            fix = Fix(f"`{name}` is a section of the spec: is it indented too far?")
    span = place.key.span if place.key else place.span
    listed = ", ".join(f"`{key}`" for key in allowed)
    where = _where(tuple(above))
    sink.report(
        "E150", span, f"{where} has no key `{name}`", "unknown key", notes=[f"the keys are {listed}"], fix=fix
    )


def _report_kind(place: _Place, expected: str, sink: Sink) -> None:
    node = place.node
    glued = isinstance(node, YScalar) and node.style == "" and re.match(r"[A-Za-z_]\w*:\S", node.value)
    if glued:
        report_missing_space(node.span.source, node.span.start + node.span.text.index(":"), sink)
        return
    where = _where(place.path)
    if isinstance(node, YScalar) and node.is_empty:
        fix = "give it entries, indented below it, or remove the key"
        sink.report("E160", place.span, f"{where} is empty", f"expected {expected}", fix=fix)
        return
    sink.report(
        "E152", place.span, f"{where} must be {expected}, not {describe(node)}", f"expected {expected}"
    )


def _where(path: tuple[str, ...]) -> str:
    """``the spec``, ``task `encode` ``, `` `train` ``."""
    from r2d2c.syntax.section_models import SECTIONS

    if not path:
        return "the spec"
    section = next((s for s in SECTIONS if s.name == path[0]), None)
    if section is not None and section.one and len(path) == 2:
        return f"{section.one} `{path[1]}`"
    return f"`{'.'.join(path)}`"


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
