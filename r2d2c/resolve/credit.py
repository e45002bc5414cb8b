"""Credit as it is written: the options of a rule bound to its record, and the behaviors that options name.

A behavior (``predictor=guess(64)``) becomes a region of its own for every link, which a call in the main region
applies to what the rule hands over, so that it is typed like everything else. Nothing reads that call: only the
rule, when it is attached, uses the region.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from r2d2c.credit.options import Option, options, usage
from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import Fix, suggest
from r2d2c.graph import Credit, Link, Value
from r2d2c.resolve.bind import plural
from r2d2c.resolve.evaluate import Evaluator
from r2d2c.resolve.program import Program
from r2d2c.resolve.region import RegionBuilder
from r2d2c.resolve.results import FAILED, Failed, Placed, kind_of
from r2d2c.resolve.scopes import ModelScopes
from r2d2c.source import Span
from r2d2c.syntax.ast import Expr, Syntax
from r2d2c.types import Dim

_BAD: Any = object()


@dataclass(frozen=True, slots=True, eq=False)
class Behavior:
    """The value of an option that names what to apply, before there is a link: the expression at ``index``."""

    syntax: Syntax
    index: int


# -- options


class CreditBinder:
    """Makes `Credit`s of expressions. Ports are the names in `inputs:` and `targets:`."""

    def __init__(
        self,
        program: Program,
        rules: Mapping[str, CreditRule],
        inputs: Sequence[str],
        targets: Sequence[str],
    ) -> None:
        self.program, self.sink, self.rules = program, program.sink, rules
        self.ports: dict[str, tuple[str, ...]] = {
            "target": tuple(targets),
            "input": (*inputs, *targets),
        }

    def bind(self, syntax: Syntax | None) -> Credit | None:
        """The credit that an expression says; None if there is none, or after a diagnostic."""
        if syntax is None:
            return None
        span, root = syntax.span(syntax.root), syntax.nodes[syntax.root]
        called = root.kind == "call" and root.value != "piped"
        name = syntax.nodes[root.args[0]] if called else root
        if name.kind != "name":
            self.sink.report("E412", span, "a credit is the name of a rule, such as `backprop` or `local`")
            return None
        rule = self.rules.get(str(name.value))
        if rule is None:
            return Credit(str(name.value), (), span)  # `verify` says that there is no such rule
        placed = self._matched(rule, syntax, root if called else None)
        values = [(option.name, self._value(rule, option, syntax, index)) for option, index in placed]
        return Credit(rule.name, tuple((key, value) for key, value in values if value is not _BAD), span)

    def _matched(self, rule: CreditRule, syntax: Syntax, call: Expr | None) -> list[tuple[Option, int]]:
        """The options that are given, each with the place of its value."""
        known = options(rule)
        by_name = {option.name: option for option in known}
        found: dict[str, int] = {}
        positional = call.args[1:] if call is not None else ()
        if len(positional) > len(known):
            span = syntax.span(positional[len(known)])
            most = f"at most {plural(len(known), 'option')}" if known else "no options"
            self.sink.report("E431", span, f"the credit `{rule.name}` takes {most}", usage(rule))
        found.update((option.name, index) for option, index in zip(known, positional, strict=False))
        for name, index in call.keywords if call is not None else ():
            if name == "":
                message = "an option without a name follows one with a name"
                self.sink.report("E431", syntax.span(index), message, usage(rule))
                continue
            span = _keyword(syntax, name, index)
            if name not in by_name:
                message = f"the credit `{rule.name}` has no option `{name}`"
                self.sink.report("E431", span, message, usage(rule), fix=suggest(name, by_name))
            elif name in found:
                first = syntax.span(found[name])
                message = f"`{name}` is given twice to the credit `{rule.name}`"
                self.sink.report("E437", span, message, usage(rule), also=[(first, "first here")])
            else:
                found[name] = index
        missing = [f"`{option.name}`" for option in known if option.required and option.name not in found]
        if missing:
            message = f"the credit `{rule.name}` needs {' and '.join(missing)}"
            self.sink.report("E438", syntax.span(syntax.root), message, usage(rule))
        return [(by_name[name], index) for name, index in found.items()]

    def _value(self, rule: CreditRule, option: Option, syntax: Syntax, index: int) -> Any:
        node, placed = syntax.nodes[index], Placed(None, syntax.span(index))
        name = str(node.value) if node.kind == "name" else None
        if name == "none" and option.default is None and "none" not in option.choices:
            return None
        if name is not None and name in option.choices:
            return name
        if option.kind == "behavior":
            if head_of(syntax, index) is not None:
                return Behavior(syntax, index)
        elif option.kind in self.ports:
            ports = self.ports[option.kind]
            if name in ports:
                return name
            if name is not None:
                self._no_port(rule, option, name, placed.span)
                return _BAD
        elif option.kind in ("bool", "text") and node.kind == {"bool": "bool", "text": "string"}[option.kind]:
            return node.value
        elif option.kind in ("float", "int"):
            return self._number(rule, option, syntax, index)
        return self._wrong(rule, option, placed)

    def _number(self, rule: CreditRule, option: Option, syntax: Syntax, index: int) -> Any:
        scratch = Evaluator(RegionBuilder(self.program, "credit", "credit", "credit"), syntax)
        value, span = scratch.run(_first(syntax, index), index), syntax.span(index)
        if isinstance(value, Failed):
            return _BAD
        wanted = (int, float) if option.kind == "float" else (int,)
        if not isinstance(value, wanted) or isinstance(value, (bool, Dim)):
            return self._wrong(rule, option, Placed(value, span))
        number = float(value) if option.kind == "float" else int(value)
        low, high = option.minimum, option.maximum
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            message = f"`{option.name}` of the credit `{rule.name}` is {option.values}, not {span.text}"
            self.sink.report("E436", span, message, usage(rule))
            return _BAD
        return number

    def _wrong(self, rule: CreditRule, option: Option, placed: Placed) -> Any:
        text = placed.span.text
        what = f"`{text}`" if placed.value is None or "\n" not in text else kind_of(placed.value)
        fix: Fix | str | None = suggest(text.strip("\"'"), option.choices)
        if fix is None and option.kind == "bool" and text.lower() in ("true", "false"):
            fix = suggest(text.lower(), ("true", "false"))
        message = f"`{option.name}` of the credit `{rule.name}` is {option.values}, not {what}"
        self.sink.report("E435", placed.span, message, usage(rule), fix=fix)
        return _BAD

    def _no_port(self, rule: CreditRule, option: Option, name: str, span: Span) -> None:
        known = (*option.choices, *self.ports[option.kind])
        message = f"`{option.name}` of the credit `{rule.name}` is {option.values}; `{name}` is none"
        notes = [f"there is {', '.join(f'`{port}`' for port in known)}"] if known else []
        self.sink.report("E439", span, message, usage(rule), notes=notes, fix=suggest(name, known))


def _keyword(syntax: Syntax, name: str, index: int) -> Span:
    """Where the name of an option stands whose value is at ``index``."""
    start = syntax.source.text.rfind(name, 0, syntax.nodes[index].start)
    return Span(syntax.source, start, start + len(name)) if start >= 0 else syntax.span(index)


def _parts(node: Expr) -> Iterator[int]:
    yield from (index for index in node.args if index >= 0)
    yield from (index for _, index in node.keywords)


def _first(syntax: Syntax, index: int) -> int:
    """The first node of the expression that ends with ``index``: they stand side by side."""
    todo, first = [index], index
    while todo:
        at = todo.pop()
        first = min(first, at)
        todo += _parts(syntax.nodes[at])
    return first


def head_of(syntax: Syntax, index: int) -> int | None:
    """What is applied first: the leftmost name or call of a pipe; None if the expression cannot be applied."""
    node = syntax.nodes[index]
    while node.kind == "call" and node.value == "piped":
        index = node.args[1]
        node = syntax.nodes[index]
    function = syntax.nodes[node.args[0]] if node.kind == "call" else node
    return index if function.kind == "name" else None


# -- behaviors


def applied(behavior: Behavior, names: Sequence[str]) -> Syntax:
    """The expression with values of these names piped into it: ``a, b |> guess(64)``."""
    return applied_to(behavior.syntax, behavior.index, names)


def applied_to(syntax: Syntax, last: int, names: Sequence[str]) -> Syntax:
    """As `applied`, for the expression that ends with ``last``."""
    first, head = _first(syntax, last), head_of(syntax, last)
    assert head is not None
    place = syntax.nodes[head]
    nodes = [Expr("name", place.start, place.end, name) for name in names]
    values = tuple(range(len(names)))
    moved = {-1: -1}
    for index in range(first, last + 1):
        node = syntax.nodes[index]
        args = tuple(moved[arg] for arg in node.args)
        keywords = tuple((name, moved[arg]) for name, arg in node.keywords)
        value = node.value
        if index == head and node.kind == "call":
            args, value = (args[0], *values, *args[1:]), "piped"
        nodes.append(Expr(node.kind, node.start, node.end, value, args, keywords))
        if index == head and node.kind == "name":
            nodes.append(Expr("call", node.start, node.end, "piped", (len(nodes) - 1, *values)))
        moved[index] = len(nodes) - 1
    return Syntax(syntax.source, nodes, (), len(nodes) - 1)


def build_behaviors(
    links: Sequence[Link], rules: Mapping[str, CreditRule], scopes: ModelScopes
) -> Iterator[Link]:
    """The links, with the name of a region in place of every behavior among their options."""
    wanted = Counter(_place(link, option) for link in links for option in _behaviors(link))
    for link in links:
        args = []
        for name, value in link.credit.args:
            if isinstance(value, Behavior):
                place = _place(link, name)
                if wanted[place] > 1:
                    place = f"{place}.{link.target}"
                option = next(o for o in options(rules[link.credit.rule]) if o.name == name)
                value = _build(scopes, link, option, value, scopes.main.fresh(place))
            args.append((name, value))
        yield replace(link, credit=replace(link.credit, args=tuple(args)))


def _behaviors(link: Link) -> Iterator[str]:
    yield from (name for name, value in link.credit.args if isinstance(value, Behavior))


def _place(link: Link, option: str) -> str:
    return f"{link.source_task}.{link.credit.rule}.{option}"


def _build(scopes: ModelScopes, link: Link, option: Option, behavior: Behavior, name: str) -> str:
    """Make the region of a behavior, and its call in the main region."""
    span = behavior.syntax.span(behavior.index)
    region = scopes.credit(name, span)
    given = dict(_handed(scopes, link, option))
    if FAILED in given.values():
        return name
    # No name that could be written: a behavior sees what it is applied to, and nothing else of its link.
    for port in given:
        region.names[f"({port})"] = region.port(port, span)
    evaluator = Evaluator(region, applied(behavior, [f"({port})" for port in given]))
    evaluator.place = region.place
    root = evaluator.syntax.root
    result = evaluator.as_value(Placed(evaluator.expression(root, "out"), span))
    if result is not FAILED:
        region.expose("out", result)
        scopes.main.program.regions[name] = region.finish()
        scopes.main.add(f"{name}()", "call", tuple(given.values()), {"region": name}, ("out",), span)
    return name


def _handed(scopes: ModelScopes, link: Link, option: Option) -> Iterator[tuple[str, Any]]:
    """What a behavior is applied to, by the names of its ports."""
    for taken in option.takes:
        if taken == "source":
            yield taken, link.source
        elif taken == "target":
            upper = scopes.builders[link.target]
            if upper.outputs:
                yield taken, Value(upper.name, 0)
            else:
                what = f"`{option.name}` of the credit `{link.credit.rule}`"
                message = f"`{link.target}` gives no value that {what} could be applied to"
                fix = f"read a value of `{link.target}` in a distance, a task or an output"
                scopes.main.program.sink.report("E472", link.origin or link.credit.origin, message, fix=fix)
                yield taken, FAILED
        else:
            given = link.credit.option(taken.removeprefix("y:"))
            if given is not None:
                yield taken.removeprefix("y:"), scopes.main.port(given)


__all__ = ["Behavior", "CreditBinder", "applied", "build_behaviors"]
