"""The stages in order: from a file or a text to a typed, verified graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from r2d2c.credit.record import CreditRule
from r2d2c.diagnostics import CompileError, Diagnostic, Sink
from r2d2c.graph import Graph
from r2d2c.opkinds import OpKind
from r2d2c.ops.record import Op
from r2d2c.ops.registry import Ops
from r2d2c.pause import paused_collector
from r2d2c.source import Source
from r2d2c.syntax.parse import parse
from r2d2c.syntax.spec import BlockSyntax, Spec


@dataclass(frozen=True)
class Checked:
    """A spec that passed every check: its syntax, its typed graph, and the warnings and notes about it."""

    spec: Spec
    graph: Graph
    ops: Ops
    diagnostics: tuple[Diagnostic, ...] = ()
    folder: Path = field(default_factory=Path)
    settings: tuple[str, ...] = ()
    rules: tuple[CreditRule, ...] = ()

    def __repr__(self) -> str:
        return f"<Checked {self.name}: {len(self.graph.tasks)} tasks>"

    def _repr_html_(self) -> str:
        from r2d2c.html import model_html

        return model_html(self, "spec")

    @property
    def name(self) -> str:
        return self.graph.name

    def __deepcopy__(self, memo: object) -> Checked:
        return self  # it is frozen

    def __reduce__(self) -> tuple[object, ...]:
        # Records hold functions, which do not pickle: a copy in another process checks the text again.
        source, extra = self.spec.source, self.ops.extra
        return _check_again, (
            source.name,
            source.text,
            self.folder,
            self.settings,
            extra,
            self.rules,
            self.graph.seed,
        )


def check_source(
    source: Source,
    *,
    folder: Path | None = None,
    settings: Sequence[str] = (),
    ops: Iterable[Op | OpKind] = (),
    rules: Iterable[CreditRule] = (),
    seed: int | None = None,
    warnings_are_errors: bool = False,
) -> Checked:
    """Run every stage that needs no torch. Raises `CompileError` at the end of the first stage with errors."""
    sink = Sink(warnings_are_errors=warnings_are_errors)
    with paused_collector():
        spec = parse(source, sink, settings)
        sink.stop_on_errors()
        assert spec is not None
        return check_spec(spec, sink, Ops(ops), tuple(rules), folder or Path(), tuple(settings), seed)


def check_spec(
    spec: Spec,
    sink: Sink,
    ops: Ops,
    rules: tuple[CreditRule, ...],
    folder: Path,
    settings: tuple[str, ...],
    seed: int | None,
) -> Checked:
    from r2d2c.credit.registry import rules as credit_rules
    from r2d2c.infer import infer
    from r2d2c.passes.forms import choose_forms
    from r2d2c.passes.legality import check_after
    from r2d2c.passes.rewrite import rewrite, spare_integers
    from r2d2c.resolve.imports import load_imports
    from r2d2c.resolve.model import resolve
    from r2d2c.verify import verify

    imported: list[BlockSyntax] = load_imports(spec, folder, sink)
    sink.stop_on_errors()
    if seed is None:
        seed = spec.document.train.seed if spec.document.train and spec.document.train.seed is not None else 0
    graph = resolve(spec, ops, imported, sink, seed, credit_rules(rules))
    sink.stop_on_errors()
    graph = infer(check_after(graph, ops), ops, sink)
    sink.stop_on_errors()
    graph = choose_forms(graph, ops, sink)
    sink.stop_on_errors()
    graph = spare_integers(graph, spec.override is not None)
    graph = rewrite(check_after(graph, ops), ops, credit_rules(rules), sink)
    sink.stop_on_errors()
    graph = verify(check_after(graph, ops), spec, ops, rules, sink)
    sink.stop_on_errors()
    return Checked(spec, graph, ops, tuple(sink.diagnostics), folder, settings, rules)


def _check_again(
    name: str,
    text: str,
    folder: Path,
    settings: tuple[str, ...],
    ops: tuple[Op, ...],
    rules: tuple[CreditRule, ...],
    seed: int,
) -> Checked:
    return check_source(Source(name, text), folder=folder, settings=settings, ops=ops, rules=rules, seed=seed)


def read(path: Path, shown: str | None = None) -> Source:
    """The source of a file. Raises `CompileError` if it cannot be read as text."""
    from r2d2c.syntax.yaml_tree import read_source

    sink = Sink()
    source = read_source(path, sink, shown)
    sink.stop_on_errors()
    if source is None:
        raise CompileError(sink.diagnostics)
    return source


__all__ = ["Checked", "check_source", "check_spec", "read"]
