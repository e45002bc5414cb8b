"""`--credit RULE`: one credit for every link, whatever the spec says of each.

It is kept among the settings of a spec, beside those of ``--set``, so that whatever checks the spec again (a
run that is resumed, another process) finds it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from r2d2c.source import Source, Span
from r2d2c.syntax.yaml_nodes import YMap, YNode, YScalar

OPTION = "--credit"


def with_credit(settings: Sequence[str] | None, credit: str | None) -> tuple[str, ...]:
    """Settings with the credit of every link among them."""
    return (*(settings or ()), *([f"{OPTION} {credit}"] if credit is not None else []))


def overriding(settings: Iterable[str]) -> YScalar | None:
    """The credit among the settings; of several the last."""
    found = None
    for setting in settings:
        if is_credit(setting):
            source = Source(OPTION, setting.removeprefix(OPTION).strip())
            span = Span(source, 0, len(source.text))
            # Where it is written into a spec, YAML must not take a part of it for its own.
            style = "|" if any(mark in source.text for mark in ("#", ": ", "\n")) else ""
            found = YScalar(span, source.text, span, style)
    return found


def is_credit(setting: str) -> bool:
    return setting == OPTION or setting.startswith(f"{OPTION} ")


def overridden(tree: YMap, credit: YScalar, feeds: bool) -> YMap:
    """The tree of a spec that says of itself what ``credit`` says of every link.

    feeds: whether `feed` may stay, because the rule takes it.
    """
    entries: list[tuple[YScalar, YNode]] = []
    for key, value in tree:
        if key.value == "links" and isinstance(value, YMap):
            links = tuple((link, _bare(entry, feeds)) for link, entry in value)
            kept = tuple((link, entry) for link, entry in links if not isinstance(entry, YMap) or len(entry))
            if kept:
                entries.append((key, YMap(value.span, kept)))
        elif key.value != "credit":
            entries.append((key, value))
    return YMap(tree.span, (*entries, (YScalar(credit.span, "credit", credit.span), credit)))


def _bare(entry: YNode, feeds: bool) -> YNode:
    if not isinstance(entry, YMap):
        return entry
    dropped = ("credit",) if feeds else ("credit", "feed")
    return YMap(entry.span, tuple((key, value) for key, value in entry if key.value not in dropped))
