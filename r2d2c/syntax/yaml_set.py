"""`--set key=value`: a tree with one value replaced."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from r2d2c.diagnostics import Sink, suggest
from r2d2c.source import Source, Span
from r2d2c.syntax.yaml_compose import compose_node
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar, YSeq, describe


@dataclass(frozen=True, slots=True)
class _Setting:
    """The parts of ``key=value``; ``at`` is where the unread rest of the key starts."""

    source: Source
    key: str
    value: YNode
    sections: tuple[str, ...]
    dotted: tuple[str, ...]
    sink: Sink

    def span(self, start: int, end: int) -> Span:
        return Span(self.source, start, end)

    def in_dotted(self, at: int) -> bool:
        """Whether all of the key from here on is one name, with its dots."""
        return _squeezed(self.key[: max(0, at - 1)]) in self.dotted


def apply_set(
    tree: YMap, text: str, sink: Sink, sections: Iterable[str] = (), dotted: Iterable[str] = ()
) -> YMap | None:
    """The tree with ``text`` (``dims.H=128``) applied to it, or None after a diagnostic.

    A key is a path of names with dots between; a name that has dots itself (a link) is matched against the
    keys that exist, or quoted. ``sections`` are the maps that may be added when absent (`train`, `train.sizes`);
    ``dotted`` the maps whose keys are names with dots, which may be added too.
    """
    source = Source(f"--set {text}", text)
    equals = _equals(text)
    if equals is None or not text[:equals].strip() or not text[equals + 1 :].strip():
        sink.report(
            "E026",
            Span(source, 0, max(len(text), 1)),
            "expected `key=value`",
            fix="for example `--set dims.H=128`",
        )
        return None
    value = compose_node(source, sink, start=equals + 1)
    if value is None:
        return None
    setting = _Setting(source, text[:equals], value, tuple(sections), tuple(dotted), sink)
    new = _replace(tree, 0, setting, top=True)
    return new if isinstance(new, YMap) else None


def _equals(text: str) -> int | None:
    """The first `=` that is not inside quotes or the parentheses of a block's signature."""
    depth, quote = 0, ""
    for at, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'":
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "=" and depth <= 0:
            return at
    return None


def _replace(node: YNode, at: int, setting: _Setting, *, top: bool = False) -> YNode | None:
    if isinstance(node, YMap):
        return _replace_in_map(node, at, setting, top)
    if isinstance(node, YSeq):
        return _replace_in_list(node, at, setting)
    place = setting.span(at, len(setting.key))
    message = f"`{setting.key[: at - 1]}` is {describe(node)}, which has no `{setting.key[at:]}`"
    setting.sink.report("E027", place, message, also=[(node.span, "set here")])
    return None


def _replace_in_list(node: YSeq, at: int, setting: _Setting) -> YNode | None:
    end = _segment_end(setting.key, at)
    text = setting.key[at:end]
    index = int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1
    if not 0 <= index < len(node.items):
        message = f"`{setting.key[: at - 1]}` is a list of {len(node.items)}; `{text}` is none of its items"
        setting.sink.report("E027", setting.span(at, end), message, also=[(node.span, "the list")])
        return None
    new = setting.value
    if end < len(setting.key):
        inner = _replace(node.items[index], end + 1, setting)
        if inner is None:
            return None
        new = inner
    return YSeq(node.span, (*node.items[:index], new, *node.items[index + 1 :]))


def _replace_in_map(node: YMap, at: int, setting: _Setting, top: bool) -> YNode | None:
    found = _longest_key(node, setting.key, at, whole=setting.in_dotted(at))
    if found is None:
        return _add(node, at, setting, top)
    index, end = found
    key, old = node.entries[index]
    if end >= len(setting.key):
        new: YNode | None = setting.value
    elif isinstance(old, YScalar) and old.is_empty:
        new = _replace(YMap(old.span, ()), end + 1, setting)
    else:
        new = _replace(old, end + 1, setting)
    if new is None:
        return None
    return YMap(node.span, (*node.entries[:index], (key, new), *node.entries[index + 1 :]))


def _add(node: YMap, at: int, setting: _Setting, top: bool) -> YNode | None:
    dotted = setting.in_dotted(at)
    end = len(setting.key) if dotted else _segment_end(setting.key, at)
    name = _unquoted(setting.key[at:end])
    span = setting.span(at, end)
    # Where it is written into a spec, a `*` in front must not be a mark of YAML's.
    key = YScalar(span, name, span, '"' if dotted else "")
    if end >= len(setting.key):
        return YMap(node.span, (*node.entries, (key, setting.value)))
    whole = _squeezed(setting.key[:end])
    if whole in setting.sections or setting.in_dotted(end + 1):
        inner = _add(YMap(span, ()), end + 1, setting, top=False)
        return inner and YMap(node.span, (*node.entries, (key, inner)))
    added = [name for name in setting.sections if "." not in name] if top else []
    known = list(dict.fromkeys([*node.keys(), *added]))
    where = f"`{setting.key[: at - 1]}`" if at else "the spec"
    message = f"{where} has no key `{name}` to set something in"
    fix = suggest(name, known)
    notes = [f"it has: {', '.join(f'`{k}`' for k in known)}"] if known and fix is None else []
    setting.sink.report("E027", span, message, fix=fix, notes=notes)
    return None


def _longest_key(node: YMap, path: str, at: int, *, whole: bool = False) -> tuple[int, int] | None:
    """The entry whose key is the longest that the rest of the path starts with, and where that ends.

    whole: only all of the rest will do.
    """
    if path[at : at + 1] in ('"', "'"):
        end = _segment_end(path, at)
        wanted = _squeezed(_unquoted(path[at:end]))
        return next(((i, end) for i, (k, _) in enumerate(node.entries) if _squeezed(k.value) == wanted), None)
    best: tuple[int, int] | None = None
    ends = [i for i in range(at, len(path)) if path[i] == "." and not whole] + [len(path)]
    squeezed = {_squeezed(path[at:end]): end for end in ends}
    for index, (key, _) in enumerate(node.entries):
        end_of = squeezed.get(_squeezed(key.value))
        if end_of is not None and (best is None or end_of > best[1]):
            best = index, end_of
    return best


def _segment_end(path: str, at: int) -> int:
    if path[at : at + 1] in ('"', "'"):
        closing = path.find(path[at], at + 1)
        return len(path) if closing < 0 else closing + 1
    dot = path.find(".", at)
    return len(path) if dot < 0 else dot


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0] else text.strip()


def _squeezed(text: str) -> str:
    """Spaces around `->` and in signatures do not tell keys apart."""
    return re.sub(r"\s+", "", text)
