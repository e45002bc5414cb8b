"""What pydantic finds wrong with a section, as diagnostics: the place in the file, the message and the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from r2d2c.diagnostics import Fix, Sink, suggest
from r2d2c.source import Span
from r2d2c.syntax.yaml_errors import report_missing_space
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar, YSeq, describe


def report_invalid(tree: YMap, errors: list[Any], names: tuple[str, ...], sink: Sink) -> None:
    """A diagnostic for every error of pydantic, in the order of the file. ``names``: the sections of a spec."""
    details = [(_locate(tree, e["loc"]), e) for e in errors]
    details.sort(key=lambda d: (d[0].span.source is not tree.span.source, d[0].span.start))
    misspelled = _misspelled(details)
    for place, detail in details:
        if detail["type"] != "missing" or (place.path, place.wanted) not in misspelled:
            _report(place, detail, names, sink)


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


def _report(place: _Place, detail: Any, names: tuple[str, ...], sink: Sink) -> None:
    kind: str = detail["type"]
    if kind == "extra_forbidden":
        _report_unknown_key(place, names, sink)
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


def _report_unknown_key(place: _Place, names: tuple[str, ...], sink: Sink) -> None:
    from r2d2c.syntax.section_models import SECTIONS

    *above, name = place.path
    allowed = list(names)
    if above:
        section = next(s for s in SECTIONS if s.name == above[0])
        allowed = list(section.model.model_fields) if section.model else []
    fix = suggest(name, allowed)
    if fix is None:
        owner = next((s for s in SECTIONS if s.model and name in s.model.model_fields), None)
        if owner is not None:
            where = _a(owner.one) if owner.one else f"`{owner.name}`"
            fix = Fix(f"`{name}` is a key of {where}: is it indented right?")
        elif above and name in names:
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
