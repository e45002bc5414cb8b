"""What a spec says of an op graph's growth: ``grow: {every: epochs(1), add: 8, prune: 4}``."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from r2d2c.diagnostics import suggest
from r2d2c.formulas import Formula, reads
from r2d2c.growth import SCORES, Every, Growing, Preference, Unit
from r2d2c.resolve.formulas import read_formula
from r2d2c.syntax.spec import GROW_SIZES

if TYPE_CHECKING:
    from r2d2c.resolve.op_graphs import Reader
    from r2d2c.source import Span
    from r2d2c.syntax.ast import Syntax

UNITS: tuple[str, ...] = get_args(Unit)
PREFERENCES: tuple[str, ...] = get_args(Preference)
# What a round may do, with the word for it; and which keys need one of these.
DOES = (("add", "added"), ("prune", "pruned"), ("split", "split"), ("merge", "merged"))
CHANGES = "`add`, `prune`, `split` and `merge`"
NEEDS = (
    ("by", ("prune", "split")),
    ("below", ("prune",)),
    ("compensate", ("prune",)),
    ("whole", ("prune",)),
    ("prefer", ("add",)),
    ("wire", ("add",)),
    ("settle", ("prune", "merge")),
)


def read_growing(reader: Reader, first: int, depth: int | None) -> Growing | None:
    """How an op graph grows; None if it does not, or after a diagnostic. first: how many ops it begins with."""
    given = reader.syntax.grow
    if given is None:
        return None
    name, span = reader.syntax.name, reader.syntax.span
    every = _every(reader, given.get("every"))
    sizes = {key: reader._size(key, given.get(key), int(key in ("depth", "epochs"))) for key in GROW_SIZES}
    sizes["depth"] = depth or 0
    by = wire = None
    if "by" in given:
        by = _scores(reader, given["by"])
    if "wire" in given:
        from r2d2c.places import QUANTITIES, says_whether

        names, what = QUANTITIES, f"`wire` of `{name}`"
        wire = read_formula(
            reader.sink, given["wire"], names, code="E354", what=what, quantity="quantity of two places"
        )
        if wire is not None and not says_whether(wire):
            span_of = given["wire"].span(given["wire"].root)
            message = f"{what} says whether an op may read a column, and `{span_of.text}` is a number"
            reader.sink.report("E354", span_of, message, fix="compare: `plane <= 1`")
            wire = None
    prefer = _prefer(reader, given.get("prefer"))
    below, reach = _number(reader, "below"), _number(reader, "reach")
    frozen = _frozen(reader)
    _check_use(reader, sizes, first)
    if every is None or ("by" in given and by is None) or ("wire" in given and wire is None):
        return None
    return Growing(
        every,
        sizes["add"],
        sizes["prune"],
        sizes["split"],
        sizes["merge"],
        "effect" if by is None else by,
        below,
        "compensate" in reader.syntax.flags,
        "refit" in reader.syntax.flags,
        "whole" in reader.syntax.flags,
        prefer,
        1.0 if reach is None else reach,
        wire,
        depth,
        sizes["epochs"] or None,
        sizes["settle"],
        frozen,
        span,
    )


def _scores(reader: Reader, syntax: Syntax) -> Formula | None:
    """What an op is worth; None after a diagnostic."""
    what = f"`by` of `{reader.syntax.name}`"
    found = read_formula(reader.sink, syntax, SCORES, code="E353", what=what, quantity="score of an op")
    if found is not None and "length" in reads(found) and "places" not in reader.syntax.options:
        message = f"{what} reads `length`, and the columns of `{reader.syntax.name}` have no places"
        fix = "say where they are: `places: NAME`, of the section `places`"
        reader.sink.report("E353", syntax.span(syntax.root), message, fix=fix)
        return None
    return found


def _number(reader: Reader, key: str) -> float | None:
    """A positive number of the spec; None where it is not there, or after a diagnostic."""
    syntax = (reader.syntax.grow or {}).get(key)
    if syntax is None:
        return None
    root = syntax.nodes[syntax.root]
    if root.kind == "number" and isinstance(root.value, int | float) and root.value > 0:
        return float(root.value)
    span = syntax.span(syntax.root)
    message = f"`{key}` of `{reader.syntax.name}` is a number above 0, not `{span.text}`"
    reader.sink.report("E354", span, message, fix=f"write a number: `{key}: 0.5`")
    return None


def _frozen(reader: Reader) -> tuple[str, ...]:
    """The names of ops that stay as they are, or `all`."""
    found: list[str] = []
    for syntax in reader.syntax.frozen:
        root, span = syntax.nodes[syntax.root], syntax.span(syntax.root)
        if root.kind == "name":
            found.append(str(root.value))
            continue
        message = f"`frozen` of `{reader.syntax.name}` has names of ops, and this is `{span.text}`"
        reader.sink.report("E354", span, message, fix="write names: `frozen: [o1, n17]`, or `[all]`")
    return tuple(found)


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


def _check_use(reader: Reader, sizes: dict[str, int], first: int) -> None:
    """Refuse growth that does nothing, keys that change nothing, and the pruning of all there is."""
    syntax = reader.syntax
    given, name = syntax.grow or {}, syntax.name
    there = {*given, *syntax.flags}

    def place(key: str) -> Span:
        return given[key].span(given[key].root) if key in given else syntax.span

    if not there & {key for key, *_ in DOES}:
        message = f"`{name}` grows, and none of {CHANGES} says how"
        reader.sink.report("E351", syntax.span, message, fix="write `add: 8`, say")
        return
    done = {key for key, _ in DOES if sizes[key]}
    for key, needs in NEEDS:
        if key in there and not any(one in done for one in needs):
            words = " or ".join(f"`{one}`" for one in needs)
            nothing = " or ".join(dict(DOES)[one] for one in needs)
            message = f"`{key}` of `{name}` is for {words}, and nothing is {nothing}"
            reader.sink.report("E351", place(key), message, fix=f"remove `{key}`, or write `{needs[0]}: 4`")
    near = given.get("prefer")
    if "reach" in given and (near is None or near.nodes[near.root].value != "near"):
        message = f"`reach` of `{name}` is for `prefer: near`"
        reader.sink.report("E351", place("reach"), message, fix="remove `reach`, or write `prefer: near`")
    if near is not None and near.nodes[near.root].value == "near" and "places" not in syntax.options:
        _no_places(reader, place("prefer"), "`prefer: near`")
    if "wire" in given and "places" not in syntax.options:
        _no_places(reader, place("wire"), "`wire`")
    if "settle" in given and sizes["epochs"] <= sizes["settle"]:
        message = f"`settle` of `{name}` is a part of its `epochs`, the last {sizes['settle']} of them"
        fix = f"say when growth ends: `epochs: {4 * max(sizes['settle'], 1)}`"
        reader.sink.report("E351", place("settle"), message, fix=fix)
    prune = sizes["prune"]
    if prune and prune >= first and "below" not in given:
        begins = f"it begins with {first}" if first else "it begins with none"
        message = f"the first round of growth would prune {prune} ops of `{name}`, and {begins}"
        fix = f"prune fewer, or begin with more: `start: {2 * prune}`"
        reader.sink.report("E352", place("prune"), message, fix=fix)


def _no_places(reader: Reader, span: Span, what: str) -> None:
    name = reader.syntax.name
    message = f"{what} of `{name}` needs places, and its columns have none"
    reader.sink.report(
        "E351", span, message, fix="say where they are: `places: NAME`, of the section `places`"
    )
