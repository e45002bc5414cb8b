"""What a spec says of an op graph's growth: ``grow: {every: epochs(1), add: 8, prune: 4}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from r2d2c.diagnostics import suggest
from r2d2c.growth import FUNCTIONS, OPERATORS, SCORES, Every, Formula, Growing, Preference, Unit

if TYPE_CHECKING:
    from r2d2c.resolve.op_graphs import Reader
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Syntax

UNITS: tuple[str, ...] = get_args(Unit)
PREFERENCES: tuple[str, ...] = get_args(Preference)


def read_growing(reader: Reader, first: int, depth: int | None) -> Growing | None:
    """How an op graph grows; None if it does not, or after a diagnostic. first: how many ops it begins with."""
    given = reader.syntax.grow
    if given is None:
        return None
    every = _every(reader, given.get("every"))
    add, prune = (reader._size(key, given.get(key), 0) for key in ("add", "prune"))
    epochs = reader._size("epochs", given.get("epochs"), 1) or None
    by = _formula(reader, given["by"]) if "by" in given else "effect"
    prefer = _prefer(reader, given.get("prefer"))
    _check_use(reader, add, prune, first)
    if every is None or by is None:
        return None
    span = reader.syntax.span
    return Growing(every, add, prune, by, reader.syntax.whole, prefer, depth, epochs, span)


def _every(reader: Reader, syntax: Syntax | None) -> Every | None:
    if syntax is None:
        return None  # the schema has said so
    root = syntax.nodes[syntax.root]
    head = syntax.nodes[root.args[0]] if root.kind == "call" else root
    name = str(head.value) if head.kind == "name" else ""
    count = syntax.nodes[root.args[1]] if root.kind == "call" and len(root.args) == 2 else None
    number = count.value if count is not None and count.kind == "number" else None
    if name in UNITS and not root.keywords and isinstance(number, int) and number > 0:
        return Every(name, int(number))  # type: ignore[arg-type]
    span = syntax.span(syntax.root)
    forms = "`epochs(1)`, `steps(200)` or `plateau(3)`"
    message = f"`every` of `{reader.syntax.name}` is {forms}, not `{span.text}`"
    bare = root.value if root.kind == "number" else number
    count_of = int(bare) if isinstance(bare, int) and bare > 0 else 1
    fix = f"write `{_unit(name) if root.kind != 'number' else 'steps'}({count_of})`"
    reader.sink.report("E350", span, message, fix=fix)
    return None


def _unit(name: str) -> str:
    """The unit that was probably meant."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, UNITS, 1, 0.5)), "epochs")


def _prefer(reader: Reader, syntax: Syntax | None) -> Preference:
    if syntax is None:
        return "any"
    root, span = syntax.nodes[syntax.root], syntax.span(syntax.root)
    name = str(root.value) if root.kind == "name" else ""
    if name not in PREFERENCES:
        known = ", ".join(f"`{one}`" for one in PREFERENCES)
        message = f"`prefer` of `{reader.syntax.name}` is one of {known}, not `{span.text}`"
        reader.sink.report("E354", span, message, fix=suggest(span.text, PREFERENCES))
        return "any"
    return name  # type: ignore[return-value]


def _check_use(reader: Reader, add: int, prune: int, first: int) -> None:
    """Refuse growth that does nothing, and the pruning of all there is."""
    given, name = reader.syntax.grow or {}, reader.syntax.name

    def place(key: str) -> Span:
        return given[key].span(given[key].root)

    if not {"add", "prune"} & given.keys():
        message = f"`{name}` grows, and neither `add` nor `prune` says how"
        reader.sink.report("E351", reader.syntax.span, message, fix="write `add: 8`, say")
        return
    for key, needs, there in (("by", "prune", prune), ("prefer", "add", add)):
        if key in given and not there:
            message = f"`{key}` of `{name}` is for `{needs}`, and nothing is {'pruned' if prune == there else 'added'}"
            reader.sink.report("E351", place(key), message, fix=f"remove `{key}`, or write `{needs}: 4`")
    if reader.syntax.whole and not prune:
        message = f"`whole` of `{name}` is for `prune`, and nothing is pruned"
        reader.sink.report("E351", reader.syntax.span, message, fix="remove `whole`, or write `prune: 4`")
    if prune and prune >= first:
        begins = f"it begins with {first}" if first else "it begins with none"
        message = f"the first round of growth would prune {prune} ops of `{name}`, and {begins}"
        fix = f"prune fewer, or begin with more: `start: {2 * prune}`"
        reader.sink.report("E352", place("prune"), message, fix=fix)


def _formula(reader: Reader, syntax: Syntax) -> Formula | None:
    """What an op is worth; None after a diagnostic."""
    found: list[Formula | None] = []
    good = True
    callees = {node.args[0] for node in syntax.nodes if node.kind == "call"}
    for index, node in enumerate(syntax.nodes):
        args = [found[place] for place in node.args]
        made: Formula | None = None
        message = fix = None
        if node.kind == "number" and isinstance(node.value, int | float):
            made = float(node.value)
        elif node.kind == "name":
            name = str(node.value)
            if index in callees:
                made = name
                if name not in FUNCTIONS:
                    message = f"`by` of `{reader.syntax.name}` calls `{name}`"
                    fix = suggest(name, FUNCTIONS) or f"it may call {_shown(FUNCTIONS)}"
            elif name in SCORES:
                made = name
            else:
                message = f"`by` of `{reader.syntax.name}` reads `{name}`, which is no score of an op"
                fix = suggest(name, SCORES) or f"the scores are {_shown(SCORES)}"
        elif node.kind == "unary" and node.value == "-":
            made = ("-", 0.0, *args)
        elif node.kind == "unary" and node.value == "+":
            made = args[0]
        elif node.kind == "binary" and node.value in OPERATORS:
            made = (node.value, *args)
        elif node.kind == "call" and not node.keywords:
            made = (args[0], *args[1:])
            if args[0] in FUNCTIONS and len(args) - 1 != FUNCTIONS[str(args[0])][1]:
                takes = _plural(FUNCTIONS[str(args[0])][1])
                message = (
                    f"`{args[0]}` takes {takes}, and `by` of `{reader.syntax.name}` gives it {len(args) - 1}"
                )
        else:
            message = f"`by` of `{reader.syntax.name}` is a formula of scores, and this is `{syntax.span(index).text}`"
            fix = f"the scores are {_shown(SCORES)}"
        if message is not None and good:
            reader.sink.report("E353", syntax.span(index), message, fix=fix)
            good = False
        found.append(made)
    return found[syntax.root] if good else None


def _plural(count: int) -> str:
    return f"{count} argument" + "s" * (count != 1)


def _shown(names: object) -> str:
    return ", ".join(f"`{name}`" for name in names)  # type: ignore[attr-defined]
