"""The resolved spec: one text that says all, with `--set` applied and every import's blocks inside.

A run's folder keeps it, so that the run depends on no other file. A spec without imports and settings is
kept as it was written, with its comments.
"""

from __future__ import annotations

import json
import textwrap

from r2d2c.credit.registry import rules
from r2d2c.diagnostics import Sink
from r2d2c.driver import Checked
from r2d2c.resolve.imports import load_imports
from r2d2c.source import Source
from r2d2c.syntax.override import is_credit, overridden, overriding
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar, YSeq
from r2d2c.syntax.yaml_tree import compose


def resolved_text(checked: Checked) -> str:
    """The text of a resolved spec; it compiles to the same model in any folder."""
    spec = checked.spec
    if not checked.settings and not spec.imports:
        return spec.source.text
    tree = spec.document.node
    assert isinstance(tree, YMap)
    credit = overriding(checked.settings)
    if credit is not None:
        tree = overridden(tree, credit, _feeds(checked))
    blocks = _imported(checked)
    lines = [f"# Resolved from {spec.source.name.rpartition('/')[2]}"]
    lines += [f"# with {_option(text)}" for text in checked.settings]
    own = tree.get("blocks")
    for key, value in tree:
        if key.value == "imports":
            if blocks and own is None:
                lines += _entry("blocks", YMap(value.span, tuple(blocks)), 0)
        elif key.value == "blocks" and isinstance(value, YMap):
            lines += _entry("blocks", YMap(value.span, (*blocks, *value.entries)), 0)
        else:
            lines += _entry(_scalar_text(key, 0)[0], value, 0)
    return "\n".join(lines) + "\n"


def _option(setting: str) -> str:
    text = json.dumps(setting, ensure_ascii=False)
    return setting.replace("\n", " ") if is_credit(setting) else f"--set {text}"


def _feeds(checked: Checked) -> bool:
    """Whether the rule that every link has takes `feed`."""
    known = rules(checked.rules)
    return all(known[link.credit.rule].takes_feed for link in checked.graph.links)


def _imported(checked: Checked) -> list[tuple[YScalar, YNode]]:
    """The entries of all imported blocks, as they stand in their files."""
    found: list[tuple[YScalar, YNode]] = []
    trees: dict[int, YMap | None] = {}
    for block in load_imports(checked.spec, checked.folder, Sink()):
        source: Source = block.span.source
        if id(source) not in trees:
            trees[id(source)] = compose(source, Sink())
        tree = trees[id(source)]
        section = tree.get("blocks") if tree is not None else None
        if isinstance(section, YMap):
            found += [(key, value) for key, value in section if key.span.start == block.span.start]
    return found


def _entry(key: str, value: YNode, indent: int) -> list[str]:
    """``key: value`` as lines."""
    space = " " * indent
    if isinstance(value, YScalar):
        first, *rest = _scalar_text(value, indent + 2)
        return [f"{space}{key}: {first}".rstrip(), *rest]
    if isinstance(value, YMap):
        if not value.entries:
            return [f"{space}{key}: {{}}"]
        lines = [f"{space}{key}:"]
        for name, inner in value:
            lines += _entry(_scalar_text(name, 0)[0], inner, indent + 2)
        return lines
    if not value.items:
        return [f"{space}{key}: []"]
    return [f"{space}{key}:", *_items(value, indent + 2)]


def _items(value: YSeq, indent: int) -> list[str]:
    lines: list[str] = []
    space = " " * indent
    for item in value:
        if isinstance(item, YScalar):
            first, *rest = _scalar_text(item, indent + 2)
            lines += [f"{space}- {first}".rstrip(), *rest]
        elif isinstance(item, YSeq):
            lines += [f"{space}-", *_items(item, indent + 2)] if item.items else [f"{space}- []"]
        elif not item.entries:
            lines.append(f"{space}- {{}}")
        else:
            lines.append(f"{space}-")
            for name, inner in item:
                lines += _entry(_scalar_text(name, 0)[0], inner, indent + 2)
    return lines


def _scalar_text(scalar: YScalar, indent: int) -> list[str]:
    """A scalar as it may stand in a block: its first line, and for `|` and `>` those below."""
    if scalar.style in ("|", ">"):
        raw = scalar.value if scalar.style == "|" else textwrap.dedent(scalar.content.text)
        lines = raw.rstrip("\n").split("\n")
        first = next((line for line in lines if line.strip()), "")
        head = f"{scalar.style}2" if first.startswith(" ") else scalar.style
        return [head, *(f"{' ' * indent}{line}" if line.strip() else "" for line in lines)]
    if scalar.style == "":
        return [scalar.value]
    if scalar.has_escapes or "\n" in scalar.value:
        return [json.dumps(scalar.value, ensure_ascii=False)]
    return [f"{scalar.style}{scalar.value}{scalar.style}"]
